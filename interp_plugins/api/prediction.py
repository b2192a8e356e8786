"""What the model says: the clean output, its prediction, and the probability of what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.attr.shared.grid_layer import last_grid_layer
from interp_plugins.core.detection import Detection, is_table
from interp_plugins.core.errors import InputTypeError, ModelError
from interp_plugins.core.forward import Forward
from interp_plugins.core.introduced import batch_axis_told, introduced
from interp_plugins.core.layers import Layer
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.target import Asked
from interp_plugins.core.tensors import describe
from interp_plugins.core.two_classes import TwoClasses, two_classes
from interp_plugins.engine import alone, cached_pass, clean_scores, first_pass


def default_layer(forward: Forward, inputs: Sequence[Tensor], body: nn.Module | None) -> Layer:
    """The layer to explain where none is named (`last_grid_layer`)."""
    with introduced(forward, inputs), batch_axis_told(inputs):
        return last_grid_layer(forward, inputs, body)


def predict(
    forward: Forward,
    inputs: Sequence[Tensor],
    activation: Callable[[Tensor], Tensor | None] | None,
    threshold: float | None = None,
    gradient_follows: bool = False,
    names: Sequence[Any] | None = None,
    graph: bool = True,
    layers: Sequence[Layer] | None = None,
) -> Prediction:
    """Run the model once on every sample.

    Args:
        forward: model and arguments; its target is not used.
        inputs: checked inputs.
        activation: output -> probabilities, or None where the outputs are no classes (a regression). None: softmax
            over dimension 1 for outputs (N, C > 1), unless the rows already are probabilities.
        threshold: the probability from which a label is predicted, where labels do not exclude each other.
        gradient_follows: whether the gradients at these samples are asked for next, or a layer there: then the pass
            notes what every module gave, and keeps its graph.
        names: class names; of two, one number per sample says both (`core.two_classes`).
        graph: False: no method asks for gradients, and the pass has no graph.
        layers: where alone they are asked for, if so.
    """
    n = inputs[0].shape[0]
    output = _clean_output(forward, inputs, gradient_follows, graph, layers)
    with torch.no_grad():
        classes = probabilities = None
        if output.dtype == torch.bool:
            raise ModelError(
                f"The model returned {describe(output)}: a yes or no has no change to explain. Return the score that "
                "is compared, or a float (output.float()) for methods that only evaluate the model."
            )
        two = two_classes(output, n, names, activation, threshold, lambda: forward.raw(inputs))
        if two is not None and two.logits is not None:
            return _of_two(two, output, n, _size(inputs))
        if output.ndim == 2 and output.shape[0] == n and output.shape[1] > 1 and not output.is_complex():
            probabilities = _softmax(output) if activation is None else _of_activation(activation, output.clone())
            classes = tuple(output.argmax(1).tolist()) if probabilities is not None else None
        elif activation is not None:
            probabilities = _of_activation(activation, output.clone())
            if threshold is not None and names is not None and len(names) == 1 and output.shape == (n, 1):
                classes = (0,) * n  # one label, there or not
    several = None
    if threshold is not None and classes is not None and probabilities is not None:
        several = tuple(_above(row, threshold) for row in probabilities)
    foremost = Detection() if is_table(output) else None
    made: Any = None if probabilities is None else _as_it_is if probabilities is output else activation
    return Prediction(output, classes, probabilities, several, _size(inputs), foremost, two, made)


def _of_activation(activation: Callable[[Tensor], Tensor | None], output: Tensor) -> Tensor | None:
    """What the user's activation makes of the output: a tensor of its rows, or None."""
    found = activation(output)
    if found is None or (isinstance(found, Tensor) and found.ndim and found.shape[0] == output.shape[0]):
        return found
    raise InputTypeError(
        f"activation returned a {describe(found)} for an output of shape {tuple(output.shape)}; expected probabilities "
        "of its rows, or None where the outputs are no classes."
    )


def _size(inputs: Sequence[Tensor]) -> tuple[int, int] | None:
    return next(((int(x.shape[2]), int(x.shape[3])) for x in inputs if x.ndim == 4), None)


def _as_it_is(output: Tensor) -> Tensor:
    return output


def _of_two(two: TwoClasses, output: Tensor, n: int, size: tuple[int, int] | None) -> Prediction:
    """What one number per sample or pixel says of two classes."""
    classes = tuple(two.predicted(output).reshape(n).tolist()) if output.numel() == n else None
    return Prediction(output, classes, two.probabilities(output), size=size, two=two, activation=two.activation)


def _clean_output(
    forward: Forward, inputs: Sequence[Tensor], gradient_follows: bool, graph: bool, layers: Sequence[Layer] | None
) -> Tensor:
    """The output of the first pass of a call; an error of the model is introduced."""
    with introduced(forward, inputs), batch_axis_told(inputs):
        first = first_pass(forward, inputs, make=gradient_follows, graph=graph, layers=layers)
        with torch.no_grad():
            if first is None:
                return clean_scores(forward, inputs)
            return first.output.detach() if alone() else cached_pass(forward, inputs, "output", first.output.detach)


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
    if p is not None and p.ndim == prediction.output.ndim and asked.classes is not None:
        return _in_region(p, asked)
    if p is None or asked.indices is None or p.ndim != 2 or p.shape[0] != len(asked.indices):
        return None
    if max(asked.indices) >= p.shape[1]:
        return None
    return p[torch.arange(p.shape[0]), torch.tensor(asked.indices)].float().cpu()


def _in_region(probabilities: Tensor, asked: Asked) -> Tensor:
    """Mean probability of each sample's class over its region; 0 for an empty one."""
    assert asked.classes is not None and asked.region is not None
    found = [probabilities[i, c][asked.region[i]] for i, c in enumerate(asked.classes)]
    return torch.stack([p.float().mean() if p.numel() else p.new_zeros(()).float() for p in found]).cpu()
