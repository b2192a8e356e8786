"""`Prediction`: what a model says of a batch, as far as it matters for what is explained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from interp_plugins.core.spec import InputSpec


@dataclass(frozen=True)
class Prediction:
    """The model's clean output (on its device), and what it says.

    Attributes:
        output: as the model returned it.
        classes: the class with the highest score per sample, where the outputs are classes.
        probabilities: of the output's shape, or None; of two classes that are said with one number for both, (N, 2) or
            (N, 2, H, W).
        several: for labels that do not exclude each other, those of each sample, the most probable first; else None.
        size: height and width of the first input that is a picture, or None.
        foremost: the `Target` that is explained where nothing is named, for outputs with one of their own (a
            detector's box); else None.
        two: the `core.two_classes.TwoClasses` of a model that says two classes with one number; else None.
        activation: output -> probabilities, of the output's shape; None: softmax over axis 1, or no probabilities.
    """

    output: Tensor
    classes: tuple[int, ...] | None
    probabilities: Tensor | None
    several: tuple[tuple[int, ...], ...] | None = None
    size: tuple[int, int] | None = None
    foremost: Any = None
    two: Any = None
    activation: Callable[[Tensor], Tensor] | None = None

    @property
    def count(self) -> int | None:
        """How many classes the model tells apart, or None where it has none."""
        p = self.probabilities
        return None if self.classes is None or p is None or p.ndim != 2 else p.shape[1]

    def in_words(self, spec: InputSpec) -> tuple[Any, ...] | None:
        """What is predicted per sample: a class name, or several in one text; None where there are no classes."""
        if self.several is not None:
            return tuple(", ".join(str(spec.label(c)) for c in row) or "no label" for row in self.several)
        return tuple(spec.label(c) for c in self.classes) if self.classes is not None else None

    def labels(self) -> list[int]:
        """Every label of `several` for any sample, the most probable first; a sample without one counts its best."""
        assert self.several is not None and self.classes is not None and self.probabilities is not None
        found = {i for row, best in zip(self.several, self.classes) for i in (row or (best,))}
        highest = self.probabilities.amax(0).tolist()
        return sorted(found, key=lambda i: -highest[i])
