"""What searches for changes have in common: the samples, what of them may change, and the best that was found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp_plugins.robust.bounds import Bounds
from interp_plugins.robust.climb import Climb
from interp_plugins.robust.room import Room


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


class Search(Room, ABC):
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
        super().__init__(inputs, free, plan.bounds)
        self.climb, self.plan, self.turned = climb, plan, turned
        n, device = len(inputs[0]), inputs[0].device
        self.change = torch.zeros_like(self.free)
        self.fooled = torch.zeros(n, dtype=torch.bool, device=device)
        self.height = torch.full((n,), -torch.inf, device=device)
        self.steps = torch.zeros(n, dtype=torch.long, device=device)
        self.flat = torch.zeros(n, dtype=torch.bool, device=device)

    @abstractmethod
    def run(self, skipped: Tensor, progress: bool | None) -> None:
        """Search for changes of all rows but those that are skipped, bool (N,)."""

    def adopt(self, other: Search, rows: Tensor) -> None:
        """Take what another search found of some samples, bool (N,)."""
        for name in ("change", "fooled", "height", "steps", "flat"):
            getattr(self, name)[rows] = getattr(other, name)[rows]

    def together(self) -> bool:
        """Whether rows of a pass feel each other, so that none may leave the batch."""
        return bool(self.climb.forward.row_facts(self.inputs).together)
