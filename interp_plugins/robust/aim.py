"""`Aim`: the class that samples are to leave, and the one they are to reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import TargetError
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Asked, ask
from interp_plugins.robust.loss import Loss


class Aim:
    """Which class is left for which, per sample, and when that is reached.

    Args:
        prediction: what the model says of the samples as they are.
        spec: class names.
        target: the class to be left; None: what is predicted.
        goal: the class to be said instead; None: any other.
        n: number of samples.
        nearest: climb what is zero just where the model turns.

    Raises:
        TargetError: outputs that are no classes, a goal that is the class to be left.
    """

    def __init__(self, prediction: Prediction, spec: InputSpec, target: Any, goal: Any, n: int, nearest: bool):
        if prediction.classes is None:
            raise TargetError(
                f"The model's output of shape {tuple(prediction.output.shape)} is no score per class, so there is "
                "no other class to be said. FGSM and PGD lower any score: PGD(model).perturb(x, ..., target=...). "
                "Or counterfactual takes goal=('above', value) or ('below', value)."
            )
        self.prediction, self.spec, self.n = prediction, spec, n
        self.left = self._classes(target) if target is not None else prediction.classes
        self.goal = self._classes(goal) if goal is not None else None
        same = [i for i in range(n) if self.goal is not None and self.goal[i] == self.left[i]]
        if same:
            raise TargetError(
                f"goal is the class that the model is to leave ({spec.label(self.left[same[0]])!r}) in samples "
                f"{same[:8]}. Leave these out, or give another goal."
            )
        asked = Asked.of_classes(self.goal if self.goal is not None else self.left, spec, prediction)
        self.loss, self.sign = Loss(asked.target, n, largest=nearest), 1.0 if self.goal is None else -1.0
        self.margin = Loss(asked.target, n)  # what is told, whatever is climbed
        self._wanted = torch.tensor(self.goal if self.goal is not None else self.left)

    def _classes(self, given: Any) -> tuple[int, ...]:
        found = ask(given, self.prediction, self.spec, self.n).indices
        if found is None or not all(isinstance(c, int) for c in found):
            raise TargetError(f"target and goal are classes, by index or name, got {given!r}.")
        return tuple(found)

    def classes(self, output: Tensor) -> Tensor:
        """The predicted classes (R,) of some outputs."""
        two = self.prediction.two
        return output.argmax(1) if two is None else two.predicted(output).reshape(len(output))

    def reached(self, output: Tensor, rows: Tensor) -> Tensor:
        """Whether outputs say the goal, or without one another class than that to be left, bool (R,)."""
        self._wanted = self._wanted.to(output.device)
        said, wanted = self.classes(output), self._wanted[rows]
        return said == wanted if self.goal is not None else said != wanted

    def height(self, output: Tensor, rows: Tensor) -> Tensor:
        """How far the model is turned, (R,); with `nearest` above zero just where it is."""
        return self.sign * self.loss(output, rows)

    def words(self, classes: Sequence[Any]) -> tuple[Any, ...]:
        """The names of some classes."""
        return tuple(self.spec.label(c) for c in classes)

    def said(self, output: Tensor) -> tuple[Any, ...]:
        """What the model says, by name."""
        return self.words(self.classes(output).tolist())


class ValueAim:
    """A number that is to lie above or below a value, in place of classes.

    Args:
        output: the model's clean output, one number per sample.
        goal: ("above", value) or ("below", value).

    Raises:
        TargetError: another goal, or several numbers per sample.
    """

    goal: tuple[Any, ...] | None

    def __init__(self, output: Tensor, goal: Any):
        if not (isinstance(goal, tuple) and len(goal) == 2 and goal[0] in ("above", "below")):
            raise TargetError(
                f"The model gives one number per sample, so goal is ('above', value) or ('below', value), got {goal!r}."
            )
        if output.numel() != len(output):
            raise TargetError(f"The output of shape {tuple(output.shape)} is no single number per sample.")
        self.sign, self.value = 1.0 if goal[0] == "above" else -1.0, float(goal[1])
        self.text = f"{goal[0]} {self.value:g}"
        self.left = tuple(output.reshape(-1).tolist())
        self.goal = (self.text,) * len(output)

    def height(self, output: Tensor, rows: Tensor) -> Tensor:
        """By how much the number is beyond the value, (R,)."""
        return self.sign * (output.reshape(-1) - self.value)

    def reached(self, output: Tensor, rows: Tensor) -> Tensor:
        """Whether it is beyond the value, bool (R,)."""
        return self.height(output, rows) > 0

    def words(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Numbers and goals as they are told."""
        return tuple(f"{v:.4g}" if isinstance(v, float) else v for v in values)

    def said(self, output: Tensor) -> tuple[Any, ...]:
        """The numbers that outputs hold."""
        return self.words(output.reshape(-1).tolist())


def aim_of(prediction: Prediction, spec: InputSpec, target: Any, goal: Any, n: int) -> Aim | ValueAim:
    """The aim of a counterfactual: a class, or of a model without classes a value."""
    if prediction.classes is None and isinstance(goal, tuple):
        return ValueAim(prediction.output, goal)
    return Aim(prediction, spec, target, goal, n, nearest=True)
