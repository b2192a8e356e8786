"""The smallest change that turns a model: a ball that shrinks where it does and grows where it does not.

Fast minimum-norm attacks (Pintor et al. 2021, arXiv:2102.12827, algorithm 1): each sample has a ball, which shrinks by
a share where its point turns the model and grows where it does not; every step goes along the gradient and back into
the ball. In L2 the change is put onto the sphere and the share is constant, as in decoupling direction and norm (Rony
et al. 2019, arXiv:1811.09600, algorithm 1). Here the search begins at what DeepFool finds, with balls of that size, so
that no result is larger; steps are shares of the radius, so that nothing depends on the inputs' units; and what stands
at a bound and would be pushed beyond it takes no part in a step.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from interp_plugins.core.batching import progress_bar
from interp_plugins.robust.ascent import Ascent
from interp_plugins.robust.deep_fool import DeepFoolSearch
from interp_plugins.robust.norms import into_ball, random_in_ball, sizes, steepest
from interp_plugins.robust.search import AttackPlan
from interp_plugins.robust.shortened import Shortened

_SHRINK = 0.05  # of the radius, per step
_STEP = 0.25  # of the radius, the first step
_LAST = 0.01  # of the first step, the last
_BEGIN_STEPS = 50  # of DeepFool
_SMALL = 0.002  # of the largest change there is, the first radius for a sample that DeepFool leaves
_LARGE = 100.0  # of a sample's largest value, the largest change of an element without bounds


class Nearest(Shortened):
    """The smallest change of each sample of a batch."""

    def run(self, skipped: Tensor, progress: bool | None) -> None:
        """Search for changes of all rows but those that are skipped, bool (N,)."""
        wanted = ~skipped
        begin = replace(self.plan, steps=_BEGIN_STEPS)
        first = DeepFoolSearch(self.climb, self.inputs, [self.free], begin, self.turned)
        first.run(skipped, False)
        self.flat = first.flat
        self.take(first.fooled, first.change, first.height, 0)
        for row in (wanted & ~self.fooled & ~self.flat).nonzero().flatten().tolist():
            self._widen(row)
        with progress_bar(self.plan.steps * self.plan.restarts, "attack", progress) as bar:
            for restart in range(self.plan.restarts):
                self._shrink(wanted, self.change.clone() if restart == 0 else self._anywhere(), bar)
        self.shorten(wanted)

    def _anywhere(self) -> Tensor:
        """Random points in the balls of the best that is known, (N, D)."""
        radius = sizes(self.change, self.plan.norm)[:, None]
        drawn = random_in_ball(self.free, self.free, radius, self.plan.norm, self.plan.generator, shared=True)
        return self.within(self.everyone, drawn)

    def _shrink(self, wanted: Tensor, change: Tensor, bar: object) -> None:
        """All steps from some changes (N, D), in balls of the best that is known."""
        plan, together = self.plan, self.together()
        rows = self.everyone if together else (wanted & self.fooled).nonzero().flatten()
        radius = sizes(self.change, plan.norm)
        for k in range(plan.steps if len(rows) else 0):
            points = self.points(rows, change[rows])
            look = self.climb.look(points, None if together else rows)
            now = self.keep(rows, wanted, change, look.output, look.height, k)
            best = sizes(self.change[rows], plan.norm)
            share = _SHRINK if plan.norm == "L2" else _SHRINK * _cosine(k, plan.steps)
            reach = torch.minimum(torch.where(now, radius[rows] * (1 - share), radius[rows] * (1 + share)), best)
            radius[rows], reach = reach, reach[:, None]
            up = self.movable(points, look.up, rows)
            moved = change[rows] + _STEP * reach * _cosine(k, plan.steps) * steepest(up, plan.norm)
            if plan.norm == "L2":  # onto the sphere
                size = sizes(moved, "L2")[:, None]
                moved = moved * (reach / torch.where(size > 0, size, 1.0))
            change[rows] = self.within(rows, into_ball(moved, reach, plan.norm))
            bar.update(1)  # type: ignore[attr-defined]
        if len(rows):
            look = self.climb.look(self.points(rows, change[rows]), None if together else rows, ahead=False)
            self.keep(rows, wanted, change, look.output, look.height, plan.steps)

    def _widen(self, row: int) -> None:
        """A sample that DeepFool did not turn: steps within balls that double, as far as the bounds let it."""
        x = torch.cat([p.reshape(len(p), -1) for p in self.points(self.everyone[[row]], self.change[[row]])], 1)
        low, high = self.box([i[[row]] for i in self.inputs])
        room = torch.maximum(x - low, high - x).clamp_max(_LARGE * float(x.abs().max())) * self.free[[row]]
        end = min(self.plan.radius, float(sizes(room, self.plan.norm)))
        reach, alone = _SMALL * end, torch.arange(len(self.free), device=x.device) == row
        while not bool(self.fooled[row]) and reach < end:
            reach = min(2 * reach, end)
            plan = AttackPlan(reach, self.plan.norm, 20, reach / 8, 1, True, self.bounds, self.plan.generator)
            wider = Ascent(self.climb, self.inputs, [self.free], plan, self.turned)
            wider.run(~alone, False)
            self.take(alone & wider.fooled, wider.change, wider.height, 0)


def _cosine(k: int, steps: int) -> float:
    """From 1 down to the last step's share."""
    return _LAST + (1 - _LAST) * (1 + math.cos(math.pi * k / steps)) / 2
