"""FullGrad (Srinivas and Fleuret, NeurIPS 2019, arXiv:1905.00780): the input's gradient and those of all biases.

A net of linear layers, biases and ReLUs is exactly  F(x) = x * dF/dx + sum over layers of b * dF/db.  The map is

    psi(x * dF/dx) + sum over layers and channels of psi(b * dF/dy),   psi = enlarge(rescale(|.|))

where y is the layer's output and b its bias (of a BatchNorm: beta - mean * gamma / std); rescale maps a sample's values
of one layer onto [0, 1]. Layers without axes of space (the classifier) have no place on the map. Cost: two forward and
two backward passes per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.base import GradientAttribution, batch_gradients, prepared
from interp_plugins.attr.shared.grid_layer import shapes_of_modules
from interp_plugins.attr.shared.images import check_one_picture
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.enlarged import enlarged
from interp_plugins.core.errors import LayerError, ModelError
from interp_plugins.core.forward import Forward
from interp_plugins.core.guard import modules_below, modules_of
from interp_plugins.core.layers import Layer, refuse_script
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT, check_float, credit, like

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def bias_of(module: nn.Module) -> Tensor | None:
    """What a layer adds to a linear function of its input, per channel (C,); None where it adds nothing."""
    if isinstance(module, _NORMS):
        if module.running_mean is None or module.running_var is None:
            return None
        scale = (module.running_var + module.eps).rsqrt()
        scale = scale if module.weight is None else scale * module.weight
        shift = -module.running_mean * scale
        return (shift if module.bias is None else shift + module.bias).detach()
    if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) and module.bias is not None:
        return module.bias.detach()
    return None


def bias_layers(forward: Forward, inputs: Sequence[Tensor]) -> list[tuple[Layer, Tensor]]:
    """Every call of every layer with a bias, in one forward pass, with the bias."""
    calls: dict[int, int] = {}
    found = []
    for module in modules_below(modules_of(forward.func)):
        refuse_script(module)
    for one in shapes_of_modules(forward, inputs):
        bias = bias_of(one.module)
        if bias is not None:
            call = calls[id(one.module)] = calls.get(id(one.module), -1) + 1
            found.append((Layer(one.module, "output", call), bias))
    return found


def full_gradient(
    forward: Forward, xs: tuple[Tensor, ...], chunk: int | None = None
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """X * dF/dx per input; b * dF/dy per layer with a bias, of its output's shape; the scores."""
    got = batch_gradients(forward, xs, chunk=chunk)
    parts = [credit(x, g) for x, g in zip(xs, got.grads, strict=True)]
    layers = bias_layers(forward, xs)
    if not layers:
        return parts, [], got.scores
    grads = batch_gradients(forward, xs, wrt=[layer for layer, _ in layers], chunk=chunk).grads
    biases = []
    for (layer, bias), g in zip(layers, grads, strict=True):
        axis = g.ndim - 1 if isinstance(layer.module, nn.Linear) else 1
        biases.append(g * bias.to(g).reshape([-1 if d == axis else 1 for d in range(g.ndim)]))
    return parts, biases, got.scores


def _psi(part: Tensor, size: Sequence[int]) -> Tensor:
    """|part| on [0, 1] per sample, enlarged and summed over the channels: (N, 1, *size)."""
    part = part.abs()
    low, high = part.flatten(1).amin(1), part.flatten(1).amax(1)
    wide = (-1, *(1,) * (part.ndim - 1))
    span = (high - low).where(high > low, torch.ones_like(high))
    # Enlarging is linear: the sum over the channels may come first.
    return enlarged(((part - low.reshape(wide)) / span.reshape(wide)).sum(1, keepdim=True), size)


def _check_rows(part: Tensor, n: int) -> None:
    """Refuse a layer whose rows are no samples: where they lie in the picture is not known."""
    if len(part) != n:
        raise LayerError(
            f"FullGrad lays the gradient of a layer's bias on the picture, and a layer of this model runs on "
            f"{len(part)} rows for {n} samples (cells, crops or frames folded into the batch), whose places are not "
            "known. Use a method of the input."
        )


@register(
    "full_grad",
    unsigned=True,
    aliases=("fullgrad",),
    title="FullGrad",
    reference="Srinivas and Fleuret 2019, arXiv:1905.00780",
    applies_to="image",
    cost="2 forward, 2 backward",
    assumes="ReLU network; sign does not matter",
)
class FullGrad(GradientAttribution):
    """Input gradient and bias gradients of all layers in one map of the input's size; positive, without sign."""

    @args_from()
    def attribute(
        self, inputs: InputsT, target: Any = None, additional_forward_args: Any = None, *, batch_size: int | None = None
    ) -> InputsT:
        """The map (N, 1, H, W) (or (N, 1, L), (N, 1, D, H, W)).

        Args:
            inputs: one tensor with axes of space, (N, C, H, W) for pictures.

        Raises:
            InputError: several inputs, or an input without axes of space.
            ModelError: the model is no `nn.Module` with layers to look into.
            LayerError: a layer runs on other rows than the samples (cells or crops folded into the batch).
        """
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            check_one_picture("FullGrad", xs)
            if not modules_of(forward.func):
                raise ModelError(
                    "FullGrad reads the biases of the layers, and there is no nn.Module behind this callable. Give the "
                    "module, or a function that holds it."
                )
            parts, biases, _ = full_gradient(forward, xs, check_chunk("batch_size", batch_size))
            size = tuple(xs[0].shape[2:])
            total = _psi(parts[0], size)
            for part in biases:
                if part.ndim == xs[0].ndim:
                    _check_rows(part, len(total))
                    total = total + _psi(part, size)
            return like(inputs, (total,))
