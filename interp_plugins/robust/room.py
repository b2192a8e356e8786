"""`Room`: the samples of a batch, and what of them may change how far."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from interp_plugins.robust.bounds import Bounds
from interp_plugins.robust.norms import into_ball, random_in_ball


class Room:
    """Where changes of a batch may lie: rows (N, D) over all inputs, by the elements that are free and by bounds.

    Args:
        inputs: the samples.
        free: which elements may change, (N, D) per input.
        bounds: smallest and largest values.
    """

    def __init__(self, inputs: Sequence[Tensor], free: Sequence[Tensor], bounds: Bounds):
        self.inputs, self.bounds = inputs, bounds
        self.free = torch.cat(list(free), 1)

    @property
    def everyone(self) -> Tensor:
        """The numbers of all samples, (N,)."""
        return torch.arange(len(self.free), device=self.free.device)

    def points(self, rows: Tensor, change: Tensor) -> list[Tensor]:
        """The samples of some rows, changed."""
        found, start = [], 0
        for x in self.inputs:
            stop = start + x[0].numel()
            moved = x[rows] + change[:, start:stop].reshape(-1, *x.shape[1:])
            found.append(self.bounds(moved))
            start = stop
        return found

    def within(self, rows: Tensor, change: Tensor) -> Tensor:
        """Changes that stay between the bounds; since the samples do, none becomes larger."""
        points = self.points(rows, change)
        return torch.cat([(p - x[rows]).reshape(len(rows), -1) for p, x in zip(points, self.inputs, strict=True)], 1)

    def movable(self, points: Sequence[Tensor], up: Tensor, rows: Tensor) -> Tensor:
        """Directions (R, ..., D) at some points without what may not change, or stands at a bound and leads beyond."""
        x = torch.cat([p.reshape(len(p), -1) for p in points], 1)
        low, high = self.box(points)
        middle = [1] * (up.ndim - 2)
        below, above, free = (t.reshape(len(t), *middle, -1) for t in (x <= low, x >= high, self.free[rows]))
        return torch.where((below & (up < 0)) | (above & (up > 0)), 0.0, up * free)

    def box(self, points: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Smallest and largest values of some points' elements, (R, D) each."""
        low, high = (torch.cat([self._bound(b, p) for p in points], 1) for b in (self.bounds.lower, self.bounds.upper))
        return low, high

    @staticmethod
    def _bound(bound: float | Tensor, points: Tensor) -> Tensor:
        """A bound for each element of some points, (R, D)."""
        return torch.as_tensor(bound, dtype=points.dtype, device=points.device).expand(points.shape).flatten(1)

    def drawn(self, radius: float, norm: str, generator: torch.Generator) -> Tensor:
        """A random change of each sample, uniform in its ball and then put between the bounds, (N, D)."""
        return self.within(self.everyone, random_in_ball(self.free, self.free, radius, norm, generator))

    def held(self, rows: Tensor, change: Tensor, radius: float, norm: str) -> Tensor:
        """The nearest allowed changes of some rows, (R, D): free elements, in the ball, between the bounds."""
        return self.within(rows, into_ball(change * self.free[rows], radius, norm))
