"""Feature ablation at a layer, and of a neuron."""

from __future__ import annotations

from typing import Any

from interp_plugins.attr.perturbation.ablation import FeatureAblation
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.at_layer import AtLayerProblem, start_at_layer
from interp_plugins.attr.shared.base import (
    LayerAttribution,
    NeuronAttribution,
    PerturbationAttribution,
)
from interp_plugins.core.batching import AUTOMATIC
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import Inputs, InputsT, LayerMaps


@register(
    "layer_feature_ablation",
    aliases=("layer_ablation",),
    needs="perturbation",
    site="layer",
    variant_of="feature_ablation",
)
class LayerFeatureAblation(LayerAttribution, PerturbationAttribution):
    """Replace units of a layer by a baseline, one feature at a time."""

    def at_layer(
        self,
        inputs: Any,
        layer_baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        layer_mask: Any = None,
        attribute_to_layer_input: bool = False,
        **kwargs: Any,
    ) -> AtLayerProblem:
        """The plain problem at the layer (also used by `NoiseTunnel(noise_at="layer")`)."""
        tupled = {
            name: v if v is None or isinstance(v, (tuple, int, float, str)) else (v,)
            for name, v in (("baselines", layer_baselines), ("feature_mask", layer_mask))
        }
        more = {"target": target, **tupled, **kwargs}
        return start_at_layer(self, FeatureAblation, inputs, additional_forward_args, attribute_to_layer_input, more)

    @args_from(FeatureAblation.attribute)
    def attribute(
        self,
        inputs: Inputs,
        layer_baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        layer_mask: Any = None,
        attribute_to_layer_input: bool = False,
        perturbations_per_eval: int = AUTOMATIC,
        *,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> LayerMaps:
        """Ablation at the layer, of its shape; arguments as in `FeatureAblation.attribute`.

        Args:
            inputs: tensor or tuple of tensors, batch first.
            layer_baselines: replacement values in the *layer's* space. None = zeros.
            target: see `core.target.as_target`.
            layer_mask: integers grouping the layer's units; None: each is its own feature.
            attribute_to_layer_input: ablate the layer's input instead of its output.
            batch_size: rows per forward pass.
        """
        more: dict[str, Any] = {
            "perturbations_per_eval": perturbations_per_eval,
            "batch_size": batch_size,
            "progress": progress,
        }
        start = (
            inputs,
            layer_baselines,
            target,
            additional_forward_args,
            layer_mask,
            attribute_to_layer_input,
        )
        return self.at_layer(*start, **more).solve()


@register(
    "neuron_feature_ablation",
    needs="perturbation",
    site="neuron",
    variant_of="feature_ablation",
    shares_targets=False,  # no class
)
class NeuronFeatureAblation(NeuronAttribution, PerturbationAttribution):
    """Change of a neuron when a feature of the input is replaced."""

    @args_from(FeatureAblation.attribute)
    def attribute(
        self,
        inputs: InputsT,
        neuron_selector: Any,
        baselines: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        attribute_to_neuron_input: bool = False,
        perturbations_per_eval: int = AUTOMATIC,
        *,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT:
        """As `FeatureAblation.attribute`, for the neuron chosen as in `NeuronGradient.attribute`."""
        func = self.neuron_func(neuron_selector, attribute_to_neuron_input)
        return FeatureAblation(func).attribute(
            inputs,
            baselines,
            additional_forward_args=additional_forward_args,
            feature_mask=feature_mask,
            perturbations_per_eval=perturbations_per_eval,
            batch_size=batch_size,
            progress=progress,
        )
