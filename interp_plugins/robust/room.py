"""`Room`: the samples of a batch, and what of them may change how far."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

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
        self._edges: tuple[float, Tensor, Tensor] | None = None  # of the last ball in Linf

    def some(self, rows: Tensor) -> Room:
        """The same of some samples alone."""
        if len(rows) == len(self.free):
            return self
        start, parts = 0, []
        for x in self.inputs:
            parts.append(self.free[rows, start : start + x[0].numel()])
            start += x[0].numel()
        return Room([x[rows] for x in self.inputs], parts, self.bounds)

    @property
    def everyone(self) -> Tensor:
        """The numbers of all samples, (N,)."""
        return torch.arange(len(self.free), device=self.free.device)

    @cached_property
    def _flat(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """All samples as rows (N, D), and the smallest and largest values of their elements; None: no such bound."""
        low, high = self.box(self.inputs)
        flat = torch.cat([x.reshape(len(x), -1) for x in self.inputs], 1)
        return flat, None if bool((low == -torch.inf).all()) else low, None if bool((high == torch.inf).all()) else high

    @cached_property
    def _all_free(self) -> bool:
        return bool((self.free == 1).all())

    def placed(self, change: Tensor) -> tuple[Tensor, Tensor]:
        """All samples changed and put between the bounds, as rows (N, D), and the changes that this leaves."""
        flat, low, high = self._flat
        moved = flat + change
        if low is None and high is None:
            return moved, change
        moved = moved.clamp(low, high)
        return moved, moved - flat

    def shaped(self, rows: Tensor) -> list[Tensor]:
        """Rows (N, D) in the shapes of the inputs."""
        parts = rows.split([x[0].numel() for x in self.inputs], 1)
        return [p.reshape(x.shape) for p, x in zip(parts, self.inputs, strict=True)]

    def stepped(self, at: Tensor, step: Tensor, radius: float, norm: str) -> tuple[Tensor, Tensor]:
        """All samples a step further from where they are, as `placed`: in the ball and between the bounds."""
        flat, low, high = self._flat
        if norm != "Linf":
            return self.placed(into_ball(at - flat + step, radius, norm))
        if self._edges is None or self._edges[0] != radius:
            least, most = flat - radius, flat + radius
            least = least if low is None else torch.maximum(least, low)
            self._edges = radius, least, most if high is None else torch.minimum(most, high)
        moved = torch.clamp(at + step, *self._edges[1:])
        return moved, moved - flat

    def freed(self, up: Tensor) -> Tensor:
        """Directions (N, D) of all samples, without what may not change."""
        return up if self._all_free else up * self.free

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
        """A random change, uniform in the ball and then put between the bounds, the same for all samples, (N, D).

        So that a sample gets the same alone and in any batch.
        """
        drawn = random_in_ball(self.free, self.free, radius, norm, generator, shared=True)
        return self.within(self.everyone, drawn)

    def held(self, rows: Tensor, change: Tensor, radius: float, norm: str) -> Tensor:
        """The nearest allowed changes of some rows, (R, D): free elements, in the ball, between the bounds."""
        return self.within(rows, into_ball(change * self.free[rows], radius, norm))
