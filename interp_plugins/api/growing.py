"""One bar over the methods of a call, and results that are seen one by one while the others are at work."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.binding import Bound
from interp_plugins.core.errors import InterpError
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.features import Windows
from interp_plugins.core.progress import Overall, display_handle

_PART = 0.3  # of all windows, where a tolerance ends the work before
_SOON = 2.0  # seconds before a picture grows: what is done sooner is shown once, at the end


def work_of(bound: Bound, xs: Sequence[Tensor]) -> float:
    """About how many forward passes a method takes per sample, a backward pass counted as two."""
    params = bound.params
    count = 1.0
    for name, value in params.items():
        if isinstance(value, int) and (name.startswith("n_") or name.endswith("_samples")):  # a number of passes
            count *= max(1, value)
    sizes = [params.get(name) for name in bound.works.traits.per_dimension]  # of windows, and how far they move
    if sizes and sizes[0] is not None:
        with contextlib.suppress(InterpError, TypeError, ValueError):  # a wrong one is said where it is used
            windows = Windows(xs, sizes[0], sizes[1] if len(sizes) > 1 else None, "shift")
            count = len(windows) * (_PART if params.get("tol") is not None else 1.0)
    elif bound.works.cost.startswith("d + 1 forward"):
        count = max(1.0, sum(x[0].numel() for x in xs))
    return count * (3.0 if bound.works.needs == "gradient" else 1.0)


class Growing:
    """The bar of one call of `explain`, and in a notebook the results so far.

    Args:
        bound: the methods.
        xs: the inputs.
        progress: as for `explain`.
        targets: how many targets are explained.
    """

    def __init__(self, bound: Sequence[Bound], xs: Sequence[Tensor], progress: bool | None, targets: int):
        self._bound, self._targets = bound, targets
        self._bar = Overall([one.title for one in bound], [work_of(one, xs) for one in bound], progress)
        pictures = xs[0].ndim == 4 and xs[0].is_floating_point()  # what needs no words of an adapter to be seen
        wanted = progress is not False and len(bound) > 1 and pictures
        self._show = display_handle() if wanted else None
        self._begin = time.perf_counter()

    def results(self, run: Callable[[Bound], Sequence[Explanation]]) -> Explanations:
        """What all methods give, one after the other, under the bar.

        Args:
            run: a method -> its explanations, one per target.
        """
        found: list[Explanation] = []
        try:
            with self._bar.open():
                for k, one in enumerate(self._bound):
                    with self._bar.piece(k, 1 if one.shares else self._targets):
                        found += run(one)
                    self._add(found)
        finally:
            if self._show is not None:
                self._show("")
        return Explanations(found)

    def _add(self, found: Sequence[Explanation]) -> None:
        """Show what is there so far, but for the last: that is the result."""
        late = time.perf_counter() - self._begin > _SOON
        if self._show is None or not late or len({exp.method for exp in found}) == len(self._bound):
            return
        with torch.no_grad():
            markup: Any = Explanations(found)._repr_html_()
        self._show(markup)
