"""Scores from forward passes in lower precision, some rows of which run in float32 as well.

What a perturbation method goes by are differences of scores. So the first rows run both ways: where the two scores of a
row are apart by too much of what scores differ from row to row, all rows run in float32; else the mean of what they are
apart by, which is the model's rounding and not the rows', is added to every score, and the rest is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from interp_plugins.core.forward import Forward
from interp_plugins.core.report import note
from interp_plugins.core.wrapper import Wrapper
from interp_plugins.engine.meter import percent
from interp_plugins.engine.plan.agreement import Trial
from interp_plugins.engine.plan.candidates import Loop
from interp_plugins.engine.plan.fold import folded
from interp_plugins.engine.plan.layout import InLayout, channels_last, pays
from interp_plugins.engine.plan.lower import Lower, lower_dtype, lower_weights
from interp_plugins.engine.plan.view import View, layers_in
from interp_plugins.engine.switch import asked_precision, precision_limit

IN_BOTH = 24  # rows of a sample that run in both precisions
DROWNED = 0.03  # of the deviation of scores,
RANKS = 0.99  # and the least rank correlation
AMPLIFIED = (
    3.0  # a map's error over its scores': .5 to 3.0 where it was measured, most in regressions on few coalitions
)
_PAYS = 1.1  # times as fast, or "auto" leaves it


class Lowered(Wrapper):
    """A callable that runs in lower precision, on float32 tensors and with float32 outputs, or as it was.

    Args:
        func: with weights in lower precision; runs under autocast.
        exact: in float32.
        lower: which of the two.
        device: type of the device.
    """

    def __init__(self, func: Callable[..., Any], exact: Callable[..., Any], lower: Lower, device: str):
        self.func, self.exact, self.lower, self.device = func, exact, lower, device

    def wrapped_callables(self) -> list[Any]:
        """Both, for the guard."""
        return [self.func, self.exact]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the one that is on."""
        if not self.lower.on:
            return self.exact(*args, **kwargs)
        with torch.autocast(self.device, dtype=self.lower.dtype):
            made = self.func(*args, **kwargs)
        return pytree.tree_map(self._widened, made)

    def _widened(self, value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.dtype == self.lower.dtype else value


class LowerGradients(Wrapper):
    """A callable whose gradients run in lower precision.

    Args:
        func: the callable.
        lower: the precision.
    """

    def __init__(self, func: Callable[..., Any], lower: Lower):
        self.func, self.lower = func, lower

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the callable inside, as it is."""
        return self.func(*args, **kwargs)


def lower_of(forward: Forward) -> Lower | None:
    """The precision of a model call's gradients, where it is a lower one."""
    lower: Lower | None = getattr(forward.func, "lower", None)
    return lower if isinstance(lower, Lower) else None


def lowered(loop: Loop, trial: Trial, exact: Callable[..., Any]) -> Lowered | None:
    """The model's forward passes in lower precision, on weights of their own; None where nothing can be lowered.

    Args:
        loop: of forward passes.
        trial: what the model did on one row.
        exact: what runs them in float32.

    Raises:
        NoView: the model's modules cannot be exchanged.
    """
    dtype = lower_dtype(trial.x.device)
    if dtype is None or trial.x.dtype != torch.float32 or layers_in(loop.forward.func):
        return None
    lower, stand_ins = Lower(dtype), folded(trial.tracer, ())
    last = not trial.own_backward and pays(trial.tracer, trial.x)
    if last:
        channels_last(trial.tracer, stand_ins)
    if not lower_weights(trial.tracer, stand_ins, lower):
        return None
    mine = View(stand_ins).of(loop.forward.func)
    return Lowered(InLayout(mine) if last else mine, exact, lower, trial.x.device.type)


@dataclass
class InBoth(Forward):
    """A model call whose first rows run in both precisions, and the rest in what came of it."""

    lower: Lower = field(kw_only=True)
    _pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _seconds: list[tuple[float, float]] = field(default_factory=list)
    _shift: Tensor | None = None

    def selected(self, inputs: Sequence[Tensor], rows: Tensor | None = None) -> Tensor:
        """What the target selects, without gradient."""
        if not self.lower.on:
            return super().selected(inputs, rows)
        if self.lower.settled:
            found = super().selected(inputs, rows)
            return found if self._shift is None else found + self._shift.to(found)
        if rows is not None:
            mine = (rows == rows[0]).nonzero().flatten()[:IN_BOTH]
            self._compare([x.index_select(0, mine) for x in inputs], rows.index_select(0, mine))
            self._settle()
            if self.lower.settled:
                return self.selected(inputs, rows)
        with self.lower.exact():
            return super().selected(inputs, rows)

    def _compare(self, inputs: Sequence[Tensor], rows: Tensor) -> None:
        passes, seconds = dict(self.passes), []
        for timed in (False, True):
            if timed and asked_precision() != "auto":
                break
            begin = time.perf_counter()
            low = super().selected(inputs, rows)
            middle = time.perf_counter()
            with self.lower.exact():
                exact = super().selected(inputs, rows)
            seconds.append((middle - begin, time.perf_counter() - middle))
        self.passes.update(passes)  # the comparison is none of the method's
        self._pairs.append((low.reshape(len(rows), -1).double().cpu(), exact.reshape(len(rows), -1).double().cpu()))
        self._seconds.append(seconds[-1])

    def _settle(self) -> None:
        low, exact = (torch.cat(column) for column in zip(*self._pairs, strict=True))
        if len(low) < IN_BOTH // 2:
            return
        self.lower.settled = True
        apart = exact - low
        spread = exact.std(0).square().mean().sqrt()
        error = float(apart.std(0).square().mean().sqrt() / spread) if float(spread) > 0 else float("inf")
        gain = sum(b for _, b in self._seconds) / max(sum(a for a, _ in self._seconds), 1e-9)
        auto = asked_precision() == "auto"
        limit = precision_limit() / AMPLIFIED if auto else DROWNED
        name = self.lower.name
        ranks = _rank_correlation(low, exact)
        if not error <= limit:
            self.lower.leave(f"scores are off by {percent(error)} of their deviation, and {percent(limit)} are allowed")
        elif not ranks >= RANKS:
            self.lower.leave(f"the rank correlation of scores is {ranks:.3f}, and {RANKS} is the least")
        elif auto and gain < _PAYS:
            self.lower.leave(f"forward passes {gain:.2g} times as fast")
        else:
            self.lower.take("forward passes")
            self._shift = apart.mean(0).reshape(-1)
        ran = name if self.lower.on else "float32"
        said = {"ran": ran, "tried": name, "score_error": error, "rank_correlation": ranks, "rows_in_both": len(low)}
        note(precision=said | ({"map_error": AMPLIFIED * error} if self.lower.on else {}))


def _rank_correlation(a: Tensor, b: Tensor) -> float:
    """The least of all columns (R, K); 1 where a column is constant."""
    found = [1.0]
    for one, two in zip(a.unbind(1), b.unbind(1), strict=True):
        x, y = (_ranks(v) for v in (one, two))
        size = float(x.norm() * y.norm())
        found.append(float(x @ y) / size if size > 0 else 1.0)
    return min(found)


def _ranks(values: Tensor) -> Tensor:
    """Centred ranks (R,), equal values sharing theirs."""
    _, at, counts = values.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[at].double()
    return ranks - ranks.mean()


def in_both(forward: Forward, func: Lowered) -> Forward:
    """A model call through `func`, which settles its precision by the first rows of a loop."""
    func.lower.on, func.lower.settled = True, False
    shared = {f.name: getattr(forward, f.name) for f in fields(Forward)}
    return InBoth(**(shared | {"func": func}), lower=func.lower)
