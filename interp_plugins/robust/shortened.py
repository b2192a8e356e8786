"""Searches for the smallest change: the best of several, made shorter along its own line."""

from __future__ import annotations

import torch
from torch import Tensor

from interp_plugins.robust.norms import sizes
from interp_plugins.robust.search import Search

_HALVINGS = 12  # along the line from a sample to its change


class Shortened(Search):
    """A search that keeps the smallest change that turns each sample, up to `plan.radius`."""

    def keep(self, rows: Tensor, wanted: Tensor, change: Tensor, output: Tensor, height: Tensor, step: int) -> Tensor:
        """Keep changes that turn their sample and are smaller than what was found; whether they turn it, (R,)."""
        now = self.turned(output, rows)
        size = sizes(change[rows], self.plan.norm)
        best = torch.where(self.fooled[rows], sizes(self.change[rows], self.plan.norm), torch.inf)
        within = size <= self.plan.radius * (1 + 1e-6)
        chosen = torch.zeros_like(self.fooled)
        chosen[rows] = wanted[rows] & now & within & (size < best)
        heights = self.height.clone()
        heights[rows] = height.to(heights)
        self.take(chosen, change, heights, step)
        return now

    def take(self, chosen: Tensor, change: Tensor, height: Tensor, step: int) -> None:
        """Make these changes of some samples, bool (N,), the best."""
        self.change[chosen], self.height[chosen] = change[chosen], height[chosen]
        self.fooled[chosen], self.steps[chosen] = True, step

    def shorten(self, wanted: Tensor) -> None:
        """Go back along each line from a change to its sample as far as the model stays turned."""
        together = self.together()
        rows = self.everyone if together else (wanted & self.fooled).nonzero().flatten()
        if not len(rows):
            return
        whole = self.change.clone()
        low, high = torch.zeros_like(self.height), torch.ones_like(self.height)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            look = self.climb.look(
                self.points(rows, middle[rows, None] * whole[rows]), None if together else rows, False
            )
            now = self.turned(look.output, rows)
            low[rows], high[rows] = (
                torch.where(now, low[rows], middle[rows]),
                torch.where(now, middle[rows], high[rows]),
            )
        self.change = torch.where((wanted & self.fooled)[:, None], high[:, None] * whole, self.change)
