"""Attacks on maps: changes within a ball that keep what the model says and change its explanation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.batching import chunks
from interp_plugins.core.explanation import Explanation
from interp_plugins.metrics.rows import element_rows
from interp_plugins.robust.map_change import Likeness, Maps, SamePrediction
from interp_plugins.robust.norms import random_in_ball, steepest
from interp_plugins.robust.room import Room
from interp_plugins.robust.smooth_maps import SmoothMaps
from interp_plugins.robust.softened import Softened

_LOOKS = 10  # how often on its way an attack looks at the true map
_TRAVEL = 2.5  # of the radius, over all steps
_NEAR = 0.8  # of the change of score that is allowed, from where on steps lead back as well
_LITTLE = 1e-3  # of likeness
_DRAW_BACK = 3.0  # how much more the way back counts


@dataclass
class Worst:
    """The worst change of each sample's map so far.

    Attributes:
        change: in raw units, (N, D).
        likeness: what is made small, (N,): likeness of its map to the clean one, or with a wanted map minus its
            likeness to that; NaN where no change was kept.
        by: what found it, per sample.
    """

    change: Tensor
    likeness: Tensor
    by: list[str]

    def take(self, rows: Tensor, change: Tensor, likeness: Tensor, by: str) -> None:
        """Keep what is worse than what is known, of changes of some rows."""
        known = self.likeness[rows]
        better = ~likeness.isnan() & (known.isnan() | (likeness < known))
        for r, new, value in zip(rows[better].tolist(), change[better], likeness[better].tolist(), strict=True):
            self.change[r], self.likeness[r], self.by[r] = new, value, by


@dataclass(frozen=True)
class MapAttack:
    """One method's maps, attacked.

    Attributes:
        maps: how maps are made.
        clean: those of the samples as they are.
        kept: what counts as the same prediction.
        likeness: how alike two maps are.
        room: where changes may lie.
        radius: of the ball.
        norm: its norm.
        steps: steps of a gradient attack, pairs of maps of a search.
        wanted: the map that each sample's is drawn towards, (N, D); None: away from the clean one.
    """

    maps: Maps
    clean: Explanation
    kept: SamePrediction
    likeness: Likeness
    room: Room
    radius: float
    norm: str
    steps: int
    wanted: Tensor | None = None

    @property
    def places(self) -> tuple[int, ...]:
        """How many places a map has along each axis, where the likeness asks."""
        return self.likeness.places(self.clean)

    def judged(self, change: Tensor, rows: Tensor, known: Tensor | None = None) -> Tensor:
        """What is made small, of changed samples (R,); NaN where the prediction is not kept.

        Args:
            change: of some samples, (R, D).
            rows: their numbers.
            known: whether they are kept, where that was asked before.
        """
        return self.compared(change, rows, known)[0]

    def compared(self, change: Tensor, rows: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`judged`, and how alike the maps are to the clean ones, (R,) each."""
        points = self.room.points(rows, change)
        holds = self.kept.holds(points, rows) if known is None else known
        value = torch.full((len(rows),), math.nan, dtype=torch.float64)
        sought, at = value.clone(), holds.cpu()
        if bool(holds.any()):
            found = self.maps.at([p[holds] for p in points], rows[holds])
            value[at] = self.likeness(found, self.clean, rows[holds])
            if self.wanted is not None:
                sought[at] = -self.likeness.between(
                    element_rows(found, "sum"), self.wanted[rows[holds].cpu()], self.places
                )
        return (value, value) if self.wanted is None else (sought, value)

    def climb(self, worst: Worst, smooth: SmoothMaps, start: Tensor) -> None:
        """Steps along the slope of the softened map's likeness, from some changes (N, D).

        Samples whose maps became no less alike begin once more at the opposite change.
        """
        before = worst.likeness.clone()
        self._climb(worst, smooth, self.room.everyone, start)
        least = 1.0 if self.wanted is None else 0.0
        stuck = ~(worst.likeness < before - _LITTLE) & ~(before.isnan() & (worst.likeness < least - _LITTLE))
        rows = stuck.nonzero().flatten().to(start.device)
        if len(rows):
            self._climb(worst, smooth, rows, self.room.within(rows, -start[rows]))

    def _climb(self, worst: Worst, smooth: SmoothMaps, rows: Tensor, start: Tensor) -> None:
        """Where the score is about to leave what is allowed, steps lead back as well; what has left does not count."""
        change, step = start.clone(), _TRAVEL * self.radius / self.steps
        goal = self._smooth_clean(smooth, rows) if self.wanted is None else self.wanted[rows.cpu()].to(start)
        away = 1.0 if self.wanted is None else -1.0
        allowed = self.kept.room()[rows]
        often = max(1, self.steps // _LOOKS)
        for k in range(self.steps):
            points = self.room.points(rows, change)
            down = _unit(-away * self._slope(smooth, points, rows, goal))
            _, off, back = self.kept.look(points, rows)
            far = (off.abs() / allowed.clamp_min(1e-30)).to(down)[:, None]
            down = down + _DRAW_BACK * _unit(back) * (far - _NEAR).clamp(0, 1)
            change = self.room.held(rows, change + step * steepest(down, self.norm), self.radius, self.norm)
            if (k + 1) % often == 0 or k + 1 == self.steps:
                worst.take(rows, change, self.judged(change, rows), "gradient")

    def search(self, worst: Worst, generator: torch.Generator) -> None:
        """Random changes of a part of each sample, each tried both ways; what makes the map worse is kept.

        In Linf parts are put to the edge of the ball, as in Andriushchenko et al. 2020, arXiv:1912.00049.
        """
        rows = self.room.everyone
        for k in range(self.steps):
            direction = self._part(generator, share=0.5 * (1 - k / self.steps) + 0.02)
            for sign in (1.0, -1.0):
                tried = worst.change + sign * direction
                tried = self.room.held(rows, tried, self.radius, self.norm)
                worst.take(rows, tried, self.judged(tried, rows), "search")

    def _part(self, generator: torch.Generator, share: float) -> Tensor:
        """A direction in a part of the samples: a box of their places, or some of their features, (N, D).

        It is the same for all, so that a sample gets the same alone and in any batch.
        """
        made = []
        for x in self.room.inputs:
            mask = torch.zeros(x.shape[1:], dtype=x.dtype)
            _box(mask, share, generator)
            made.append(mask.to(x.device).reshape(1, -1))
        part = torch.cat(made, 1) * self.room.free
        if self.norm != "Linf":
            return random_in_ball(part, part, self.radius, self.norm, generator, shared=True)
        signs = []
        for x in self.room.inputs:  # one sign per channel and box
            shape = (1, x.shape[1] if x.ndim >= 3 else x[0].numel(), *[1] * (x.ndim - 2 if x.ndim >= 3 else 0))
            drawn = (torch.rand(shape, generator=generator) < 0.5).to(x) * 2 - 1
            signs.append(drawn.expand(x.shape).reshape(len(x), -1))
        return 2 * self.radius * part * torch.cat(signs, 1)

    def _smooth_clean(self, smooth: SmoothMaps, rows: Tensor) -> Tensor:
        with Softened():
            parts = [
                smooth.value([x[i : i + 1].detach().requires_grad_(True) for x in self.room.inputs], rows[k : k + 1])
                for k, i in enumerate(rows.tolist())
            ]
        return torch.cat(parts)

    def _slope(self, smooth: SmoothMaps, points: list[Tensor], rows: Tensor, goal: Tensor) -> Tensor:
        """The gradient of the softened likeness, (R, D)."""
        found: list[Tensor] = []

        def work(start: int, stop: int) -> Tensor:
            leaves = [p[start:stop].detach().requires_grad_(True) for p in points]
            judge = lambda maps: self.likeness.slope(maps, goal[start:stop], self.places)  # noqa: E731
            with Softened():
                grads = smooth.slope(leaves, rows[start:stop], judge)
            return torch.nan_to_num(torch.cat([g.reshape(len(g), -1) for g in grads], 1))

        for _, _, slope in chunks(len(rows), max(1, smooth.forward.samples_per_pass(self.room.inputs) // 4), work):
            found.append(slope)
        return torch.cat(found)


def _unit(rows: Tensor) -> Tensor:
    """Rows of length one; zeros stay."""
    size = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(size > 0, size, 1.0)


def _box(mask: Tensor, share: float, generator: torch.Generator) -> None:
    """Set a random box of a sample (C, *places), or a random part of its features (F,), to one."""
    if mask.ndim < 2:
        flat = mask.reshape(-1)
        count = max(1, round(share * len(flat)))
        flat[torch.randperm(len(flat), generator=generator)[:count]] = 1.0
        return
    cut: list[Any] = [slice(None)]
    for size in mask.shape[1:]:
        side = max(1, round(share ** (1 / (mask.ndim - 1)) * size))
        at = int(torch.randint(size - side + 1, (1,), generator=generator))
        cut.append(slice(at, at + side))
    mask[tuple(cut)] = 1.0
