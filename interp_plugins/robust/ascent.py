"""The loop of an attack that may end early: rows that are turned leave the batch, the rest begins anew."""

from __future__ import annotations

import torch
from torch import Tensor

from interp_plugins.core.batching import progress_bar
from interp_plugins.robust.norms import steepest
from interp_plugins.robust.search import Search


class Ascent(Search):
    """An attack of one size on a batch: `plan.radius`."""

    def run(self, skipped: Tensor, progress: bool | None) -> None:
        """Attack all rows but those that are skipped, bool (N,)."""
        plan, together = self.plan, self.together()
        with progress_bar((plan.steps + 1) * plan.restarts, "attack", progress) as bar:
            for restart in range(plan.restarts):
                wanted = ~(skipped | self.fooled) if restart or plan.stop_early else ~skipped
                if bool(wanted.any()):
                    self._climb(wanted, restart > 0, together, bar)

    def _climb(self, wanted: Tensor, at_random: bool, together: bool, bar: object) -> None:
        plan = self.plan
        active = self.everyone if together else wanted.nonzero().flatten()
        room = self.some(active)
        change = torch.zeros_like(room.free)
        if at_random:
            change = self.drawn(plan.radius, plan.norm, plan.generator)[active]
        at, change = room.placed(change)
        for k in range(plan.steps + 1):
            look = self.climb.look(room.shaped(at), None if together else active, ahead=k < plan.steps)
            self._keep(active, wanted, change, look.output, look.height, k)
            if k == plan.steps:
                break
            up = look.up
            if k == 0 and not at_random:
                self.flat[active] = (up == 0).all(1)
            if plan.stop_early and not together:
                staying = ~self.fooled[active]
                if not bool(staying.all()):
                    room = room.some(staying.nonzero().flatten())
                    active, up, at = active[staying], up[staying], at[staying]
            if not len(active) or (plan.stop_early and bool((self.fooled | ~wanted).all())):
                break
            step = plan.step_size * steepest(room.freed(up), plan.norm)
            at, change = room.stepped(at, step, plan.radius, plan.norm)
            bar.update(1)  # type: ignore[attr-defined]

    def _keep(self, rows: Tensor, wanted: Tensor, change: Tensor, output: Tensor, height: Tensor, step: int) -> None:
        """Keep what turns the model, and of two that do (or do not) the higher; of changes (R, D) of some rows."""
        now = self.turned(output, rows)
        before, top = self.fooled[rows], height.to(self.height) > self.height[rows]
        better = wanted[rows] & torch.where(now == before, top, now)
        if self.plan.stop_early:
            better &= ~before
        if bool(better.all()) and len(rows) == len(self.change):
            self.change, self.height[:] = change.clone(), height.to(self.height)
            self.fooled[:], self.steps[:] = now, step
            return
        chosen = rows[better]
        self.change[chosen], self.height[chosen] = change[better], height[better].to(self.height)
        self.fooled[chosen], self.steps[chosen] = now[better], step
