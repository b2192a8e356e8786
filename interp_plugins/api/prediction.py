"""What the model says, and what of it is explained: the clean output, its prediction, and the targets asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.detection import Box, Detection, is_table
from interp_plugins.core.errors import InterpWarning, TargetError
from interp_plugins.core.forward import Forward
from interp_plugins.core.multi_target import AllClasses
from interp_plugins.core.region import ClassRegion
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Contrast, Index, PerSample, Probability, Region, Target, Whole, as_target
from interp_plugins.engine import clean_scores

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


@dataclass(frozen=True)
class Prediction:
    """The model's clean output (on its device), and what it says.

    Attributes:
        output: as the model returned it.
        classes: the class with the highest score per sample, where the outputs are classes (N, C > 1).
        probabilities: of the output's shape, or None.
        several: for labels that do not exclude each other, those of each sample, the most probable first; else None.
        size: height and width of the first input that is a picture, or None.
    """

    output: Tensor
    classes: tuple[int, ...] | None
    probabilities: Tensor | None
    several: tuple[tuple[int, ...], ...] | None = None
    size: tuple[int, int] | None = None


def predict(
    forward: Forward,
    inputs: Sequence[Tensor],
    activation: Callable[[Tensor], Tensor | None] | None,
    threshold: float | None = None,
) -> Prediction:
    """Run the model once on every sample.

    Args:
        forward: model and arguments; its target is not used.
        inputs: checked inputs.
        activation: output -> probabilities, or None where the outputs are no classes (a regression). None: softmax
            over dimension 1 for outputs (N, C > 1), unless the rows already are probabilities.
        threshold: the probability from which a label is predicted, where labels do not exclude each other.
    """
    n = inputs[0].shape[0]
    with torch.no_grad():
        output = clean_scores(forward, inputs)
        classes = probabilities = None
        if output.ndim == 2 and output.shape[0] == n and output.shape[1] > 1:
            probabilities = _softmax(output) if activation is None else activation(output)
            classes = tuple(output.argmax(1).tolist()) if probabilities is not None else None
        elif activation is not None:
            probabilities = activation(output)
    several = None
    if threshold is not None and classes is not None and probabilities is not None:
        several = tuple(_above(row, threshold) for row in probabilities)
    picture = next(((int(x.shape[2]), int(x.shape[3])) for x in inputs if x.ndim == 4), None)
    return Prediction(output, classes, probabilities, several, picture)


def _above(probabilities: Tensor, threshold: float) -> tuple[int, ...]:
    """The labels of one sample, the most probable first."""
    order = probabilities.argsort(descending=True, stable=True).tolist()
    return tuple(i for i in order if probabilities[i] > threshold)


def _softmax(output: Tensor) -> Tensor:
    wide = output.float()
    already = bool((wide >= 0).all()) and bool((wide.sum(1) - 1).abs().max() < 1e-3)
    return output if already else output.float().softmax(1)


def asked_targets(target: Any, prediction: Prediction, spec: InputSpec, n: int) -> list[Asked]:
    """Resolve what the user asks for; a list means several explanations per sample.

    Args:
        target: None (the predicted class), int (index), str or bool (label), ("label", entry), tuple (output index),
            tensor or array of n indices (one per sample), `Target`, function output -> (N,), or a list of these.
            `Contrast` may hold any of them but lists. None gives several where the model predicts several labels.
        prediction: the clean output.
        spec: class names.
        n: batch size.
    """
    if isinstance(target, AllClasses) or (isinstance(target, str) and target == "all" and not _named(spec, "all")):
        return _every_class(prediction, spec, n)
    if isinstance(target, list):
        if not target:
            raise TargetError("target is an empty list; give at least one class, or None for the predicted class.")
        return [one for t in target for one in asked_targets(t, prediction, spec, n)]
    if target is None and prediction.several is not None:
        return [_per_sample((c,) * n, spec) for c in _union(prediction)]
    shape = prediction.output.shape
    if target is None and prediction.classes is None and len(shape) == 2 and 1 < shape[1] <= _FEW:
        return [_per_sample((i,) * n, spec) for i in range(shape[1])]
    return [_asked(target, prediction, spec, n)]


def _named(spec: InputSpec, label: str) -> bool:
    """Whether a class has this name."""
    return spec.vocab is not None and any(str(v).lower() == label for v in spec.vocab)


def _every_class(prediction: Prediction, spec: InputSpec, n: int) -> list[Asked]:
    """Each column of (N, C); for a segmentation the region of each class that is predicted anywhere in the batch."""
    output = prediction.output
    if output.ndim == 2:
        return [_per_sample((c,) * n, spec) for c in range(output.shape[1])]
    if output.ndim != 4:
        raise TargetError(
            f"target='all' means every class of an output (N, C) or (N, C, H, W), but the model's output has shape "
            f"{tuple(output.shape)}. Give a list of targets."
        )
    found = torch.unique(output[:, 0] > 0).long() if output.shape[1] == 1 else torch.unique(output.argmax(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InterpWarning)  # a class that one sample lacks has an empty map there
        return [_asked(ClassRegion(int(c)), prediction, spec, n) for c in found.tolist()]


def _union(prediction: Prediction) -> list[int]:
    """Every label predicted for any sample, the most probable first; a sample without one counts its most probable."""
    assert prediction.several is not None and prediction.classes is not None and prediction.probabilities is not None
    found = {i for row, best in zip(prediction.several, prediction.classes) for i in (row or (best,))}
    highest = prediction.probabilities.amax(0).tolist()
    return sorted(found, key=lambda i: -highest[i])


def _asked(target: Any, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
    shape = tuple(prediction.output.shape)
    if isinstance(target, Contrast):
        return _contrast(target, prediction, spec, n)
    if isinstance(target, Probability):
        of = _asked(target.of, prediction, spec, n)
        return Asked(Probability(of.target), None, tuple(f"p({label})" for label in of.labels))
    if isinstance(target, ClassRegion):
        region, classes = target.resolve(prediction.output, spec)
        return Asked(region, None, tuple(spec.label(c) for c in classes), classes, region.mask)
    if target is None and is_table(prediction.output):
        target = Detection()
    if isinstance(target, (Box, Detection)):
        return _box(target, prediction, spec, n)
    if target is None:
        if prediction.classes is not None:
            return _per_sample(prediction.classes, spec)
        if prediction.output.numel() == n:
            whole = Whole() if prediction.output.ndim < 2 else Index((0,) * (prediction.output.ndim - 1))
            return Asked(whole, None, ("output",) * n)
        names = f" ({', '.join(map(str, spec.vocab[:6]))}, ...)" if spec.vocab is not None and len(shape) == 2 else ""
        raise TargetError(
            f"No default target for an output of shape {shape} ({n} samples){names}. Give target=: an index or a tuple "
            "of indices per dimension after the batch, core.region.ClassRegion() or core.target.Region for a "
            "segmentation, or a function output -> (N,)."
        )
    if isinstance(target, tuple) and len(target) == 2 and target[0] == "label":
        target = spec.index_of(target[1])
    elif isinstance(target, np.str_):
        target = spec.index_of(str(target))
    elif isinstance(target, (str, bool, np.bool_)):
        target = spec.index_of(target if isinstance(target, str) else bool(target))
    chosen = as_target(target, n)
    scores = chosen(prediction.output)  # out of range is said here, before any work
    if scores.numel() != n:
        raise TargetError(
            f"The target {target!r} leaves values of shape {tuple(scores.shape)} for {n} samples (output of shape "
            f"{shape}); an explanation is of one scalar per sample. Give an index for every dimension after the batch, "
            "core.region.ClassRegion() or core.target.Region for a segmentation, or a function output -> (N,)."
        )
    if isinstance(chosen, Index) and len(chosen.index) == 1 and isinstance(chosen.index[0], int):
        return _per_sample((chosen.index[0] % max(shape[1], 1),) * n, spec)
    if isinstance(chosen, PerSample) and all(len(i) == 1 and isinstance(i[0], int) for i in chosen.indices):
        return _per_sample(tuple(int(i[0]) % max(shape[1], 1) for i in chosen.indices), spec)  # type: ignore[arg-type]
    labels = tuple(chosen.describe(i) or "output" for i in range(n))
    return Asked(chosen, None, labels)


def _box(target: Box | Detection, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
    """A box, with its class and score in words, and where it lies."""
    box = target if isinstance(target, Box) else target.resolve(prediction.output, spec)[0]
    scores = box(prediction.output).tolist()
    names = [spec.label(c) for c in box.label.expand(n).tolist()]
    labels = tuple(f"{name} box {score:.2f}" for name, score in zip(names, scores))
    return Asked(box, None, labels, region=None if prediction.size is None else box.mask(prediction.size, n))


def _contrast(target: Contrast, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
    this, that = (_asked(t, prediction, spec, n) for t in (target.this, target.that))
    if this.region is not None and that.classes is not None:  # this class rather than that one, in the same place
        one_channel = prediction.output.shape[1] == 1
        that = replace(that, target=Region(0 if one_channel else that.classes, this.region))
    if this.indices is not None and that.indices is not None:
        same = [i for i, (a, b) in enumerate(zip(this.indices, that.indices)) if a == b]
        if len(same) == n:
            raise TargetError(
                f"The contrast compares {this.labels[0]!r} with itself, which is zero everywhere. Give two classes; "
                "None means the predicted one."
            )
        if same:
            warnings.warn(
                f"In sample {', '.join(map(str, same[:10]))} the contrast compares a class with itself; the map is "
                "zero.",
                InterpWarning,
                stacklevel=4,
            )
    labels = tuple(f"{a} rather than {b}" for a, b in zip(this.labels, that.labels))
    return Asked(Contrast(this.target, that.target), None, labels, region=this.region)


def _per_sample(classes: Sequence[int], spec: InputSpec) -> Asked:
    return Asked(PerSample([(c,) for c in classes]), tuple(classes), tuple(spec.label(c) for c in classes))


def target_probability(asked: Asked, prediction: Prediction) -> Tensor | None:
    """The probability of the class asked for (over a region its mean) per sample, or None where it is no class."""
    p = prediction.probabilities
    if p is not None and p.shape == prediction.output.shape and asked.classes is not None:
        return _in_region(p, asked)
    if p is None or asked.indices is None or p.ndim != 2 or p.shape[0] != len(asked.indices):
        return None
    if max(asked.indices) >= p.shape[1]:
        return None
    return p[torch.arange(p.shape[0]), torch.tensor(asked.indices)].float().cpu()


def _in_region(probabilities: Tensor, asked: Asked) -> Tensor:
    """Mean probability of each sample's class over its region; 0 for an empty one."""
    assert asked.classes is not None and asked.region is not None
    channels = probabilities.shape[1]  # one channel is the second of two classes
    found = [probabilities[i, min(c, channels - 1)][asked.region[i]] for i, c in enumerate(asked.classes)]
    return torch.stack([p.float().mean() if p.numel() else p.new_zeros(()).float() for p in found]).cpu()
