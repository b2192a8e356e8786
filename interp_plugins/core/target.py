"""`Target`: what is explained, as a pure function from the model's output (R, ...) to one scalar per row (R,).

`as_target` follows Captum's rules for integers, tuples, lists and tensors; functions and `Target` objects are
first class. A target can belong to single samples (a list of classes, a mask per image): `target.at(rows)` gives the
target for those rows of the batch, so that methods can chunk over samples, steps and perturbations as they like.

`explain` knows more than a method: the clean prediction and the class names. `target.resolve(prediction, spec, n)`
gives what is asked of a batch, with its names (`Asked`); a new kind of target is a subclass of `Target`, nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.errors import InterpWarning, TargetError
from interp_plugins.core.indices import IndexTuple, as_indices, check_index
from interp_plugins.core.mistaken import check_no_transform
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe

_FEW = 4  # outputs of a regression that are all explained where none is named


@dataclass(frozen=True)
class Asked:
    """A target for the whole batch, with what is known of it per sample.

    Attributes:
        target: output -> one scalar per sample.
        indices: the output's index per sample, or None where the target is no single output.
        labels: the target in words per sample.
        classes: the class per sample, where it is the region of one.
        region: that region, bool (N, H, W), or None.
    """

    target: Target
    indices: tuple[Any, ...] | None
    labels: tuple[Any, ...]
    classes: tuple[int, ...] | None = None
    region: Tensor | None = None

    @classmethod
    def of_classes(cls, classes: Sequence[int], spec: InputSpec, prediction: Prediction | None = None) -> Asked:
        """One class per sample, by its index; `prediction` knows a model that says two classes with one number."""
        two = prediction.two if prediction is not None else None
        target = PerSample([(c,) for c in classes]) if two is None else two.scores(classes)
        return cls(target, tuple(classes), tuple(spec.label(c) for c in classes))


class Target:
    """Base class: the whole output (for outputs that already are one scalar per example).

    A subclass says what it selects (`__call__`) and how it reads (`describe`). One that belongs to single samples says
    what it is for some rows (`at`), one that is made of other targets what it is of others (`map`), and one that
    depends on the prediction what it is there (`resolve`).

    Example:
        class Margin(Target):  # of class 0 over the best of the others
            def __call__(self, output):
                return output[:, 0] - output[:, 1:].amax(1)

        explain(model, x, target=Margin())
    """

    @property
    def count(self) -> int:
        """Scalars per row: 1, but for `core.multi_target.MultiTarget`."""
        return 1

    def at(self, rows: Tensor | None) -> Target:
        """This target for some rows of the batch (indices of samples, repeats allowed; None = all)."""
        return self

    def __call__(self, output: Tensor) -> Tensor:
        """Select from the output (R, ...)."""
        return output

    def describe(self, i: int) -> str | None:
        """Short text for sample i, or None."""
        return None

    def map(self, function: Callable[[Any], Any]) -> Target:
        """This target with `function` applied to each target that it is made of; itself where it is made of none."""
        return self

    def indices_of_rows(self, n: int) -> list[IndexTuple] | None:
        """The output's index for each of n rows, or None where the target is no single output."""
        return None

    def of_probabilities(self) -> Target:
        """This target where the output has been made probabilities; itself, but for what depends on the scale."""
        return self.map(lambda part: part.of_probabilities() if isinstance(part, Target) else part)

    def in_region(self, mask: Tensor) -> Target:
        """This class of a segmentation in another region, bool (N, H, W); itself where it is none."""
        return self

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        """What is asked of a batch, one scalar per sample; what it is made of may be anything that `explain` takes.

        Args:
            prediction: the clean output, and what it says.
            spec: class names.
            n: batch size.

        Raises:
            TargetError: the target leaves another number of values than n.
        """
        chosen = self.map(lambda part: ask(part, prediction, spec, n).target)
        scores = chosen(prediction.output)  # out of range is said here, before any work
        if scores.numel() != n:
            raise TargetError(
                f"The target {chosen} leaves values of shape {tuple(scores.shape)} for {n} samples (output of shape "
                f"{tuple(prediction.output.shape)}); an explanation is of one scalar per sample. Give an index for "
                "every dimension after the batch, core.region.ClassRegion() or core.region.Region for a segmentation, "
                "or a function output -> (N,)."
            )
        return Asked(chosen, None, tuple(chosen.describe(i) or "output" for i in range(n)))

    def resolve_each(self, prediction: Prediction, spec: InputSpec, n: int) -> list[Asked]:
        """As `resolve`, for a target that may be several explanations."""
        return [self.resolve(prediction, spec, n)]


class FromPrediction(Target):
    """Base class of what only the clean prediction makes a target: `resolve` gives the one that can be called."""

    def __call__(self, output: Tensor) -> Tensor:
        """Refused.

        Raises:
            TargetError: always.
        """
        raise TargetError(
            f"{self!r} depends on the model's clean prediction, which `explain` knows and a single method does not. "
            "Call explain(...), or give the method target.resolve(prediction, spec, n).target."
        )


class Whole(Target):
    """No selection: the model's output as it is (Captum's `target=None`)."""


@dataclass(frozen=True)
class Index(Target):
    """One index (one per output dimension after the batch, slices allowed) for every sample."""

    index: IndexTuple

    def __call__(self, output: Tensor) -> Tensor:
        check_index(output, self.index)
        return output[(slice(None), *self.index)]

    def describe(self, i: int) -> str | None:
        return ", ".join(str(v) for v in self.index)

    def __str__(self) -> str:
        return str(self.index[0] if len(self.index) == 1 else self.index)

    def indices_of_rows(self, n: int) -> list[IndexTuple] | None:
        return [self.index] * n

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        return _of_columns(super().resolve(prediction, spec, n), prediction, spec, n)


class PerSample(Target):
    """An index tuple per sample."""

    def __init__(self, indices: Sequence[IndexTuple]):
        self.indices = [tuple(i) for i in indices]

    def at(self, rows: Tensor | None) -> Target:
        return self if rows is None else PerSample([self.indices[r] for r in rows.tolist()])

    def __call__(self, output: Tensor) -> Tensor:
        if output.ndim == 0 or output.shape[0] != len(self.indices):
            raise TargetError(
                f"Target list length does not match output! {len(self.indices)} targets came for an output of shape "
                f"{tuple(output.shape)}; give one target per sample of the batch."
            )
        for index in self.indices:
            check_index(output, index)
        if all(isinstance(v, int) for index in self.indices for v in index):
            columns = torch.tensor(self.indices, device=output.device).unbind(1)
            return output[(torch.arange(len(self.indices), device=output.device), *columns)]
        return torch.stack([output[(i, *index)] for i, index in enumerate(self.indices)])

    def describe(self, i: int) -> str | None:
        return ", ".join(str(v) for v in self.indices[i])

    def __str__(self) -> str:
        return str([index[0] if len(index) == 1 else index for index in self.indices])

    def indices_of_rows(self, n: int) -> list[IndexTuple] | None:
        return self.indices

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        return _of_columns(super().resolve(prediction, spec, n), prediction, spec, n)


def _of_columns(asked: Asked, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
    """The same by name, where it is a column of the output for every sample."""
    columns = [index[0] for index in asked.target.indices_of_rows(n) or () if len(index) == 1]
    if prediction.two is not None or len(columns) < n or not all(isinstance(c, int) for c in columns):
        return asked
    count = max(prediction.output.shape[1], 1)
    return Asked.of_classes([c % count for c in columns], spec)  # type: ignore[operator]


@dataclass(frozen=True)
class Function(Target):
    """Any function from the output (R, ...) to one scalar per row (R,)."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, output: Tensor) -> Tensor:
        found = self.function(output.clone())  # it may work in place, and the output is read again
        if not isinstance(found, Tensor):
            raise TargetError(
                f"The target function {self} returned a {describe(found)}; expected a tensor with one number per row "
                f"of the output {tuple(output.shape)}."
            )
        return found

    def describe(self, i: int) -> str | None:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __str__(self) -> str:
        return repr(self.function)


@dataclass(frozen=True)
class Probability(Target):
    """Probability of what another target selects; `of` may be anything a target may be.

    Args:
        of: the class, or another target.
        activation: output -> probabilities. None: that of the model, as `explain` knows it, else softmax over axis 1.
    """

    of: Any
    activation: Callable[[Tensor], Tensor] | None = None

    def at(self, rows: Tensor | None) -> Target:
        return Probability(self.of.at(rows), self.activation)

    def map(self, function: Callable[[Any], Any]) -> Target:
        return Probability(function(self.of), self.activation)

    def __call__(self, output: Tensor) -> Tensor:
        return self.of(output.softmax(1) if self.activation is None else self.activation(output))

    def describe(self, i: int) -> str | None:
        return f"p({self.of.describe(i)})"

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        of = ask(self.of, prediction, spec, n)
        target = Probability(of.target.of_probabilities(), self.activation or prediction.activation)
        return Asked(target, None, tuple(f"p({label})" for label in of.labels))


@dataclass(frozen=True)
class RatherThan(Target):
    """Score of one target minus the score of another: why this and not that?

    `explain(model, x, target="cat", against="dog")` makes it. Each side may be anything that a target may be; in
    `explain` also a class name, or None for the predicted class. `Contrast` is its old name, which fastai has for an
    augmentation.

    Args:
        this: what is explained.
        that: what it is compared with.

    Example:
        explain(model, x, "ig", target=RatherThan(3, 5))[0].target_label[0]  # -> '3 rather than 5'
    """

    this: Any
    that: Any

    def at(self, rows: Tensor | None) -> Target:
        return RatherThan(self.this.at(rows), self.that.at(rows))

    def map(self, function: Callable[[Any], Any]) -> Target:
        return RatherThan(function(self.this), function(self.that))

    def __call__(self, output: Tensor) -> Tensor:
        return self.this(output) - self.that(output)

    def describe(self, i: int) -> str | None:
        return f"{self.this.describe(i)} rather than {self.that.describe(i)}"

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        this, that = (ask(t, prediction, spec, n) for t in (self.this, self.that))
        if this.region is not None and that.classes is not None:  # this class rather than that one, in the same place
            that = replace(that, target=that.target.in_region(this.region))
        _check_differ(this, that, n)
        labels = tuple(f"{a} rather than {b}" for a, b in zip(this.labels, that.labels))
        return Asked(RatherThan(this.target, that.target), None, labels, region=this.region)


Contrast = RatherThan


def _check_differ(this: Asked, that: Asked, n: int) -> None:
    """Refuse a class against itself; warn of samples where it is, whose maps are zero."""
    if this.indices is None or that.indices is None:
        return
    same = [i for i, (a, b) in enumerate(zip(this.indices, that.indices)) if a == b]
    if len(same) == n:
        raise TargetError(
            f"The contrast compares {this.labels[0]!r} with itself, which is zero everywhere. Give two classes; None "
            "means the predicted one."
        )
    if same:
        warnings.warn(
            f"In sample {', '.join(map(str, same[:10]))} the contrast compares a class with itself; the map is zero.",
            InterpWarning,
            stacklevel=5,
        )


class Predicted(FromPrediction):
    """What the model predicts: the class, all labels, the only output, a detector's first box; `target=None`."""

    def __repr__(self) -> str:
        return "Predicted()"

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        """The predicted class of each sample, or the output where it is one value per sample."""
        if prediction.foremost is not None:
            return prediction.foremost.resolve(prediction, spec, n)
        classes, output = prediction.classes, prediction.output
        if prediction.two is not None and output.numel() == n:
            classes = prediction.two.predicted(output).reshape(n).tolist()
        if classes is not None:
            return Asked.of_classes(classes, spec, prediction)
        if output.numel() == n:
            whole = Whole() if output.ndim < 2 else Index((0,) * (output.ndim - 1))
            return Asked(whole, None, (spec.label(0) if spec.vocab else "output",) * n)
        if output.ndim == 1 and len(output) < n:
            raise TargetError(
                f"The output of shape {tuple(output.shape)} holds no row for each of {n} samples. If the input is one "
                "sample, it needs the batch axis, which comes first: x[None]. Else give target=: a function "
                "output -> (N,)."
            )
        named = spec.vocab is not None and output.ndim == 2
        names = f" ({', '.join(map(str, (spec.vocab or ())[:6]))}, ...)" if named else ""
        raise TargetError(
            f"No default target for an output of shape {tuple(output.shape)} ({n} samples){names}. Give target=: an "
            "index or a tuple of indices per dimension after the batch, core.region.ClassRegion() or "
            "core.region.Region for a segmentation, or a function output -> (N,)."
        )

    def resolve_each(self, prediction: Prediction, spec: InputSpec, n: int) -> list[Asked]:
        """Every predicted label; up to four outputs of a regression."""
        shape = prediction.output.shape
        if prediction.several is not None:
            columns = prediction.labels()
        elif prediction.classes is None and len(shape) == 2 and 1 < shape[1] <= _FEW:
            columns = list(range(shape[1]))
        else:
            return [self.resolve(prediction, spec, n)]
        return [Asked.of_classes((c,) * n, spec, prediction) for c in columns]


def ask(target: Any, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
    """What one target asks of a batch; `target` is anything that `explain` takes for one explanation."""
    return named_target(target, prediction, spec, n).resolve(prediction, spec, n)


def named_target(target: Any, prediction: Prediction, spec: InputSpec, n: int) -> Target:
    """`explain`'s rules for one target: None is the predicted class, text and bool are entries of the vocabulary.

    Numbers are classes, also of a model that says two of them with one number; a tuple is an index of its output.

    Args:
        target: None, str, bool, ("label", entry), or what `as_target` takes.
        prediction: the clean output, and what it says.
        spec: class names.
        n: batch size.
    """
    if isinstance(target, Target):
        return target
    if target is None:
        return Predicted()
    if isinstance(target, tuple) and len(target) == 2 and target[0] == "label":
        target = spec.index_of(target[1])
    elif isinstance(target, str):
        target = spec.index_of(str(target))
    elif isinstance(target, (bool, np.bool_)):
        target = spec.index_of(bool(target))
    found = as_target(target, n)
    numbers = found.indices_of_rows(n) if prediction.two is not None and not isinstance(target, tuple) else None
    if numbers is None or any(len(index) != 1 for index in numbers):
        return found
    return prediction.two.scores([index[0] for index in numbers])


def as_target(target: Any, n: int) -> Target:
    """Captum's rules, plus functions and `Target` objects.

    Args:
        target: None (the output as it is); an int, NumPy int or 1-element int tensor (same index for all); a tuple
            of ints or slices (index of the output's dimensions after the batch, same for all); a list or 1-D tensor
            of n ints, or a list of n tuples (one per sample); a callable output -> (N,); a `Target`.
        n: batch size.

    Raises:
        TargetError: anything else, or a length that is not n.
    """
    if isinstance(target, Target):
        return _translated(target, n)
    if target is None:
        return Whole()
    found = as_indices(target, n)
    if found is not None:
        return Index(found) if isinstance(found, tuple) else PerSample(found)
    if callable(target):
        check_no_transform(target)
        return Function(target)
    raise TargetError(
        f"Target type {type(target)} is not valid: {target!r}. Use an int, a tuple, a list or tensor with one index "
        "per sample, a function output -> (N,), or a Target."
    )


def _translated(target: Target, n: int) -> Target:
    """A target with Captum's rules for what it is made of; itself where these are targets already."""
    parts: list[tuple[Any, Target]] = []

    def part(given: Any) -> Target:
        parts.append((given, as_target(given, n)))
        return parts[-1][1]

    made = target.map(part)
    return made if any(new is not given for given, new in parts) else target
