"""What the model says, and what of it is explained: the clean output, its prediction, and the targets asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .batching import auto_chunk, chunks
from .errors import TargetError
from .forward import Forward
from .spec import InputSpec
from .target import Index, PerSample, Target, Whole, as_target


@dataclass(frozen=True)
class Asked:
    """A target for the whole batch, with what is known of it per sample."""

    target: Target
    indices: tuple[Any, ...] | None
    labels: tuple[Any, ...]


@dataclass(frozen=True)
class Prediction:
    """The model's clean output (on its device), and its classes where it has a class axis."""

    output: Tensor
    classes: tuple[int, ...] | None
    probabilities: Tensor | None


def predict(forward: Forward, inputs: Sequence[Tensor], activation: Callable[[Tensor], Tensor] | None) -> Prediction:
    """Run the model once on every sample.

    Args:
        forward: model and arguments; its target is not used.
        inputs: checked inputs.
        activation: output -> probabilities. None: softmax over dimension 1 for outputs (N, C > 1), unless the rows
            already are probabilities.
    """
    n = inputs[0].shape[0]

    def work(start: int, stop: int) -> Tensor:
        if stop - start == n:
            return forward.raw(inputs)
        rows = torch.arange(start, stop, device=inputs[0].device)
        return forward.raw([x[start:stop] for x in inputs], rows)

    with torch.no_grad():
        size = max(auto_chunk(list(inputs)), min(n, 64))
        parts = [part for _, _, part in chunks(n, size, work)]
        output = parts[0] if len(parts) == 1 else torch.cat(parts)
        classes = probabilities = None
        if output.ndim == 2 and output.shape[0] == n and output.shape[1] > 1:
            classes = tuple(output.argmax(1).tolist())
            probabilities = _softmax(output) if activation is None else activation(output)
        elif activation is not None:
            probabilities = activation(output)
    return Prediction(output, classes, probabilities)


def _softmax(output: Tensor) -> Tensor:
    wide = output.float()
    already = bool((wide >= 0).all()) and bool((wide.sum(1) - 1).abs().max() < 1e-3)
    return output if already else output.float().softmax(1)


def asked_targets(target: Any, prediction: Prediction, spec: InputSpec, n: int) -> list[Asked]:
    """Resolve what the user asks for; a list means several explanations per sample.

    Args:
        target: None (the predicted class), int (index), str or bool (label), ("label", entry), tuple (output index),
            tensor or array of n indices (one per sample), `Target`, function output -> (N,), or a list of these.
        prediction: the clean output.
        spec: class names.
        n: batch size.
    """
    if isinstance(target, list):
        if not target:
            raise TargetError("target is an empty list; give at least one class, or None for the predicted class.")
        return [one for t in target for one in asked_targets(t, prediction, spec, n)]
    return [_asked(target, prediction, spec, n)]


def _asked(target: Any, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
    shape = tuple(prediction.output.shape)
    if target is None:
        if prediction.classes is not None:
            return _per_sample(prediction.classes, spec)
        if prediction.output.numel() == n:
            whole = Whole() if prediction.output.ndim < 2 else Index((0,) * (prediction.output.ndim - 1))
            return Asked(whole, None, ("output",) * n)
        raise TargetError(
            f"No default target for an output of shape {shape} ({n} samples). Give target=: an index or a tuple of "
            "indices per dimension after the batch, a core.target.Region for a segmentation, or a function "
            "output -> (N,)."
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
            "a core.target.Region for a segmentation, or a function output -> (N,)."
        )
    if isinstance(chosen, Index) and len(chosen.index) == 1 and isinstance(chosen.index[0], int):
        return _per_sample((chosen.index[0] % max(shape[1], 1),) * n, spec)
    if isinstance(chosen, PerSample) and all(len(i) == 1 and isinstance(i[0], int) for i in chosen.indices):
        return _per_sample(tuple(int(i[0]) % max(shape[1], 1) for i in chosen.indices), spec)  # type: ignore[arg-type]
    labels = tuple(chosen.describe(i) or "output" for i in range(n))
    return Asked(chosen, None, labels)


def _per_sample(classes: Sequence[int], spec: InputSpec) -> Asked:
    return Asked(PerSample([(c,) for c in classes]), tuple(classes), tuple(spec.label(c) for c in classes))


def target_probability(asked: Asked, prediction: Prediction) -> Tensor | None:
    """The probability of the class asked for, per sample, or None where the target is no class."""
    p = prediction.probabilities
    if p is None or asked.indices is None or p.ndim != 2 or p.shape[0] != len(asked.indices):
        return None
    if max(asked.indices) >= p.shape[1]:
        return None
    return p[torch.arange(p.shape[0]), torch.tensor(asked.indices)].float().cpu()
