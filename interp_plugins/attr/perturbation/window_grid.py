"""Occlusion from a part of the windows: a coarse grid first, then more where interpolation is wrong.

The changes of the score are a function on the grid of windows. It is known where windows were evaluated, and
interpolated linearly elsewhere, level by level: grids of spacing h, h / 2, ..., 1, each made from the one before
and corrected where it is known. The first windows about touch each other, so nothing of the input stays uncovered
where windows overlap.

How wrong the rest is, is judged by the *surpluses* of the evaluated windows: value minus interpolation, before they
were known (of the first ones: from their neighbours along each dimension, squares summed). The squared error of another
window is taken to be their mean nearby (a Gaussian of one window's step), all of them multiplied by how much the last
round's surpluses were above what had been expected of them. A map averages the windows over an element: with A that
mean (one matrix per dimension) and G = A'A, and errors that go together as much as windows overlap,
G_ij / sqrt(G_ii G_jj), the squared L2 error of the map is

    sum over windows i, j of s_i s_j G_ij^2 / sqrt(G_ii G_jj)

Windows are evaluated in rounds, those of the largest s_i^2 G_ii of the coarsest level that is not complete.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.perturbation.perturb import Changes
from interp_plugins.core.features import Windows
from interp_plugins.core.report import note

_ROUNDS = 25  # of windows, from nothing to all
_TOUCH = 1.25  # first windows are at most so many lengths apart, as far as there are windows between


class Lattice:
    """The grid of the windows of one input; functions on it are (K, *sizes), the last dimension of the input first.

    Args:
        axes: per dimension of the input, the extents of the windows.

    Attributes:
        sizes: windows per dimension, the input's last dimension first, so that flat numbers are those of `Windows`.
        level: of each window, from 0 (the coarsest grid), (*sizes).
    """

    def __init__(self, axes: Sequence[Sequence[slice]]):
        axes = axes[::-1]
        self.sizes = [len(axis) for axis in axes]
        spacing = [_first_spacing(axis) for axis in axes]
        depth = int(math.log2(max(spacing)))
        self._kept = [[_every(n, max(1, h >> k)) for n, h in zip(self.sizes, spacing)] for k in range(depth + 1)]
        self.level = torch.full(self.sizes, depth)
        for k in range(depth - 1, -1, -1):
            self.level[self._index(self._kept[k])] = k
        middles = [torch.tensor([(w.start + w.stop) / 2 for w in axis], dtype=torch.float64) for axis in axes]
        self._finer = [
            [_interpolation(p, a, b) for p, a, b in zip(middles, coarse, fine)]
            for coarse, fine in zip(self._kept, self._kept[1:])
        ]
        self._others = [_from_neighbours(p[kept]) for p, kept in zip(middles, self._kept[0])]
        means = [_means(axis) for axis in axes]
        self._gram = [m.T @ m for m in means]
        self._near = [
            torch.exp(-0.5 * (torch.arange(n)[:, None] - torch.arange(n)).double().square()) for n in self.sizes
        ]
        self._together = [g.square() / torch.outer(g.diagonal(), g.diagonal()).sqrt() for g in self._gram]
        self.weight = _along([g.diagonal()[:, None] for g in self._gram], torch.ones([1] * len(axes)).double())

    @staticmethod
    def _index(kept: Sequence[list[int]]) -> tuple[Any, ...]:
        """What picks these places per dimension, of whatever comes before."""
        return (..., *torch.meshgrid(*[torch.tensor(i) for i in kept], indexing="ij"))

    def first_surplus(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Squared surpluses of the first windows over their neighbours, and where there are any."""
        at = self._index(self._kept[0])
        first = values[at]
        squares, where = torch.zeros_like(values), torch.zeros(self.sizes, dtype=torch.bool)
        for d, others in enumerate(self._others):
            if others is not None:
                squares[at] += (first - _along([others], first, d - len(self.sizes))).square()
                where[at] = True
        return squares, where

    def interpolated(self, values: Tensor, known: Tensor) -> Tensor:
        """Values everywhere from those that are known; those of level 0 are."""
        found = values[self._index(self._kept[0])]
        for finer, kept in zip(self._finer, self._kept[1:], strict=True):
            at = self._index(kept)
            found = torch.where(known[at], values[at], _along(finer, found))
        return found

    def expected(self, squares: Tensor, where: Tensor) -> Tensor:
        """Squared errors that are to be expected, from squared surpluses where there are any."""
        share = _along(self._near, where.double()).clamp_min(torch.finfo(torch.float64).tiny)
        return _along(self._near, squares * where) / share

    def squared_norm(self, values: Tensor) -> float:
        """The squared norm of the map, over all K targets."""
        return float((values * _along(self._gram, values)).sum())

    def squared_error(self, squares: Tensor) -> float:
        """The squared error of the map, from squared errors of the windows."""
        errors = squares.sqrt()
        return float((errors * _along(self._together, errors)).sum())


def _first_spacing(axis: Sequence[slice]) -> int:
    """The largest power of two for which windows about touch; two at least, and three windows, if there are as many."""
    if len(axis) < 3:
        return 1
    length, step = axis[0].stop - axis[0].start, axis[1].start - axis[0].start
    spacing = 2
    while 2 * spacing * step <= _TOUCH * length and 4 * spacing <= len(axis) - 1:
        spacing *= 2
    return spacing


def _every(count: int, spacing: int) -> list[int]:
    """Every so many numbers below count, and the last one."""
    return [*range(0, count - 1, spacing), count - 1]


def _interpolation(middles: Tensor, coarse: list[int], fine: list[int]) -> Tensor:
    """Linear interpolation from some places to others that include them, (fine, coarse)."""
    if len(coarse) == 1:
        return torch.ones(len(fine), 1, dtype=torch.float64)
    a, b = middles[coarse], middles[fine]
    left = (torch.searchsorted(a, b, right=True) - 1).clamp(0, len(coarse) - 2)
    share = (b - a[left]) / (a[left + 1] - a[left])
    made = torch.zeros(len(fine), len(coarse), dtype=torch.float64)
    rows = torch.arange(len(fine))
    made[rows, left], made[rows, left + 1] = 1 - share, share
    return made


def _from_neighbours(middles: Tensor) -> Tensor | None:
    """Each place from the two next to it, linearly (n, n); None for fewer than three places."""
    n = len(middles)
    if n < 3:
        return None
    here = torch.arange(n)
    a = torch.where(here == 0, 1, torch.where(here == n - 1, n - 3, here - 1))
    b = torch.where(here == 0, 2, torch.where(here == n - 1, n - 2, here + 1))
    share = (middles - middles[a]) / (middles[b] - middles[a])
    made = torch.zeros(n, n, dtype=torch.float64)
    made[here, a], made[here, b] = 1 - share, share
    return made


def _means(axis: Sequence[slice]) -> Tensor:
    """The mean of the windows over each place, (places, windows)."""
    made = torch.zeros(max(w.stop for w in axis), len(axis), dtype=torch.float64)
    for i, window in enumerate(axis):
        made[window, i] = 1
    return made / made.sum(1, keepdim=True)


def _along(matrices: Sequence[Tensor], values: Tensor, first: int | None = None) -> Tensor:
    """Each matrix applied to a dimension of values (..., *sizes), from the first (counted from the end) on."""
    first = -len(matrices) if first is None else first
    for axis, m in enumerate(matrices, values.ndim + first):
        values = torch.tensordot(m, values, ([1], [axis])).movedim(0, axis)
    return values


class Estimate:
    """What is known of one sample's changes, and how far off its map is.

    Args:
        windows: the windows.
        lattices: their grids, one per input.
        outputs: values K per sample.

    Attributes:
        error: estimated relative L2 error of the map; infinite before the first round, zero when all is known.
        count: windows evaluated.
    """

    def __init__(self, windows: Windows, lattices: Sequence[Lattice], outputs: int):
        self.lattices, self._total = lattices, len(windows)
        self.error, self.count = math.inf, 0
        self._first = True
        self._values = [torch.zeros(outputs, *g.sizes, dtype=torch.float64) for g in lattices]
        self._known = [torch.zeros(g.sizes, dtype=torch.bool) for g in lattices]
        self._squares = [torch.zeros_like(v) for v in self._values]  # of surpluses
        self._seen = [torch.zeros_like(k) for k in self._known]  # where there are surpluses
        self._made = list(self._values)  # values, interpolated where they are not known
        self._expected = list(self._values)  # squared errors

    def due(self) -> list[int]:
        """Numbers of the windows of the next round."""
        if self._first:
            return torch.cat([(g.level == 0).flatten() for g in self.lattices]).nonzero().flatten().tolist()
        gains = []
        for lattice, known, expected in zip(self.lattices, self._known, self._expected):
            missing = lattice.level[~known]
            now = ~known & (lattice.level == (missing.min() if len(missing) else -1))
            gains.append(torch.where(now, expected.sum(0) * lattice.weight, -1.0).flatten())
        gain = torch.cat(gains)
        chosen = gain.argsort(descending=True, stable=True)[: max(1, math.ceil(self._total / _ROUNDS))]
        return sorted(chosen[gain[chosen] >= 0].tolist())

    def add(self, numbers: Sequence[int], changes: Tensor) -> None:
        """The changes (windows, K) of the windows that were due."""
        self.count += len(numbers)
        got, hoped, start = 0.0, 0.0, 0
        at, found = torch.tensor(numbers), changes.to("cpu", torch.float64).T
        for i, lattice in enumerate(self.lattices):
            stop = start + lattice.level.numel()
            mine = (at >= start) & (at < stop)
            here = at[mine] - start
            flat = self._values[i].flatten(1)
            flat[:, here] = found[:, mine]
            surplus = (flat - self._made[i].flatten(1))[:, here].square()
            self._known[i].view(-1)[here] = True
            if self._first:
                self._squares[i], self._seen[i] = lattice.first_surplus(self._values[i])
            else:
                weight = lattice.weight.flatten()[here]
                got += float((surplus * weight).sum())
                hoped += float((self._expected[i].flatten(1)[:, here] * weight).sum())
                self._squares[i].flatten(1)[:, here] = surplus
                self._seen[i].view(-1)[here] = True
            self._made[i] = lattice.interpolated(self._values[i], self._known[i])
            self._expected[i] = lattice.expected(self._squares[i], self._seen[i]) * ~self._known[i]
            start = stop
        self._first = False
        self.error = self._relative_error(got / hoped if hoped > 0 else math.inf if got > 0 else 1.0)

    def _relative_error(self, excess: float) -> float:
        """With what the last surpluses were above what had been expected."""
        if self.count == self._total:
            return 0.0
        if not any(bool(s.any()) for s in self._seen):
            return math.inf  # too few windows to know
        error = sum(g.squared_error(e) for g, e in zip(self.lattices, self._expected))
        norm = sum(g.squared_norm(m) for g, m in zip(self.lattices, self._made))
        if error <= 0:
            return 0.0
        return math.sqrt(error * max(1.0, excess) / norm) if norm > 0 else math.inf

    def values(self) -> Tensor:
        """Changes of all windows (windows, K), interpolated where they were not evaluated."""
        return torch.cat([m.flatten(1) for m in self._made], 1).T


def refined(changes: Changes, tol: float) -> list[Tensor]:
    """Maps (samples * K, ...) per input from as many windows as each sample needs for an estimated error below tol."""
    windows = changes.features
    assert isinstance(windows, Windows)
    lattices = [Lattice(axes) for axes in windows.axes]
    estimates = [Estimate(windows, lattices, changes.outputs) for _ in range(changes.samples)]
    everyone = list(range(changes.samples))
    # The incremental engine holds the maps of one sample at a time.
    for group in [everyone] if changes.incremental is None else [[s] for s in everyone]:
        while active := [s for s in group if estimates[s].error > tol]:
            due = {s: estimates[s].due() for s in active}
            found: dict[tuple[int, int], Tensor] = {}
            pairs = [(k, s) for s in active for k in due[s]]
            for k, sample, _, change in changes.of(changes.sorted(pairs)):
                found[k, sample] = change[0]
            for s in active:
                estimates[s].add(due[s], torch.stack([found[k, s] for k in due[s]]))
    note(
        n_windows=[e.count for e in estimates],
        map_error=[e.error for e in estimates],
        per_sample=("n_windows", "map_error"),
    )
    values = torch.stack([e.values() for e in estimates], 1).to(changes.clean.device)  # (windows, samples, K)
    return changes.credited((k, 0, changes.samples, values[k]) for k in range(len(windows)))
