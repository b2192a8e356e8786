"""Layer variants: the plain method, started at a layer's activations instead of the inputs.

`at_layer` re-parametrises the model (`core.layers.AtLayer`), encodes inputs and baselines into activations, and hands
over to the plain method; the original inputs ride along as additional arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.gradient.gradient_shap import Drawn, DrawsAhead, baseline_pool, expected_gradients
from interp_plugins.attr.gradient.integrated_gradients import IntegratedGradients, path_defaults
from interp_plugins.attr.perturbation.ablation import FeatureAblation
from interp_plugins.attr.shared.average import Draws
from interp_plugins.attr.shared.base import (
    GradientAttribution,
    InternalMultiplying,
    LayerAttribution,
    PerturbationAttribution,
    prepared,
)
from interp_plugins.core.baseline import as_baselines
from interp_plugins.core.batching import auto_chunk, check_chunk, chunks
from interp_plugins.core.errors import LayerError
from interp_plugins.core.forward import Call
from interp_plugins.core.guard import frozen
from interp_plugins.core.layers import AtLayer, layer_name
from interp_plugins.core.random import make_generator
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import as_tuple, check_float, check_inputs, own_tree, take_rows


@dataclass(frozen=True)
class AtLayerProblem:
    """A plain method at a layer: run `method.attribute(inputs, **kwargs)` and format the result."""

    method: Any
    inputs: tuple[Tensor, ...]
    kwargs: dict[str, Any]
    formatted: Callable[[Any], Any]

    def solve(self) -> Any:
        """Run and format."""
        return self.formatted(self.method.attribute(self.inputs, **self.kwargs))


def encode_rows(
    at: AtLayer, inputs: tuple[Tensor, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any], size: int | None
) -> tuple[Tensor, ...]:
    """The layers' tensors for a batch, in chunks of samples."""
    n, device = inputs[0].shape[0], inputs[0].device

    def work(start: int, stop: int) -> tuple[Tensor, ...]:
        rows = None if stop - start == n else torch.arange(start, stop, device=device)
        found = at.encode(*take_rows((*inputs, *args), rows, n), **take_rows(dict(kwargs), rows, n))
        for act in found:
            if act.ndim == 0 or act.shape[0] != stop - start:
                name = layer_name(at.func, at.layers[0].module)  # type: ignore[arg-type]
                raise LayerError(
                    f"The layer {name!r} gave a tensor of shape {tuple(act.shape)} for {stop - start} samples: its "
                    "first dimension is not the batch, so its map cannot be told apart per sample. Choose a layer "
                    "whose tensors have the batch first."
                )
        return found

    parts = [part for _, _, part in chunks(n, size or max(auto_chunk(list(inputs)), min(n, 64)), work)]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(column) for column in zip(*parts, strict=True))


def start_at_layer(
    owner: LayerAttribution,
    plain: Callable[[Any], Any],
    inputs: Any,
    args: Any,
    to_input: bool,
    kwargs: dict[str, Any],
    input_baselines: Any = ...,
) -> AtLayerProblem:
    """Encode inputs (and a baseline in input space, unless left out) and build the problem at the layer."""
    kwargs = dict(kwargs)
    func = owner.forward_func
    bound = func if isinstance(func, Call) else Call(func)
    sites = owner.sites(to_input)
    at = AtLayer(bound.func, sites)
    extra = () if args is None else own_tree(as_tuple(args))
    with frozen(func):
        xs = check_inputs(inputs)
        for name in ("internal_batch_size", "batch_size"):
            check_chunk(name, kwargs.get(name))
        size = kwargs.get("internal_batch_size") or kwargs.get("batch_size")
        acts = encode_rows(at, xs, extra, bound.kwargs, size)
        if input_baselines is not ...:
            bs = as_baselines(input_baselines, xs, template=inputs)
            kwargs["baselines"] = encode_rows(at, bs, extra, bound.kwargs, size)

    def formatted(result: Any) -> Any:
        if kwargs.get("return_convergence_delta"):
            return owner.formatted(result[0], at.counts), result[1]
        return owner.formatted(result, at.counts)

    method = plain(Call(at, bound.kwargs, bound.output))
    return AtLayerProblem(method, acts, {**kwargs, "additional_forward_args": (*xs, *extra)}, formatted)


@register("layer_integrated_gradients", aliases=("layer_ig", "lig"), site="layer", defaults=path_defaults)
class LayerIntegratedGradients(InternalMultiplying, LayerAttribution, GradientAttribution):
    """Integrated gradients from the baseline's activation to the input's activation at a layer.

    Args:
        forward_func: model or callable.
        layer: module, dotted name, `core.Layer`, or a list (their activations move together; none may feed another).
        device_ids: not needed.
        multiply_by_inputs: multiply by the difference of the activations, the default.
    """

    shares_targets = True

    def has_convergence_delta(self) -> bool:
        """True."""
        return True

    def at_layer(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Any = None,
        **kwargs: Any,
    ) -> AtLayerProblem:
        """The plain problem at the layer (also used by `NoiseTunnel(noise_at="layer")`)."""
        return start_at_layer(
            self,
            lambda func: IntegratedGradients(func, self._multiply_by_inputs),
            inputs,
            additional_forward_args,
            attribute_to_layer_input,
            {"target": target, **kwargs},
            input_baselines=baselines,
        )

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
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
    ) -> Any:
        """Integrated gradients at the layer, of its shape; arguments as in `IntegratedGradients.attribute`.

        Args:
            inputs: tensor or tuple of tensors, batch first; integers are fine (token ids for an embedding).
            baselines: in *input* space; encoded to the layer. None = zeros.
            target: see `core.target.as_target`.
            additional_forward_args: further positional arguments of the model.
            n_steps: nodes of the quadrature.
            method: quadrature rule.
            internal_batch_size: rows per pass; None = automatic.
            return_convergence_delta: also return the completeness error per sample.
            attribute_to_layer_input: explain the layer's input instead of its output.
            grad_kwargs: accepted for Captum's sake; unused tensors give zeros with a warning here.
            tol: see `IntegratedGradients.attribute`.
            max_steps: see `IntegratedGradients.attribute`.
            batch_size: the same as internal_batch_size.
            progress: None = a bar for long work, True, False.
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


@register("layer_feature_ablation", aliases=("layer_ablation",), needs="perturbation", site="layer")
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

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        layer_baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        layer_mask: Any = None,
        attribute_to_layer_input: bool = False,
        perturbations_per_eval: int = 1,
        *,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Ablation at the layer, of its shape; arguments as in `FeatureAblation.attribute`.

        Args:
            inputs: tensor or tuple of tensors, batch first.
            layer_baselines: replacement values in the *layer's* space. None = zeros.
            target: see `core.target.as_target`.
            additional_forward_args: further positional arguments of the model.
            layer_mask: integers grouping the layer's units; None: each is its own feature.
            attribute_to_layer_input: ablate the layer's input instead of its output.
            perturbations_per_eval: features per forward pass; 1 leaves the size to the engine.
            batch_size: rows per forward pass.
            progress: None = a bar for long work, True, False.
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


@register("layer_gradient_shap", site="layer", baselines="distribution")
class LayerGradientShap(DrawsAhead, InternalMultiplying, LayerAttribution, GradientAttribution):
    """Expected gradients read at a layer; the random path is in input space.

    Args:
        forward_func: model or callable.
        layer: module, dotted name or `core.Layer`.
        device_ids: not needed.
        multiply_by_inputs: multiply by the difference of the activations, the default.
    """

    shares_targets = True
    shares_tolerance = True

    embeds_ids = True

    def has_convergence_delta(self) -> bool:
        """True."""
        return True

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        *,
        antithetic: bool = False,
        stratified: bool = False,
        tol: float | None = None,
        max_samples: int = 1000,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Expected gradients of the layer's shape; arguments as in `GradientShap.attribute`."""
        sites = self.sites(attribute_to_layer_input)
        draws = Draws(n_samples, tol, max_samples, antithetic, stratified)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            maps, delta, counts = expected_gradients(
                forward,
                xs,
                baseline_pool(baselines, inputs, xs),
                draws,
                stdevs=stdevs,
                generator=generator if isinstance(generator, Drawn) else make_generator(seed, generator),
                multiply=self._multiply_by_inputs,
                wrt=sites,
                deltas=return_convergence_delta,
                chunk=check_chunk("batch_size", batch_size),
                progress=progress,
            )
            out = self.formatted(maps, counts)
            return (out, delta) if return_convergence_delta else out
