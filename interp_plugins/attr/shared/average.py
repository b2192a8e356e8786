"""The mean of random draws, its error, and when to stop drawing: one rule for every method that samples.

A map that is a mean of independent draws has a standard error per value. Its relative L2 error is bounded by

    map_error = t * sqrt(sum of squared standard errors) / |map|

in nine cases of ten, however the values depend on each other: of all quadratic forms of Gaussians with one mean, the
one of rank one has the largest 90 % quantile (Szekely and Bakirov 2003, Extremal probabilities for Gaussian quadratic
forms), and for rank one t is the two-sided 90 % quantile of Student's distribution, 1.645 for many draws.

Drawing goes on in rounds until that bound is below `tol`, for each sample on its own: a sample that has got there is
not evaluated any more, so that its map does not depend on its neighbours. The draws themselves are the same for all.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import ConvergenceWarning, InputError
from interp_plugins.core.multi_target import Unconverged
from interp_plugins.core.report import collecting, note
from interp_plugins.core.tensors import accumulation_dtype

_NORMAL = 1.6448536269514722  # 95 % of a normal distribution lie below


class Average:
    """Running means of draws (samples, ...), each sample with a count of its own.

    Args:
        samples: number of samples.
        rounding: per sample, what an L2 error of a map may be by rounding alone; less counts as none.
    """

    def __init__(self, samples: int, rounding: Tensor | None = None):
        self.rounding = rounding
        self.count = torch.zeros(samples, dtype=torch.long)
        self.mean: Any = None
        self._squares: Any = None

    def add(self, draws: Tensor, samples: Tensor | None = None) -> None:
        """More independent draws (D, samples, ...) of all samples, or of these (Chan et al. 1979's update)."""
        at = torch.arange(len(self.count)) if samples is None else samples.cpu()
        if self.mean is None and len(at) == len(self.count):
            self.mean = draws.mean(0)
            self._squares = (draws - self.mean).square().sum(0)
            self.count += len(draws)
            return
        if self.mean is None:
            self.mean = draws.new_zeros(len(self.count), *draws.shape[2:])
            self._squares = torch.zeros_like(self.mean)
        here, new = at.to(draws.device), draws.mean(0)  # (D, samples given, ...) -> (samples given, ...)
        before = self._each(self.count[at], new)
        step = new - self.mean[here]
        share = len(draws) / (before + len(draws))
        self.mean[here] += step * share
        self._squares[here] += (draws - new).square().sum(0) + step.square() * before * share
        self.count[at] += len(draws)

    def standard_error(self) -> Tensor:
        """Standard errors of the means, per value; infinite after a single draw."""
        n = self._each(self.count, self.mean)
        error = (self._squares / ((n - 1).clamp_min(1) * n.clamp_min(1))).clamp_min(0).sqrt()
        return torch.where(n > 1, error, torch.full_like(error, math.inf))

    def map_error(self) -> Tensor:
        """Per sample: the bound on the relative L2 error, see above."""
        return relative_error(self.count - 1, [self.standard_error()], [self.mean], self.rounding)

    @staticmethod
    def _each(per_sample: Tensor, values: Tensor) -> Tensor:
        return per_sample.to(values).reshape(-1, *(1,) * (values.ndim - 1))


@dataclass(frozen=True)
class Draws:
    """How a mean over draws is taken.

    Attributes:
        n_samples: draws, or draws per round with a tolerance.
        tol: relative error to reach for each sample; None: one round.
        max_samples: draws at most, with a tolerance.
        antithetic: each draw has a mirror image beside it.
        stratified: each draw is a set from so many strata, True: four.
    """

    n_samples: int
    tol: float | None = None
    max_samples: int = 1000
    antithetic: bool = False
    stratified: bool | int = False

    def __post_init__(self) -> None:
        check_tolerance(self.tol, self.n_samples, self.max_samples)
        if not isinstance(self.stratified, bool) and (not isinstance(self.stratified, int) or self.stratified < 2):
            raise InputError(f"stratified is True, False or a number of strata from 2 on; got {self.stratified!r}.")

    @property
    def companions(self) -> int:
        """Evaluations that make a draw."""
        if self.stratified:
            return 4 if self.stratified is True else self.stratified
        return 2 if self.antithetic else 1

    @property
    def planned(self) -> int:
        """The largest number of draws that may be taken."""
        return self.n_samples if self.tol is None else self.max_samples


class Averages:
    """Means of maps in several parts (one per input or layer), which settle together.

    Args:
        samples: number of samples.
    """

    def __init__(self, samples: int):
        self.samples = samples
        self.parts: list[Average] = []
        self._shapes: list[tuple[torch.dtype, tuple[int, ...]]] = []

    def add(self, maps: Sequence[Tensor], draws: int, companions: int, samples: Tensor) -> None:
        """Maps (draws * companions * samples given, ...) per part, or a whole number of rows for each of these.

        Maps with other numbers of rows, from a model that merges the batch, are those of one sample.
        """
        each = draws * companions
        if not self.parts:
            rows = 1 if any(m.shape[0] % (each * len(samples)) for m in maps) else self.samples
            self.parts = [Average(rows) for _ in maps]
            given = 1 if rows == 1 else len(samples)
            self._shapes = [(m.dtype, (rows * m.shape[0] // (each * given), *m.shape[1:])) for m in maps]
        who = samples if len(self.parts[0].count) == self.samples else torch.zeros(1, dtype=torch.long)
        for part, m in zip(self.parts, maps, strict=True):
            # (draws * companions * samples * entries, ...) -> mean over companions -> (draws, samples, elements)
            flat = m.detach().to(accumulation_dtype(m.dtype)).reshape(draws, companions, len(who), -1)
            part.add(flat.mean(1), who)

    @property
    def count(self) -> Tensor:
        """Draws so far, per sample."""
        return self.parts[0].count.expand(self.samples)

    def values(self) -> list[Tensor]:
        """What is asked for, (samples, elements) per part."""
        return [p.mean for p in self.parts]

    def errors(self) -> list[Tensor]:
        """Standard errors of the values."""
        return [p.standard_error() for p in self.parts]

    def map_error(self) -> Tensor:
        """Per sample: the bound on the relative L2 error of all parts together."""
        return relative_error(self.parts[0].count - 1, self.errors(), self.values()).expand(self.samples)

    def result(self) -> tuple[Tensor, ...]:
        """The values, in the shape of the maps of one draw."""
        return self._shaped(self.values())

    def standard_error(self) -> tuple[Tensor, ...]:
        """The errors, in that shape."""
        return self._shaped(self.errors())

    def _shaped(self, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(v.reshape(shape).to(dtype) for v, (dtype, shape) in zip(values, self._shapes))


def relative_error(
    degrees: Tensor, errors: Sequence[Tensor], means: Sequence[Tensor], rounding: Tensor | None = None
) -> Tensor:
    """The bound on the relative L2 error of maps in several parts (samples, ...), from so many degrees of freedom.

    The noise's own share is taken out of the map's norm: a map that is all noise has an infinite relative error.
    Errors up to `rounding` (samples,) count as none.
    """
    error, norm = (
        torch.stack([p.reshape(len(p), -1).norm(dim=1).cpu().double() for p in parts]).norm(dim=0)
        for parts in (errors, means)
    )
    scale = (norm**2 - error**2).clamp_min(0).sqrt()
    if rounding is not None:
        error = torch.where(error <= rounding.cpu(), 0.0, error)
    t = torch.tensor([student(int(f)) for f in degrees], dtype=torch.float64)
    return torch.where(error == 0, error, t * error / scale)


def student(degrees: int) -> float:
    """The 95 % quantile of Student's distribution, to 0.3 % (Cornish-Fisher; exact for one and two degrees)."""
    if degrees < 1:
        return math.inf
    if degrees < 3:
        return (6.313751514675, 2.919985580353)[degrees - 1]
    z, f = _NORMAL, degrees
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / f + second / f**2 + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / f**3


def rounds(
    errors: Callable[[], Tensor],
    samples: int,
    tol: float | None,
    n_samples: int,
    max_samples: int,
    whole: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Draws due, and the samples that need them, round by round, until `errors()` are below tol or draws run out.

    With `whole` all go on until the last has settled. Without a tolerance there is one round of n_samples, for all.
    Later rounds are a quarter of what went before: to look less often is faster and gives luck fewer chances.
    """
    active = torch.arange(samples)
    used, planned = 0, n_samples if tol is None else max_samples
    while used < planned and len(active):
        due = min(n_samples * max(1, used // (4 * n_samples)), planned - used)
        yield due, active
        used += due
        if tol is not None:
            unsettled = active[~(errors()[active] <= tol)]
            active = active if whole and len(unsettled) else unsettled


Evaluate = Callable[[Unconverged, int], tuple[Sequence[Tensor], Tensor | None]]
"""(what has not settled, draws) -> its maps (draws * companions * samples * targets, ...), deltas in that order."""


def average_draws(
    averages: Averages,
    draws: Draws,
    targets: tuple[Any, ...],
    evaluate: Evaluate,
    at_once: Callable[[int], int],
    whole: bool = False,
) -> Tensor | None:
    """Fill running means of maps, a group of draws at a time, until each is within the tolerance or draws run out.

    Args:
        averages: of the maps of every sample and target, a sample's targets together.
        draws: how many, and when to stop.
        targets: the targets.
        evaluate: the method's formula for some more draws.
        at_once: (samples that need draws) -> draws handed to `evaluate` at a time.
        whole: no sample stops before the last, since they feel each other.

    Returns:
        The deltas that `evaluate` gave: of every draw, map by map (maps * draws * companions,); with a tolerance, where
        maps have different numbers of draws, their mean (maps,). None where it gave none.
    """
    shortfall, kept = Average(averages.samples), []
    limits = draws.tol, draws.n_samples, draws.max_samples
    for due, unsettled in rounds(averages.map_error, averages.samples, *limits, whole=whole):
        asked = Unconverged.of(unsettled, targets)
        step = at_once(len(asked.samples))
        for first in range(0, due, step):
            count = min(step, due - first)
            each = count * draws.companions
            maps, delta = evaluate(asked, count)
            averages.add([asked.pick(m, each) for m in maps], count, draws.companions, unsettled)
            del maps  # before the next ones are made
            if delta is None:
                continue
            delta = asked.pick(delta, each).reshape(each, len(unsettled), -1)
            if draws.tol is None:
                kept.append(delta)
            else:
                shortfall.add(delta, unsettled)
    if draws.tol is not None:
        return None if shortfall.mean is None else shortfall.mean.reshape(-1)
    return torch.cat(kept).transpose(0, 1).reshape(-1) if kept else None  # (draws, maps, ...) -> map by map


def check_tolerance(tol: float | None, n_samples: int = 1, max_samples: int = 1) -> None:
    """Refuse tolerances and counts that cannot be meant."""
    check_chunk("n_samples", n_samples)
    check_chunk("max_samples", max_samples)
    if tol is not None and (isinstance(tol, bool) or not isinstance(tol, (int, float)) or not tol > 0):
        raise InputError(f"tol is a relative error of the map, a positive number such as 0.05; got {tol!r}.")


def error_asked(tol: float | None) -> bool:
    """Whether anyone asks for the error: a tolerance, or who collects what is reported."""
    return tol is not None or collecting()


def report_reached(counts: Tensor, errors: Tensor, standard_error: Any, tol: float | None, what: str) -> None:
    """Report draws and relative error per sample and the standard error, and warn where a tolerance was missed."""
    note(
        n_draws=counts.tolist(),
        standard_error=standard_error,
        map_error=errors.tolist(),
        per_sample=("n_draws", "map_error"),
    )
    missed = errors[~(errors <= tol)] if tol is not None else errors[:0]
    if len(missed):
        warnings.warn(
            f"tol={tol} was not reached for {len(missed)} of {len(errors)} samples with {int(counts.max())} {what}: "
            f"the error of the worst map may be {float(missed.max()):.3g}. Raise max_samples or tol, or explain fewer "
            "features.",
            ConvergenceWarning,
            stacklevel=4,
        )
