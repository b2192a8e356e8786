"""`MeasuredRows`: which samples a model says right under which conditions, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from interp_plugins.core.explanation import Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.robust.norms import as_levels
from interp_plugins.robust.perturbed import Perturbed

_FEW = 32  # grey levels up to which a size is told in them


@dataclass(frozen=True, eq=False, repr=False)
class MeasuredRows:
    """The numbers of a `Robustness`, which says what they are."""

    names: tuple[str, ...]
    levels: tuple[float, ...]
    right: Tensor
    labelled: bool
    keys: tuple[Any, ...]
    minimum: Tensor
    agreement: dict[str, Tensor]
    examples: Perturbed | None
    pictures: dict[str, Tensor]
    maps: tuple[Explanations, Explanations] | None
    notes: tuple[str, ...]
    params: dict[str, Any]
    spec: InputSpec

    def __len__(self) -> int:
        return self.right.shape[1]

    @property
    def accuracy(self) -> Tensor:
        """Share of the samples that each condition leaves right, (K,) float64."""
        return self.right.double().mean(1)

    def sized(self, k: int) -> str:
        """The level of a condition in words, with a blank behind."""
        level = self.levels[k]
        if not level:
            return ""
        if self.params["attack"] is None:
            return f"at {level:g} "
        grey = self.spec.kind == "image" and self.spec.value_range == (0.0, 1.0) and round(level * 255) <= _FEW
        return f"{as_levels(level) if grey else format(level, '.3g')} "
