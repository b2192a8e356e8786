"""How far a map is off whose gradients ran in lower precision: some rows go backward in float32 as well.

With k of n rows of a sample drawn at random, v the rows' parts of the map's error, its square is estimated by

    n / k * sum |v_i|^2  +  n (n - 1) / (k (k - 1)) * sum over i != j of v_i . v_j

(Horvitz and Thompson 1952): what the rows' errors share stays in a map, what they do not averages out. One row comes
from each of k parts of the path, since rows near a black baseline have next to no part in a map's error, and others
much.
The draw varies, so the error that is stated is `_MARGIN` times the root.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from interp_plugins.attr.shared.quadrature import Quadrature
from interp_plugins.core.forward import Forward, gradients_of
from interp_plugins.core.layers import Layer
from interp_plugins.core.report import note
from interp_plugins.core.tensors import is_float
from interp_plugins.engine import Lower, asked_precision, lower_of, percent, precision_limit

_ROWS = 6  # of a sample that run in both precisions
_MARGIN = 1.3  # that the estimate is multiplied by, for it to be a bound in more than nine cases of ten
_PAYS = 1.1  # times as fast, or "auto" leaves it

Parts = Callable[[Tensor, Tensor], Sequence[Tensor]]
Run = TypeVar("Run", bound=tuple[Any, ...])


class PartsInBoth:
    """What some rows add to a map, in both precisions.

    Args:
        forward: whose gradients run in lower precision.
        lower: that precision.
        count: rows of each sample.
        parts: what rows of samples (R,), on the device, at steps (R,) add to the maps, (R * m, ...) in several tensors.
        device: of the inputs.
        most: rows of a sample that run in both; more where few of them make up most of a map.
    """

    def __init__(
        self, forward: Forward, lower: Lower, count: int, parts: Parts, device: torch.device, most: int = _ROWS
    ):
        self._most = min(most, count)
        self._forward, self._lower, self._count, self._part, self._device = forward, lower, count, parts, device
        self._parts: list[tuple[int, list[Tensor]]] = []  # per sample, what each row's error adds to its map
        self._samples = torch.linspace(0, forward.n - 1, min(lower.left, forward.n)).long().unique().tolist()
        self._gain = 1.0

    def pay(self) -> bool:
        """Run the rows, and whether "auto" takes the lower precision: whatever else was asked for is taken."""
        if not self._samples:
            return self._lower.on
        generator, passes = torch.Generator().manual_seed(self._count), dict(self._forward.passes)
        for sample in self._samples:
            self._run(sample, one_of_each_part(self._count, self._most, generator))
        self._forward.passes.update(passes)  # the comparison is none of the method's
        self._lower.left = max(0, self._lower.left - len(self._samples))
        if asked_precision() != "auto" or self._lower.settled:
            return True
        self._lower.settled = True
        if self._gain >= _PAYS:
            return True
        self._lower.leave(f"gradients {self._gain:.2g} times as fast")
        self._tell("float32")
        return False

    def hold(self, sums: Sequence[Tensor]) -> bool:
        """State the maps' error, and whether "auto" lets it be; it lets it be where another precision was asked for."""
        for sample, parts in self._parts:
            each = [t.reshape(self._forward.n, -1)[sample : sample + 1].reshape(-1, *t.shape[1:]) for t in sums]
            maps = [self._credited(g, torch.full((len(g),), sample)) for g in each]
            size = float(torch.stack([m.double().norm() for m in maps]).norm())
            error = estimated_error(self._count, parts)
            relative = _MARGIN * error / size if size > 0 else 0.0 if error == 0 else float("inf")
            self._lower.worst = max(self._lower.worst, relative)
        self._parts = []
        limit = precision_limit()
        if asked_precision() == "auto" and not self._lower.worst <= limit:
            self._lower.leave(f"the map may be off by {percent(self._lower.worst)}, and {percent(limit)} are allowed")
            self._tell("float32")
            return False
        self._lower.take("gradients")
        self._tell(self._lower.name)
        return True

    def _tell(self, ran: str) -> None:
        rows = self._lower.rows
        note(precision={"ran": ran, "tried": self._lower.name, "map_error": self._lower.worst, "rows_in_both": rows})

    def _run(self, sample: int, steps: Tensor) -> None:
        rows = torch.full((len(steps),), sample, device=self._device)
        timed = asked_precision() == "auto" and not self._lower.settled
        for _ in range(2 if timed else 1):  # the first time kernels are made
            errors = self._errors(rows, steps)
        self._lower.rows += len(steps)
        self._parts.append((sample, [e.reshape(len(rows), -1).double().cpu() for e in errors]))

    def _errors(self, rows: Tensor, steps: Tensor) -> list[Tensor]:
        """By how much what the rows add to the maps is off; the time that both take is measured."""
        began = time.perf_counter()
        low = self._part(rows, steps)
        middle = time.perf_counter()
        with self._lower.exact():
            exact = self._part(rows, steps)
        self._gain = (time.perf_counter() - middle) / max(middle - began, 1e-9)
        return [a - b for a, b in zip(low, exact, strict=True)]

    def _credited(self, sums: Tensor, who: Tensor) -> Tensor:
        """The maps of samples, of sums of their rows' parts."""
        return sums


class GradientsInBoth(PartsInBoth):
    """Gradients of some rows of a path in both precisions, which have their forward pass in common.

    Args:
        forward: whose gradients run in lower precision.
        lower: that precision.
        at: inputs of rows (R,) at steps (R,).
        rule: nodes and weights.
        wrt: layers; None: the inputs.
        credited: the map's part of gradients (R, ...) of samples (R,); None: the gradients themselves.
        device: of the inputs.
    """

    def __init__(
        self,
        forward: Forward,
        lower: Lower,
        at: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
        rule: Quadrature,
        wrt: Sequence[Layer] | None,
        credited: Callable[[Tensor, Tensor], Tensor] | None,
        device: torch.device,
    ):
        super().__init__(forward, lower, len(rule), lambda rows, steps: (), device)
        self._at, self._rule, self._wrt, self._credit = at, rule, wrt, credited

    def _credited(self, sums: Tensor, who: Tensor) -> Tensor:
        return sums if self._credit is None else self._credit(sums, who)

    def _errors(self, rows: Tensor, steps: Tensor) -> list[Tensor]:
        forward = self._forward
        began = time.perf_counter()
        leaves = [t.detach().requires_grad_(is_float(t)) for t in self._at(rows, steps)]
        if self._wrt is None:
            output, sources, what = forward.readable(forward.called(leaves, rows)), leaves, "input"
        else:
            given, found = forward.read(leaves, rows, self._wrt)
            output, sources, what = forward.readable(given), [t for ts in found for t in ts], "layer"
        ran = time.perf_counter()
        low = gradients_of(forward, output, sources, what, len(steps), rows, retain=True).grads
        middle = time.perf_counter()
        with self._lower.exact():
            exact = gradients_of(forward, output, sources, what, len(steps), rows).grads
        self._gain = (ran - began + time.perf_counter() - middle) / max(middle - began, 1e-9)
        weights = torch.tensor(self._rule.weights, dtype=torch.float64)[steps]
        errors = []
        for a, b in zip(low, exact, strict=True):  # (R * m, ...) each
            error = self._credited(a - b, rows.repeat_interleave(len(a) // len(rows)))
            errors.append(error.reshape(len(rows), -1).double().cpu() * weights[:, None])
        return errors


def in_lower(forward: Forward, run: Callable[[], Run], both: Callable[[Lower], PartsInBoth]) -> Run:
    """What `run` gives, a tuple of sums first: in lower precision where that was asked for, with its error stated.

    Where it does not pay or costs too much, all runs in float32.

    Args:
        forward: what `run` differentiates.
        run: the loop; run again where the first time was no use.
        both: makes what runs in both precisions.
    """
    lower = lower_of(forward)
    if lower is None:
        return run()
    if lower.on:
        mine = both(lower)
        if mine.pay():
            found = run()
            if mine.hold(found[0]):
                return found
        lower.on = False
    else:
        lower.leave("a loop before, on the same view of the model, went back to float32")
    return run()


def one_of_each_part(n: int, k: int, generator: torch.Generator) -> Tensor:
    """One number at random of each of k equal parts of the numbers below n, ascending (k,)."""
    ends = torch.arange(k + 1) * n // k
    inside = torch.rand(k, generator=generator, dtype=torch.float64)
    return ends[:-1] + (inside * ends.diff()).long()


def estimated_error(n: int, parts: Sequence[Tensor]) -> float:
    """The norm of the sum over n rows, of the parts of k of them (k, elements) in several tensors; see above.

    No less than with rows whose errors have nothing in common.
    """
    k = len(parts[0])
    alone = sum(float(p.square().sum()) for p in parts)
    together = sum(float(p.sum(0).square().sum()) for p in parts) - alone
    pairs = n * (n - 1) / (k * (k - 1)) * together if k > 1 else 0.0
    return float(max(n / k * alone + pairs, alone * n / k) ** 0.5)
