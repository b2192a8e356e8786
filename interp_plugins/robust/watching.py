"""`RobustnessWatch`: a few numbers on robustness that can be followed while a model trains."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from interp_plugins.api.callbacks import check_count
from interp_plugins.api.samples import SampleBatch
from interp_plugins.core.errors import InterpWarning
from interp_plugins.core.random import check_seed
from interp_plugins.robust.measuring import AttackedSizes
from interp_plugins.robust.norms import as_levels, check_norm


class RobustnessWatch:
    """What is measured of some samples, the same each time.

    Args:
        eps: sizes of attacks in Linf, in raw units.
        steps: of each attack, and of the search for the smallest change.
        min_norm: whether the smallest changes in L2 are searched.
        explanations: the method whose maps are compared, or None.
        seed: of all draws.

    Raises:
        InputError: sizes or counts that are none.
    """

    def __init__(self, eps: Sequence[float | str], steps: int, min_norm: bool, explanations: Any, seed: int):
        check_count("steps", steps, 1)
        self.steps, self.min_norm, self.explanations, self.seed = steps, bool(min_norm), explanations, check_seed(seed)
        self.attacked = self._plan("pgd", eps, explanations)
        self.nearest = self._plan("fmn", (0.0,), None, norm="L2")

    def _plan(self, attack: str, eps: Sequence[float | str], methods: Any, norm: str = "Linf") -> AttackedSizes:
        asked = {"steps": self.steps}
        return AttackedSizes(attack, eps, check_norm(norm), methods, False, self.seed, False, asked)

    def numbers(self, batches: Iterable[SampleBatch]) -> dict[str, float]:
        """`robust_acc@0` and `robust_acc@2/255` (of each size), `median_l2`, `map_stability`.

        `median_l2` is the median of the smallest changes that were found, in L2, 0 for samples that are wrong as they
        are; `map_stability` the mean likeness (Spearman, of sizes) of the maps before and after the largest attack.
        """
        many = list(batches)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InterpWarning)  # masked gradients, epoch after epoch
            found = self.attacked.measured(many)
            numbers = {
                f"robust_acc@{as_levels(level)}": float(a)
                for level, a in zip(found.levels, found.accuracy.tolist(), strict=True)
            }
            if self.min_norm:
                least = self.nearest.measured(many).minimum
                numbers["median_l2"] = float(least.sort().values[(len(least) - 1) // 2])
        for values in found.agreement.values():
            numbers["map_stability"] = float(torch.nanmean(values[-1]))
        return {name: value for name, value in numbers.items() if math.isfinite(value)}
