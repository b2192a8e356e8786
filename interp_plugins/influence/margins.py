"""`Margins`: how far above all others the output of an item's own label stood while it was trained on, by item number.

Their mean over the epochs is the area under the margin (Pleiss et al. 2020, arXiv:2001.10528): an item that others
contradict is held down by their gradients, epoch after epoch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.core.tensors import describe
from interp_plugins.core.truth import class_labels


class Margins:
    """Sums of margins by item number, in float64 on the CPU.

    Attributes:
        totals: item number -> sum of its margins.
        counts: item number -> how often it was seen.

    Example:
        from interp_plugins.influence import Margins

        margins = Margins()
        margins.add([7, 3], torch.tensor([[2.0, 0.5], [1.0, 4.0]]), torch.tensor([0, 0]))
        margins.mean([3, 7]).tolist()  # -> [-3.0, 1.5]
    """

    def __init__(self) -> None:
        self.totals: dict[int, float] = {}
        self.counts: dict[int, int] = {}
        self._said = False

    def __len__(self) -> int:
        return len(self.counts)

    def __repr__(self) -> str:
        seen = max(self.counts.values(), default=0)
        return f"{type(self).__name__}({len(self)} items, each seen up to {seen} times)"

    def add(self, numbers: Sequence[int], outputs: Tensor, labels: Tensor) -> None:
        """Note a training batch.

        Args:
            numbers: the items' numbers.
            outputs: logits (N, C), or (N,) and (N, 1) of one of two classes.
            labels: the class of each, (N,) indices or one-hot (N, C).
        """
        found = margins_of(outputs, labels)
        if found is None or len(found) != len(numbers):
            self.tell(
                f"margins need logits (N, C) and one class per item, and a training batch of {len(numbers)} items "
                f"gave {describe(outputs)} and {describe(labels)}: none is kept of such batches."
            )
            return
        for number, value in zip(numbers, found.tolist(), strict=True):
            if value == value:
                self.totals[number] = self.totals.get(number, 0.0) + value
                self.counts[number] = self.counts.get(number, 0) + 1

    def tell(self, why: str) -> None:
        """Warn, the first time that something is wrong."""
        if not self._said:
            self._said = True
            warnings.warn(f"MarginHistory: {why}", InterpWarning, stacklevel=3)

    def mean(self, numbers: Sequence[int]) -> Tensor:
        """(N,) mean margins of items, float64; NaN for one that was not seen."""
        return torch.tensor(
            [self.totals[i] / self.counts[i] if i in self.counts else float("nan") for i in numbers],
            dtype=torch.double,
        )


def margins_of(outputs: Tensor, labels: Tensor) -> Tensor | None:
    """(N,) logit of the label less the largest other, NaN without a label; None where these are no classes."""
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or not isinstance(labels, Tensor):
        return None
    logits = outputs.detach().as_subclass(Tensor).double().cpu()
    logits = logits[:, None] if logits.ndim == 1 else logits
    if logits.ndim != 2:
        return None
    classes = class_labels(labels.detach().as_subclass(Tensor).cpu(), len(logits))
    if classes is None:
        return None
    if logits.shape[1] == 1:
        logits = torch.cat([-logits / 2, logits / 2], 1)
    known = (classes >= 0) & (classes < logits.shape[1])
    own = classes.clamp(0, logits.shape[1] - 1)[:, None]
    found = logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).amax(1)
    return found.masked_fill(~known, float("nan"))


def as_margins(history: object) -> Margins | None:
    """The margins behind what a user calls the history: `Margins`, or a callback that keeps some.

    Raises:
        InputError: neither.
    """
    found = getattr(history, "margins", history)
    if found is None or isinstance(found, Margins):
        return found
    raise InputError(f"history= is a MarginHistory that was trained with, or its margins; got {describe(history)}.")
