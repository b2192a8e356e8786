"""GuidedBackprop, Deconvolution and GuidedGradCam: gradients with another rule at the rectifiers.

The rules and their sources are in `attr/backward/rules/rectifier.py`; GuidedGradCam is Selvaraju et al. 2017,
arXiv:1610.02391. Guided backpropagation and deconvolution change little when a network's upper layers are made random
(Adebayo et al. 2018, arXiv:1810.03292): they draw edges rather than explain the class. Cost: one forward and one
backward pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from interp_plugins.attr.backward.rules.call import Rule
from interp_plugins.attr.backward.rules.reach import check_lost
from interp_plugins.attr.backward.rules.rectifier import RectifierMode, deconvolution, guided
from interp_plugins.attr.backward.rules.scope import under
from interp_plugins.attr.cam.grad_cam import LayerGradCam
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.base import (
    GradientAttribution,
    LayerAttribution,
    NeuronAttribution,
    batch_gradients,
    prepared,
)
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InterpWarning, LayerError
from interp_plugins.core.forward import Forward, Gradients, gradients
from interp_plugins.core.registry import family, register
from interp_plugins.core.tensors import InputsT, check_float, like


def _ruled_gradients(rule: Rule, forward: Forward, *args: Any, **kwargs: Any) -> Gradients:
    mode = RectifierMode(rule)
    with under(forward, mode) as problem:
        return check_lost(mode, gradients(problem, *args, **kwargs))


@family(shares_targets=True)
class _Rectified(GradientAttribution):
    """The gradient with another rule at the rectifiers.

    Args:
        model: model or callable.
    """

    rule: Rule

    def __init__(self, model: Callable[..., Any]):
        super().__init__(model)

    @args_from()
    def attribute(
        self, inputs: InputsT, target: Any = None, additional_forward_args: Any = None, *, batch_size: int | None = None
    ) -> InputsT:
        """The changed gradient, of the inputs' shapes; arguments and errors as in `Saliency.attribute`."""
        size = check_chunk("batch_size", batch_size)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            rule = type(self).rule
            compute = partial(_ruled_gradients, rule)
            return like(inputs, batch_gradients(forward, xs, chunk=size, compute=compute, known_as=rule).grads)


class _Guided(_Rectified):
    rule = staticmethod(guided)


@register(
    "guided_backprop",
    aliases=("gbp", "guided_backpropagation"),
    reference="Springenberg et al. 2014, arXiv:1412.6806",
    cost="1 forward, 1 backward",
    assumes="ReLU network",
)
class GuidedBackprop(_Guided):
    """Gradient that passes rectifiers only where it and the activation are positive.

    Example:
        GuidedBackprop(model).attribute(x, target=3).shape  # -> (2, 3, 24, 24)
    """


@register(
    "deconvolution",
    aliases=("deconvnet", "deconv"),
    reference="Zeiler and Fergus 2013, arXiv:1311.2901",
    cost="1 forward, 1 backward",
    assumes="ReLU network",
)
class Deconvolution(_Rectified):
    """Gradient that passes rectifiers where it is positive, whatever the activation."""

    rule = staticmethod(deconvolution)


class _NeuronRectified(NeuronAttribution, GradientAttribution):
    plain: type[_Rectified]

    def __init__(self, model: Callable[..., Any], layer: Any, device_ids: list[int] | None = None):
        super().__init__(model, layer, device_ids)

    @args_from()
    def attribute(
        self,
        inputs: InputsT,
        neuron_selector: Any,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> InputsT:
        """The changed gradient of the neuron chosen as in `NeuronGradient.attribute`."""
        func = self.neuron_func(neuron_selector, attribute_to_neuron_input)
        return self.plain(func).attribute(inputs, additional_forward_args=additional_forward_args)


@register(
    "neuron_guided_backprop",
    site="neuron",
    variant_of="guided_backprop",
)
class NeuronGuidedBackprop(_NeuronRectified):
    """Guided backpropagation of a neuron."""

    plain = GuidedBackprop


@register(
    "neuron_deconvolution",
    site="neuron",
    variant_of="deconvolution",
)
class NeuronDeconvolution(_NeuronRectified):
    """Deconvolution from a neuron to the inputs."""

    plain = Deconvolution


@register(
    "guided_grad_cam",
    aliases=("guided_gradcam",),
    title="Guided Grad-CAM",
    reference="Selvaraju et al. 2017, arXiv:1610.02391",
    cost="2 forward, 2 backward",
    assumes="ReLU network; the layer's last axes are places",
)
class GuidedGradCam(GradientAttribution):
    """Guided backpropagation times the enlarged, rectified Grad-CAM of a layer.

    Args:
        model: model or callable.
        layer: a convolutional layer: module, dotted name or `core.layers.Layer`.
        device_ids: not needed.
    """

    def __init__(self, model: Callable[..., Any], layer: Any, device_ids: list[int] | None = None):
        super().__init__(model)
        self.layer, self.device_ids = layer, device_ids

    @args_from()
    def attribute(
        self,
        inputs: InputsT,
        target: Any = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
        *,
        batch_size: int | None = None,
    ) -> InputsT:
        """The product, of the inputs' shapes.

        Args:
            inputs: tensor or tuple of tensors, batch first, floating point.
            interpolate_mode: how the layer's map is enlarged ("nearest", "bilinear", ...). A layer without spatial
                dimensions weighs each sample by one number.
            attribute_to_layer_input: use the layer's input instead of its output.

        Returns:
            Maps of the inputs' shapes; an empty tensor, with a warning, for an input to whose size the layer's map
            cannot be enlarged.

        Raises:
            LayerError: the layer has several tensors.
        """
        cam = LayerGradCam(self.forward_func, self.layer).attribute(
            inputs,
            target,
            additional_forward_args,
            attribute_to_layer_input,
            relu_attributions=True,
            batch_size=batch_size,
        )
        if not isinstance(cam, Tensor):
            raise LayerError(
                f"GuidedGradCam attributions for layer with multiple inputs / outputs is not supported: the layer gave "
                f"{len(cam)} tensors. Choose a layer with one."
            )
        grads = _Guided(self.forward_func).attribute(inputs, target, additional_forward_args, batch_size=batch_size)
        many: tuple[Tensor, ...] = grads if isinstance(grads, tuple) else (grads,)
        return like(inputs, [_weighted(g, cam, interpolate_mode, i) for i, g in enumerate(many)])


def _weighted(grad: Tensor, cam: Tensor, mode: str, i: int) -> Tensor:
    """The gradient times the map (N, 1, ...) at its size; empty, with a warning, where that cannot be had."""
    if cam.ndim == 2:
        return grad * cam.reshape(-1, *(1,) * (grad.ndim - 1))
    try:
        if cam.ndim != grad.ndim:
            raise ValueError("they have different numbers of spatial dimensions")
        return grad * LayerAttribution.interpolate(cam, tuple(grad.shape[2:]), mode)
    except (NotImplementedError, ValueError) as error:
        warnings.warn(
            f"The layer's map of shape {tuple(cam.shape)} cannot be enlarged to inputs[{i}] of shape "
            f"{tuple(grad.shape)} by interpolate_mode={mode!r} ({error}): its result is an empty tensor. Choose a "
            "layer whose tensor is laid out like the input, or another mode.",
            InterpWarning,
            stacklevel=3,
        )
        return grad.new_empty(0)
