"""DeepLift and DeepLiftShap at a layer, and of a neuron: the plain methods on another function of another variable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.backward.deep_lift import CustomAttribution, DeepLift, DeepLiftShap, pooled
from interp_plugins.attr.shared.arguments import args_from, layer_with_delta
from interp_plugins.attr.shared.at_layer import BetweenActivations, encode_rows, start_at_layer
from interp_plugins.attr.shared.base import (
    GradientAttribution,
    InternalMultipliesByInputs,
    LayerAttribution,
    NeuronAttribution,
)
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.forward import Call
from interp_plugins.core.guard import frozen
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import Inputs, InputsT, LayerMaps, check_inputs, own_tree, take_rows


class _Multiplying(InternalMultipliesByInputs):
    """Captum's constructor: no device_ids.

    Args:
        model: model or callable.
        layer: module, dotted name or `core.layers.Layer`.
        multiply_by_inputs: multiply by the difference to the baseline, the default.
    """

    def __init__(self, model: Callable[..., Any], layer: Any, multiply_by_inputs: bool = True):
        super().__init__(model, layer, multiply_by_inputs=multiply_by_inputs)


@register(
    "layer_deep_lift",
    aliases=("layer_deeplift",),
    site="layer",
    title="Layer DeepLIFT",
    variant_of="deep_lift",
    shares_targets=True,
    alone_with=("custom_attribution_func",),
)
class LayerDeepLift(_Multiplying, BetweenActivations, GradientAttribution):
    """DeepLIFT from the baseline's activation to the input's activation at a layer."""

    def plain(self, func: Any) -> DeepLift:
        """The method that runs at the layer."""
        return DeepLift(func, self._multiply_by_inputs)

    @layer_with_delta
    @args_from(DeepLift.attribute)
    def attribute(
        self,
        inputs: Inputs,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        rule: str = "rescale",
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> LayerMaps | tuple[LayerMaps, Tensor]:
        """Contributions of the layer's shape; arguments as in `DeepLift.attribute`.

        Args:
            inputs: tensor or tuple of tensors, batch first; integers are fine (token ids for an embedding).
            baselines: in *input* space; encoded to the layer. None = zeros.
            custom_attribution_func: see `DeepLift.attribute`; gets the layer's tensors.
            rule: see `DeepLift.attribute`; the layer's tensors are what contributions start from.
        """
        return self.at_layer(
            inputs,
            baselines,
            target,
            additional_forward_args,
            attribute_to_layer_input,
            return_convergence_delta=return_convergence_delta,
            custom_attribution_func=custom_attribution_func,
            rule=rule,
            batch_size=batch_size,
            progress=progress,
        ).solve()


@register(
    "layer_deep_lift_shap",
    site="layer",
    baselines="distribution",
    title="Layer DeepLIFT SHAP",
    variant_of="deep_lift_shap",
    shares_targets=True,
    alone_with=("custom_attribution_func",),
)
class LayerDeepLiftShap(_Multiplying, LayerAttribution, GradientAttribution):
    """DeepLIFT at a layer, averaged over a set of baselines in input space."""

    @layer_with_delta
    @args_from(DeepLiftShap.attribute)
    def attribute(
        self,
        inputs: Inputs,
        baselines: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
        *,
        rule: str = "rescale",
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> LayerMaps | tuple[LayerMaps, Tensor]:
        """Mean of the contributions, of the layer's shape; arguments as in `DeepLiftShap.attribute`.

        A baseline's activation may depend on the sample's further arguments, so each pair is encoded; the activations
        of all pairs are held at once.
        """
        size = check_chunk("batch_size", batch_size)
        problem = start_at_layer(
            self,
            lambda func: DeepLiftShap(func, self._multiply_by_inputs),
            inputs,
            additional_forward_args,
            attribute_to_layer_input,
            {
                "target": target,
                "return_convergence_delta": return_convergence_delta,
                "custom_attribution_func": custom_attribution_func,
                "rule": rule,
                "batch_size": batch_size,
                "progress": progress,
            },
        )
        bound: Call = problem.method.forward_func
        at: Any = bound.func
        with frozen(self.forward_func):
            xs = check_inputs(inputs)
            n = xs[0].shape[0]
            sets = pooled(baselines, inputs, xs)
            count = sets[0].shape[1]
            rows = torch.arange(n * count, device=xs[0].device) // count
            pairs = tuple(b.expand(n, *b.shape[1:]).flatten(0, 1) for b in sets)
            extra = take_rows(problem.kwargs["additional_forward_args"][len(xs) :], rows, n)
            found = encode_rows(at, pairs, extra, take_rows(own_tree(bound.kwargs), rows, n), size)
        problem.kwargs["baselines"] = tuple(t.unflatten(0, (n, count)) for t in found)
        return problem.solve()


@register(
    "neuron_deep_lift",
    aliases=("neuron_deeplift",),
    site="neuron",
    title="Neuron DeepLIFT",
    variant_of="deep_lift",
    alone_with=("custom_attribution_func",),
)
class NeuronDeepLift(_Multiplying, NeuronAttribution, GradientAttribution):
    """DeepLIFT contributions of the inputs to a neuron."""

    @args_from(DeepLift.attribute)
    def attribute(
        self,
        inputs: InputsT,
        neuron_selector: Any,
        baselines: Any = None,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
        *,
        rule: str = "rescale",
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT:
        """As `DeepLift.attribute`, for the neuron chosen as in `NeuronGradient.attribute`."""
        func = self.neuron_func(neuron_selector, attribute_to_neuron_input)
        return DeepLift(func, self._multiply_by_inputs).attribute(
            inputs,
            baselines,
            additional_forward_args=additional_forward_args,
            custom_attribution_func=custom_attribution_func,
            rule=rule,
            batch_size=batch_size,
            progress=progress,
        )


@register(
    "neuron_deep_lift_shap",
    site="neuron",
    baselines="distribution",
    title="Neuron DeepLIFT SHAP",
    variant_of="deep_lift_shap",
    alone_with=("custom_attribution_func",),
)
class NeuronDeepLiftShap(_Multiplying, NeuronAttribution, GradientAttribution):
    """DeepLIFT of a neuron, averaged over a set of baselines."""

    @args_from(DeepLiftShap.attribute)
    def attribute(
        self,
        inputs: InputsT,
        neuron_selector: Any,
        baselines: Any,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
        *,
        rule: str = "rescale",
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT:
        """As `DeepLiftShap.attribute`, for the neuron chosen as in `NeuronGradient.attribute`."""
        func = self.neuron_func(neuron_selector, attribute_to_neuron_input)
        return DeepLiftShap(func, self._multiply_by_inputs).attribute(
            inputs,
            baselines,
            additional_forward_args=additional_forward_args,
            custom_attribution_func=custom_attribution_func,
            rule=rule,
            batch_size=batch_size,
            progress=progress,
        )
