"""What the model says: the clean output, its prediction, and the probability of what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from interp_plugins.core.detection import Detection, is_table
from interp_plugins.core.forward import Forward
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.target import Asked
from interp_plugins.engine import alone, cached_pass, clean_scores, first_pass


def predict(
    forward: Forward,
    inputs: Sequence[Tensor],
    activation: Callable[[Tensor], Tensor | None] | None,
    threshold: float | None = None,
    gradient_follows: bool = False,
) -> Prediction:
    """Run the model once on every sample.

    Args:
        forward: model and arguments; its target is not used.
        inputs: checked inputs.
        activation: output -> probabilities, or None where the outputs are no classes (a regression). None: softmax
            over dimension 1 for outputs (N, C > 1), unless the rows already are probabilities.
        threshold: the probability from which a label is predicted, where labels do not exclude each other.
        gradient_follows: whether the gradients at these samples are asked for next: then the pass keeps its graph.
    """
    n = inputs[0].shape[0]
    first = first_pass(forward, inputs, make=gradient_follows)
    with torch.no_grad():
        if first is None:
            output = clean_scores(forward, inputs)
        elif alone():
            output = first.output.detach()
        else:
            output = cached_pass(forward, inputs, "output", first.output.detach)
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
    return Prediction(output, classes, probabilities, several, picture, Detection() if is_table(output) else None)


def _above(probabilities: Tensor, threshold: float) -> tuple[int, ...]:
    """The labels of one sample, the most probable first."""
    order = probabilities.argsort(descending=True, stable=True).tolist()
    return tuple(i for i in order if probabilities[i] > threshold)


def _softmax(output: Tensor) -> Tensor:
    wide = output.float()
    already = bool((wide >= 0).all()) and bool((wide.sum(1) - 1).abs().max() < 1e-3)
    return output if already else output.float().softmax(1)


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
