"""What a layer computes, and its gradient: LayerActivation and LayerGradientXActivation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.base import InternalMultipliesByInputs, LayerAttribution, batch_gradients, prepared
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import Inputs, LayerMaps, credit


@register(
    "layer_activation",
    aliases=("activation",),
    needs="forward",
    site="layer",
    cost="1 forward",
    assumes="no class",
)
class LayerActivation(LayerAttribution):
    """The tensor that a layer gives (or takes), as it is.

    Example:
        LayerActivation(model, "0").attribute(x).shape  # -> (2, 4, 22, 22)
    """

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: an activation is no gradient."""
        return True

    @args_from()
    def attribute(
        self, inputs: Inputs, additional_forward_args: Any = None, attribute_to_layer_input: bool = False
    ) -> LayerMaps:
        """The activation of the layer's output (or input), of its own shape; a tuple if it has several tensors.

        Args:
            attribute_to_layer_input: read the layer's input instead of its output.
        """
        layers = self.resolved_layers(attribute_to_layer_input)
        with (
            prepared(self.forward_func, inputs, None, additional_forward_args) as (xs, forward),
            torch.no_grad(),
        ):
            forward.passes["forward"] += xs[0].shape[0]
            _, found = forward.read(xs, None, layers)
            tensors = [t.detach() for tensors in found for t in tensors]
            return self.by_sample(forward, layers, tensors, [len(t) for t in found])


@register(
    "layer_gradient_x_activation",
    aliases=("gradient_x_activation",),
    site="layer",
    variant_of="input_x_gradient",
    shares_targets=True,
    begins_with_gradient=True,
    game="gradient",
)
class LayerGradientXActivation(InternalMultipliesByInputs, LayerAttribution):
    """Activation times the gradient of the score with respect to it.

    Args:
        forward_func: model or callable.
        layer: module, dotted name, `core.layers.Layer`, or a list of these.
        device_ids: not needed.
        multiply_by_inputs: False returns the gradient alone.
        memory_efficient: accepted for Captum's sake; long batches are cut into chunks here.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Any,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        memory_efficient: bool = False,
    ):
        super().__init__(forward_func, layer, device_ids, multiply_by_inputs)

    @args_from()
    def attribute(
        self,
        inputs: Inputs,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        batch_size: int | None = None,
    ) -> LayerMaps:
        """Gradient times activation, of the layer's shape; all layers of a list in one pass."""
        layers = self.resolved_layers(attribute_to_layer_input)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            got = batch_gradients(forward, xs, wrt=layers, chunk=check_chunk("batch_size", batch_size))
            maps = got.grads
            if self._multiply_by_inputs:
                maps = tuple(credit(a, g) for g, a in zip(got.grads, got.activations, strict=True))
            return self.by_sample(forward, layers, maps, got.counts)
