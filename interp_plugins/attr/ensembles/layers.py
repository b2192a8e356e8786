"""A layer method averaged over layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from interp_plugins.attr.ensembles.around import AroundMethod, MeanOfRuns
from interp_plugins.attr.shared.base import InternalAttribution
from interp_plugins.attr.shared.images import averaged
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.guard import frozen
from interp_plugins.core.layers import resolve_layer
from interp_plugins.core.registry import family
from interp_plugins.core.tensors import Inputs, check_inputs, describe


@family(asks_delta=False)
class LayerAverage(AroundMethod):
    """A layer method averaged over layers: maps (N, 1, H, W), each divided by its peak, at the input's size.

    Args:
        attribution_method: a layer method; its own layer does not matter.
        layers: the layers: modules, dotted names or `core.layers.Layer`s.
    """

    def __init__(self, attribution_method: Any, layers: Sequence[Any]):
        super().__init__(attribution_method)
        if not isinstance(attribution_method, InternalAttribution):
            raise InputTypeError(
                f"LayerAverage needs a method at a layer (such as LayerGradCam), got {describe(attribution_method)}."
            )
        if isinstance(layers, (str, nn.Module)) or not layers:
            raise InputError(f"layers must be a list of at least one layer, got {describe(layers)}.")
        self.layers = [resolve_layer(self.forward_func, layer) for layer in layers]

    def attribute(self, inputs: Inputs, **kwargs: Any) -> Tensor:
        """The mean over the layers of the inner method's maps, channels added up.

        Args:
            inputs: tensor or tuple of tensors, batch first.
            **kwargs: the inner method's arguments.
        """
        maps: list[Tensor] = []
        mean = MeanOfRuns(kwargs)
        if mean.with_delta:
            raise InputError("LayerAverage rescales the maps, so that they have no convergence delta any more.")
        with frozen(self.forward_func):
            xs = check_inputs(inputs)
            for layer in self.layers:
                method = copy.copy(self.attribution_method)
                method.layer = layer
                maps += [m.sum(1, keepdim=True) if m.ndim > 2 else m for m in mean.run(method, inputs)]
            return averaged(maps, xs)
