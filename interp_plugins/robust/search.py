"""What searches for changes have in common: the samples, what of them may change, and the best that was found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp_plugins.robust.bounds import Bounds
from interp_plugins.robust.climb import Climb


@dataclass(frozen=True)
class AttackPlan:
    """How an attack goes.

    Attributes:
        radius: largest change of a sample over all its inputs.
        norm: "Linf", "L2" or "L1".
        steps: number of steps.
        step_size: size of a step, in the norm.
        restarts: how often rows that hold begin anew; the first time at the input, then at a random point.
        stop_early: whether rows that are turned stay as they are; else they go on to where they are turned most.
        bounds: smallest and largest values.
        generator: of random points.
    """

    radius: float
    norm: str
    steps: int
    step_size: float
    restarts: int
    stop_early: bool
    bounds: Bounds
    generator: torch.Generator


class Search(ABC):
    """A search for changes of a batch that turn a model.

    Args:
        climb: what is climbed.
        inputs: the samples.
        free: which elements may change, (N, D) per input.
        plan: how.
        turned: (output, samples) -> whether the model is turned, bool (R,).

    Attributes:
        change: the best so far, (N, D); zero where none was found.
        fooled: whether it turns the model, bool (N,).
        height: what is climbed, there, (N,).
        steps: after how many steps it was found, (N,).
        flat: whether the first gradient was zero, bool (N,).
    """

    def __init__(
        self,
        climb: Climb,
        inputs: Sequence[Tensor],
        free: Sequence[Tensor],
        plan: AttackPlan,
        turned: Callable[[Tensor, Tensor], Tensor],
    ):
        self.climb, self.inputs, self.plan, self.turned = climb, inputs, plan, turned
        self.bounds = plan.bounds
        self.free = torch.cat(list(free), 1)
        n, device = len(inputs[0]), inputs[0].device
        self.change = torch.zeros_like(self.free)
        self.fooled = torch.zeros(n, dtype=torch.bool, device=device)
        self.height = torch.full((n,), -torch.inf, device=device)
        self.steps = torch.zeros(n, dtype=torch.long, device=device)
        self.flat = torch.zeros(n, dtype=torch.bool, device=device)

    @abstractmethod
    def run(self, skipped: Tensor, progress: bool | None) -> None:
        """Search for changes of all rows but those that are skipped, bool (N,)."""

    @property
    def everyone(self) -> Tensor:
        """The numbers of all samples, (N,)."""
        return torch.arange(len(self.fooled), device=self.fooled.device)

    def together(self) -> bool:
        """Whether rows of a pass feel each other, so that none may leave the batch."""
        return bool(self.climb.forward.row_facts(self.inputs).together)

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
