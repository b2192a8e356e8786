"""One gradient at a random point between baseline and input: what GradientShap averages.

    attribution = (x - x') * dF/dx at x' + a (x - x'),   a uniform on [0, 1]

Its mean over `a` is integrated gradients. Captum has these as parts of GradientShap, under private paths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.gradient.integrated_gradients import IntegratedGradients
from interp_plugins.attr.shared.arguments import args_from, layer_with_delta, with_delta
from interp_plugins.attr.shared.at_layer import layer_tensors
from interp_plugins.attr.shared.base import (
    GradientAttribution,
    InternalMultipliesByInputs,
    LayerAttribution,
    MultipliesByInputs,
    convergence_delta,
    prepared,
)
from interp_plugins.attr.shared.path import path_gradients
from interp_plugins.attr.shared.quadrature import quadrature
from interp_plugins.core.baseline import as_starts
from interp_plugins.core.random import make_generator, on_cpu
from interp_plugins.core.tensors import Inputs, InputsT, LayerMaps, as_tuple, check_float, credit


class InputBaselineXGradient(MultipliesByInputs, GradientAttribution):
    """Gradient at one random point of each sample's path, times (input - baseline).

    Args:
        forward_func: model or callable.
        multiply_by_inputs: multiply by the difference, the default.

    Example:
        def square(x):
            return (x**2).sum(1)

        maps = InputBaselineXGradient(square).attribute(torch.tensor([[3.0]]), seed=0)
        (maps > 0).all() and (maps < 18).all()  # -> True
    """

    @with_delta
    @args_from(IntegratedGradients.attribute)
    def attribute(
        self,
        inputs: InputsT,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> InputsT | tuple[InputsT, Tensor]:
        """The product, of the inputs' shapes; one point per sample, the same for all of its inputs.

        Args:
            seed: seed of the points. None: decided by `torch.manual_seed`; the global state is left as it was.
        """
        places = _places(inputs, seed, generator)
        method = IntegratedGradients(self.forward_func, self._multiply_by_inputs)
        how: dict[str, Any] = {"n_steps": 1, "method": "riemann_middle", "offsets": places}
        return method.attribute(
            inputs, baselines, target, additional_forward_args, return_convergence_delta=return_convergence_delta, **how
        )


class LayerInputBaselineXGradient(InternalMultipliesByInputs, LayerAttribution, GradientAttribution):
    """Gradient at a layer, at one random point of each sample's path, times the change of the layer.

    Args:
        forward_func: model or callable.
        layer: module, dotted name or `core.layers.Layer`.
        device_ids: not needed.
        multiply_by_inputs: multiply by the difference of the activations, the default.
    """

    @layer_with_delta
    @args_from(InputBaselineXGradient.attribute)
    def attribute(
        self,
        inputs: Inputs,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> LayerMaps | tuple[LayerMaps, Tensor]:
        """The product, of the layer's shape; the random path is in input space."""
        layers = self.resolved_layers(attribute_to_layer_input)
        places = _places(inputs, seed, generator)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            bs = as_starts(baselines, xs, template=inputs)
            rule = quadrature("riemann_middle", 1)
            maps, counts = path_gradients(forward, xs, bs, rule, offsets=places, wrt=layers)
            if self._multiply_by_inputs:
                ends = zip(
                    layer_tensors(forward, xs, None, layers), layer_tensors(forward, bs, None, layers), strict=True
                )
                maps = tuple(credit(a - b, g) for (a, b), g in zip(ends, maps, strict=True))
            out = self.by_sample(forward, layers, maps, counts)
            return (out, convergence_delta(forward, maps, xs, bs)) if return_convergence_delta else out


def _places(inputs: Any, seed: int | None, generator: torch.Generator | None) -> Tensor:
    rows = next((len(x) for x in as_tuple(inputs) if isinstance(x, Tensor) and x.ndim), 1)
    return torch.rand(rows, generator=on_cpu(make_generator(seed, generator)), dtype=torch.float64)
