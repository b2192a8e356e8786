"""Two classes that a model says with one number: the logit (or the probability) of class 1, per sample or per pixel.

Class 1 is the number itself; class 0 is its opposite: minus the logit, or one minus the probability. So both classes
can be asked for, by name, by number or as "label", and neither is explained by the other's score.

Whether the number is a logit or a probability is said by the activation. Without one it is seen: a number below 0 or
above 1 is a logit; else the operation that it came from tells (a sigmoid, or a linear layer), or nothing does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from interp_plugins.core.errors import TargetError
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Asked, Target
from interp_plugins.core.tensors import accumulation_dtype

_PROBABILITY = ("sigmoid", "hardsigmoid", "_softmax", "softmax")
_LOGIT = ("addmm", "mm", "bmm", "baddbmm", "addmv", "mv", "dot", "linear", "convolution", "conv1d", "conv2d", "conv3d")
# What makes of probabilities probabilities and of logits logits: copies, opposites, and means of several.
_HANDED_ON = (
    "clone", "copy", "_to_copy", "_unsafe_view", "add", "sub", "rsub", "mul", "div", "mean", "sum", "stack", "cat",
)  # fmt: skip


class OneLogit(Target):
    """One of two classes that a model says with one number: the number for class 1, its opposite for class 0.

    Args:
        classes: 0 or 1 per sample.
        total: what the scores of both classes add up to: 0 for logits, 1 for probabilities.
    """

    def __init__(self, classes: Sequence[int], total: float = 0.0):
        self.classes, self.total = tuple(classes), total

    def at(self, rows: Tensor | None) -> Target:
        """The classes of some samples."""
        return self if rows is None else OneLogit([self.classes[r] for r in rows.tolist()], self.total)

    def __call__(self, output: Tensor) -> Tensor:
        """The scores (R,), of a segmentation (R, H, W), from outputs (R,), (R, 1) or (R, 1, H, W)."""
        scores = output.reshape(-1) if output.ndim < 2 else output[:, 0]
        if scores.shape[0] != len(self.classes):
            raise TargetError(
                f"Target list length does not match output! {len(self.classes)} targets came for an output of shape "
                f"{tuple(output.shape)}; give one target per sample of the batch."
            )
        scores = scores.reshape(-1) if scores.numel() == len(scores) else scores
        first = torch.tensor(self.classes, device=output.device) == 0
        return torch.where(first.reshape(-1, *[1] * (scores.ndim - 1)), self.total - scores, scores)

    def describe(self, i: int) -> str | None:
        """The class of sample i."""
        return str(self.classes[i])

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        """The classes by name."""
        asked = super().resolve(prediction, spec, n)
        return replace(asked, indices=self.classes, labels=tuple(spec.label(c) for c in self.classes))

    def of_probabilities(self) -> Target:
        """The same classes where the number is the probability of class 1."""
        return OneLogit(self.classes, 1.0)


@dataclass(frozen=True)
class TwoClasses:
    """How a model says two classes with one number.

    Attributes:
        logits: whether the number is a logit (or anything above 0 where class 1 is likelier); False: a probability;
            None: not known.
        activation: the number -> the probability of class 1.
        threshold: the probability from which class 1 is predicted.
    """

    logits: bool | None
    activation: Callable[[Tensor], Tensor] = torch.sigmoid
    threshold: float = 0.5

    def known(self) -> TwoClasses:
        """Itself.

        Raises:
            TargetError: it cannot be told whether the number is a logit or a probability.
        """
        if self.logits is None:
            raise TargetError(
                "The model gives one number for two classes, here between 0 and 1, and nothing says whether it is a "
                "logit or already a probability. Say it: activation=torch.sigmoid for logits, activation=lambda p: p "
                "for probabilities."
            )
        return self

    def scores(self, classes: Sequence[Any]) -> OneLogit:
        """The target that is these classes' scores, one class per sample.

        Raises:
            TargetError: another class than 0 and 1.
        """
        wrong = next((c for c in classes if not isinstance(c, int) or not -2 <= c < 2), None)
        if wrong is not None:
            raise TargetError(
                f"Target index {wrong} is out of range: the model says two classes with one number, so it takes 0 "
                "(its opposite) and 1 (the number itself)."
            )
        return OneLogit([c % 2 for c in classes], 0.0 if self.known().logits else 1.0)

    def predicted(self, output: Tensor) -> Tensor:
        """The predicted classes, 0 or 1, (N,) of outputs (N,) and (N, 1), (N, H, W) of (N, 1, H, W)."""
        number = output if output.ndim < 2 else output[:, 0]
        if self.known().logits and self.activation is torch.sigmoid:
            return (number > math.log(self.threshold / (1 - self.threshold))).long()
        return (self.activation(number) > self.threshold).long()

    def probabilities(self, output: Tensor) -> Tensor:
        """Of both classes, (N, 2) or (N, 2, H, W)."""
        single = output.ndim < 2 or output.numel() == len(output)
        number = output.reshape(-1, 1) if single else output[:, :1]
        found = self.activation(number.to(accumulation_dtype(number.dtype)))
        return torch.cat([1 - found, found], 1)


def two_classes(
    output: Tensor,
    n: int,
    names: Sequence[Any] | None,
    activation: Callable[[Tensor], Tensor | None] | None,
    threshold: float | None,
    again: Callable[[], Tensor],
) -> TwoClasses | None:
    """How two classes are said with one number; None where they are not.

    They are where there is one number per sample or pixel, and either two class names or, without names, an activation
    that makes probabilities.

    Args:
        output: the clean output, n samples.
        n: number of samples.
        names: class names.
        activation: as for `explain`.
        threshold: the probability above which a label is predicted; None: labels exclude each other.
        again: runs the model once more, for what its output does not say.
    """
    if not is_one_number(output, n) or (len(names) != 2 if names is not None else activation is None):
        return None
    if activation is not None:
        found = activation(output)
        if found is None or found.shape != output.shape:
            return None
        made: Any = activation
        two = TwoClasses(not torch.equal(found, output.to(found)), made)
    else:
        two = _as_seen(output, again)
    return two if threshold is None else replace(two, threshold=threshold)


def is_one_number(output: Tensor, n: int) -> bool:
    """Whether an output holds one number per sample, (N,) or (N, 1), or one channel, (N, 1, ...)."""
    if not output.is_floating_point():
        return False
    return output.numel() == n if output.ndim < 2 else output.shape[0] == n and output.shape[1] == 1


def plain_index(asked: Asked) -> Any:
    """The target of one class per sample as Captum's own methods take it.

    Raises:
        TargetError: class 0 of a model that says two classes with one number: an index cannot say its opposite.
    """
    assert asked.indices is not None
    if not isinstance(asked.target, OneLogit):
        return list(asked.indices)
    if 0 in asked.target.classes:
        raise TargetError(
            "A method from outside takes an index of the output, and class 0 of a model that says two classes with one "
            "number is the opposite of that number. Give the method and explain() a model with two outputs, or name a "
            "method by text: explain(model, x, 'ig')."
        )
    return None  # the number as it is


def of_channel(output: Tensor) -> TwoClasses:
    """How one channel says yes or no per pixel where only its values tell: beyond [0, 1] they are logits."""
    return TwoClasses(True) if _beyond(output) else TwoClasses(None)


def _beyond(output: Tensor) -> bool:
    return bool(((output < 0) | (output > 1)).any())


def _as_seen(output: Tensor, again: Callable[[], Tensor]) -> TwoClasses:
    if _beyond(output):
        return TwoClasses(True)
    origin = _origin(again)
    return TwoClasses(False, _as_it_is) if origin == _PROBABILITY else TwoClasses(True if origin == _LOGIT else None)


def _as_it_is(output: Tensor) -> Tensor:
    return output


def _origin(run: Callable[[], Tensor]) -> tuple[str, ...] | None:
    """The kind of operation that a model's output comes from: `_PROBABILITY`, `_LOGIT`, or None: another, several."""
    with torch.no_grad(), _Origins() as seen:
        found: tuple[str, ...] | None = seen.kinds.get(_place(run()))
    return found


def _place(tensor: Tensor) -> StorageWeakRef:
    """Where a tensor's numbers lie: the same for its views, and never that of a tensor that is gone."""
    return StorageWeakRef(tensor.untyped_storage())


class _Origins(TorchDispatchMode):
    """Notes the kind of operation that the numbers in each place come from."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[StorageWeakRef, tuple[str, ...] | None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        full = func._schema.name.removeprefix("aten::")
        name = full.rstrip("_")
        given = [t for arg in args for t in (arg if isinstance(arg, (list, tuple)) else [arg]) if isinstance(t, Tensor)]
        before = [_place(t) for t in given if t.layout is torch.strided]
        kind: tuple[str, ...] | None = None
        if name in _PROBABILITY or name in _LOGIT:
            kind = _PROBABILITY if name in _PROBABILITY else _LOGIT
        elif name in _HANDED_ON:
            known = {self.kinds[place] for place in before if place in self.kinds}
            kind = known.pop() if len(known) == 1 else None
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
                place = _place(tensor)
                if place not in before or full.endswith("_"):  # a view is what it was
                    self.kinds[place] = kind
        return result
