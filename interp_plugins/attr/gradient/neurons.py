"""Neuron variants: the plain method on a model whose output is the neuron (`core.layers.OfNeuron`)."""

from __future__ import annotations

from typing import Any

import torch

from interp_plugins.attr.gradient.gradient_shap import DrawsAhead, GradientShap
from interp_plugins.attr.gradient.integrated_gradients import IntegratedGradients
from interp_plugins.attr.gradient.saliency import Saliency
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.base import (
    GradientAttribution,
    InternalMultipliesByInputs,
    NeuronAttribution,
)
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT


@register(
    "neuron_gradient",
    site="neuron",
    game="gradient",
    cost="1 forward, 1 backward",
    axioms=("linearity", "dummy", "symmetry", "implementation invariance"),
)
class NeuronGradient(NeuronAttribution, GradientAttribution):
    """Gradient of a neuron with respect to the input."""

    @args_from()
    def attribute(
        self,
        inputs: InputsT,
        neuron_selector: Any,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> InputsT:
        """The signed gradient, of the inputs' shapes.

        Args:
            inputs: tensor or tuple of tensors, batch first, floating point.
        """
        func = self.neuron_func(neuron_selector, attribute_to_neuron_input)
        return Saliency(func).attribute(inputs, abs=False, additional_forward_args=additional_forward_args)


@register(
    "neuron_integrated_gradients",
    aliases=("neuron_ig",),
    site="neuron",
    variant_of="integrated_gradients",
    game="aumann_shapley",
)
class NeuronIntegratedGradients(InternalMultipliesByInputs, NeuronAttribution, GradientAttribution):
    """Integrated gradients of a neuron."""

    @args_from(IntegratedGradients.attribute)
    def attribute(
        self,
        inputs: InputsT,
        neuron_selector: Any,
        baselines: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        attribute_to_neuron_input: bool = False,
        *,
        tol: float | None = None,
        max_steps: int = 512,
        progress: bool | None = None,
    ) -> InputsT:
        """As `IntegratedGradients.attribute`, for the neuron chosen as in `NeuronGradient.attribute`."""
        func = self.neuron_func(neuron_selector, attribute_to_neuron_input)
        return IntegratedGradients(func, self._multiply_by_inputs).attribute(
            inputs,
            baselines,
            additional_forward_args=additional_forward_args,
            n_steps=n_steps,
            method=method,
            internal_batch_size=internal_batch_size,
            tol=tol,
            max_steps=max_steps,
            progress=progress,
        )


@register(
    "neuron_gradient_shap",
    site="neuron",
    baselines="distribution",
    variant_of="gradient_shap",
    game="aumann_shapley",
)
class NeuronGradientShap(DrawsAhead, InternalMultipliesByInputs, NeuronAttribution, GradientAttribution):
    """Expected gradients of a neuron."""

    @args_from(GradientShap.attribute)
    def attribute(
        self,
        inputs: InputsT,
        neuron_selector: Any,
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        progress: bool | None = None,
    ) -> InputsT:
        """As `GradientShap.attribute`, for the neuron chosen as in `NeuronGradient.attribute`."""
        func = self.neuron_func(neuron_selector, attribute_to_neuron_input)
        return GradientShap(func, self._multiply_by_inputs).attribute(
            inputs,
            baselines,
            n_samples,
            stdevs,
            additional_forward_args=additional_forward_args,
            seed=seed,
            generator=generator,
            progress=progress,
        )
