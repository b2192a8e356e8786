"""`Aim`: the class that samples are to leave, and the one they are to reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import TargetError
from interp_plugins.core.forward import one_per_row
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
                "no other class to be said. Say what its score is to become: goal=('below', value), ('above', value) "
                "or ('change', difference), with target= where there are several numbers (an index, ClassRegion() of "
                "a segmentation, a detection's Box)."
            )
        if prediction.several is not None:
            raise TargetError(
                "The labels of this model do not exclude each other, so there is no other class to be said. Name one "
                "and what its score is to become: target='label', goal=('below', value) or ('above', value)."
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
    """A score that is to lie above or below a value, or to change by one, in place of classes.

    The score is the one number of a regression, or what `target` selects: one label of several, a class of a
    segmentation where the model sees it, a detector's box.

    Args:
        prediction: what the model says of the samples as they are.
        spec: names of outputs.
        target: whose score, as for `explain`; None: what is predicted.
        goal: ("above", value), ("below", value) or ("change", difference), in units of the score.
        n: number of samples.

    Raises:
        TargetError: another goal, or no score per sample.
    """

    goal: tuple[Any, ...] | None

    def __init__(self, prediction: Prediction, spec: InputSpec, target: Any, goal: Any, n: int):
        if not is_value(goal):
            raise TargetError(
                "What is to be reached is ('above', value), ('below', value) or ('change', difference) of a score, got "
                f"{goal!r}."
            )
        self.prediction, self.spec, self.n = prediction, spec, n
        asked = ask(target, prediction, spec, n)
        self.target, word, number = asked.target, str(goal[0]), float(goal[1])
        clean = self.scores(prediction.output, torch.arange(n, device=prediction.output.device))
        self.sign = 1.0 if word == "above" or (word == "change" and number > 0) else -1.0
        self.value = clean + number if word == "change" else torch.full_like(clean, number)
        self.left = tuple(clean.tolist()) if prediction.output.numel() == n else asked.labels
        self.goal = (f"{word} {number:+g}" if word == "change" else f"{word} {number:g}",) * n
        self.loss = self.margin = self._beyond

    def scores(self, output: Tensor, rows: Tensor) -> Tensor:
        """The score of outputs that belong to the samples `rows`, (R,)."""
        return one_per_row(self.target.at(rows)(output), len(rows))

    def _beyond(self, output: Tensor, rows: Tensor) -> Tensor:
        scores = self.scores(output, rows)
        return scores - self.value.to(scores)[rows.to(scores.device)]

    def height(self, output: Tensor, rows: Tensor) -> Tensor:
        """By how much the score is beyond the value, (R,)."""
        return self.sign * self._beyond(output, rows)

    def reached(self, output: Tensor, rows: Tensor) -> Tensor:
        """Whether it is beyond the value, bool (R,)."""
        return self.height(output, rows) > 0

    def words(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Numbers and goals as they are told."""
        return tuple(f"{v:.4g}" if isinstance(v, float) else v for v in values)

    def said(self, output: Tensor) -> tuple[Any, ...]:
        """The scores that outputs hold."""
        return self.words(self.scores(output, torch.arange(len(output), device=output.device)).tolist())


def is_value(goal: Any) -> bool:
    """Whether a goal is a value of a score: ("above", 0.5), ("below", 0.5), ("change", -1)."""
    return (
        isinstance(goal, tuple)
        and len(goal) == 2
        and goal[0] in ("above", "below", "change")
        and isinstance(goal[1], (int, float))
        and not isinstance(goal[1], bool)
        and math.isfinite(goal[1])
        and (goal[0] != "change" or goal[1] != 0)
    )


def aim_of(
    prediction: Prediction, spec: InputSpec, target: Any, goal: Any, n: int, nearest: bool = True
) -> Aim | ValueAim:
    """What is wanted: a class, or where `goal` says so the value of a score."""
    if is_value(goal) or (prediction.classes is None and isinstance(goal, tuple)):
        return ValueAim(prediction, spec, target, goal, n)
    return Aim(prediction, spec, target, goal, n, nearest=nearest)
