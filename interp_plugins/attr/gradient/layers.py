"""Integrated gradients and expected gradients of a layer's activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.gradient.gradient_shap import PAIRS, DrawsAhead, GradientShap, PathDraws, expected_gradients
from interp_plugins.attr.gradient.integrated_gradients import IntegratedGradients
from interp_plugins.attr.shared.arguments import args_from, layer_with_delta
from interp_plugins.attr.shared.at_layer import BetweenActivations
from interp_plugins.attr.shared.average import Draws
from interp_plugins.attr.shared.base import (
    GradientAttribution,
    InternalMultipliesByInputs,
    LayerAttribution,
    prepared,
)
from interp_plugins.attr.shared.defaults import path_defaults
from interp_plugins.attr.shared.draws import baseline_pool
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.random import make_generator
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import Inputs, LayerMaps, check_float


@register(
    "layer_integrated_gradients",
    aliases=("layer_ig", "lig"),
    site="layer",
    defaults=path_defaults,
    fast={"n_steps": 16, "method": "fejer"},
    go_together=("n_steps", "method"),
    thorough={"n_steps": 200},
    variant_of="integrated_gradients",
    shares_targets=True,
    game="aumann_shapley",
)
class LayerIntegratedGradients(InternalMultipliesByInputs, BetweenActivations, GradientAttribution):
    """Integrated gradients from the baseline's activation to the input's activation at a layer.

    Args:
        forward_func: model or callable.
        layer: module, dotted name, `Layer`, or a list (their activations move together; none may feed another).
        device_ids: not needed.
        multiply_by_inputs: multiply by the difference of the activations, the default.

    Example:
        LayerIntegratedGradients(model, "0").attribute(x, target=3, n_steps=20).shape  # -> (2, 4, 22, 22)
    """

    def plain(self, func: Any) -> IntegratedGradients:
        """The method that runs at the layer."""
        return IntegratedGradients(func, self._multiply_by_inputs)

    @layer_with_delta
    @args_from(IntegratedGradients.attribute)
    def attribute(
        self,
        inputs: Inputs,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        tol: float | None = None,
        max_steps: int = 512,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> LayerMaps | tuple[LayerMaps, Tensor]:
        """Integrated gradients at the layer, of its shape; arguments as in `IntegratedGradients.attribute`.

        Args:
            inputs: tensor or tuple of tensors, batch first; integers are fine (token ids for an embedding).
            baselines: in *input* space; encoded to the layer. None = zeros.
        """
        return self.at_layer(
            inputs,
            baselines,
            target,
            additional_forward_args,
            attribute_to_layer_input,
            n_steps=n_steps,
            method=method,
            internal_batch_size=internal_batch_size,
            return_convergence_delta=return_convergence_delta,
            tol=tol,
            max_steps=max_steps,
            batch_size=batch_size,
            progress=progress,
        ).solve()


@register(
    "layer_gradient_shap",
    site="layer",
    baselines="distribution",
    variant_of="gradient_shap",
    defaults=PAIRS,
    shares_targets=True,
    shares_tolerance=True,
    embeds_ids=True,
    game="aumann_shapley",
)
class LayerGradientShap(DrawsAhead, InternalMultipliesByInputs, LayerAttribution, GradientAttribution):
    """Expected gradients read at a layer; the random path is in input space.

    Args:
        forward_func: model or callable.
        layer: module, dotted name or `core.layers.Layer`.
        device_ids: not needed.
        multiply_by_inputs: multiply by the difference of the activations, the default.
    """

    @layer_with_delta
    @args_from(GradientShap.attribute)
    def attribute(
        self,
        inputs: Inputs,
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        *,
        antithetic: bool = False,
        stratified: bool | int = False,
        tol: float | None = None,
        max_samples: int = 1000,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> LayerMaps | tuple[LayerMaps, Tensor]:
        """Expected gradients of the layer's shape; arguments as in `GradientShap.attribute`."""
        layers = self.resolved_layers(attribute_to_layer_input)
        draws = Draws(n_samples, tol, max_samples, antithetic, stratified)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            maps, delta, counts = expected_gradients(
                forward,
                xs,
                baseline_pool(baselines, inputs, xs),
                draws,
                stdevs=stdevs,
                generator=generator if isinstance(generator, PathDraws) else make_generator(seed, generator),
                seeded=seed is not None or generator is not None,
                multiply=self._multiply_by_inputs,
                wrt=layers,
                deltas=return_convergence_delta,
                chunk=check_chunk("batch_size", batch_size),
                progress=progress,
            )
            out = self.by_sample(forward, layers, maps, counts)
            return out if delta is None else (out, delta)
