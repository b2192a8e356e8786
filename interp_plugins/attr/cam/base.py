"""Class activation maps: a layer's activations, weighted by what they do to the score, as one coarse map per sample.

    map = relu(sum over channels of contribution(A, dF/dA))

A member of the family is its formula (`attr/cam/weights.py`) and a registration. The layer may be left out: then the
last one is explained whose tensor is a grid of places that the score depends on. Tokens of a ViT and channels-last
tensors of a Swin transformer are laid out as grids (`core/grid.py`). Cost: one forward and one backward pass a sample,
and one forward pass of a single sample where the layer or its layout is not given.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from interp_plugins.attr.cam import weights
from interp_plugins.attr.cam.weights import Weighting
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.base import LayerAttribution, batch_gradients, prepared
from interp_plugins.attr.shared.grid_layer import last_grid_layer, shapes_of_modules
from interp_plugins.attr.shared.images import averaged
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InterpWarning
from interp_plugins.core.forward import Forward, Gradients
from interp_plugins.core.grid import Grid, as_grid, find_grid, grid_of_shape
from interp_plugins.core.layer_rows import by_sample
from interp_plugins.core.layers import Layer, layer_name, resolve_layer
from interp_plugins.core.registry import family, register, traits_of
from interp_plugins.core.tensors import Inputs, Maps
from interp_plugins.engine import first_pass, shapes_asked, share_passes, sharing


@family(shares_targets=True, begins_with_gradient=True, unsigned=True)
class ClassActivationMap(LayerAttribution):
    """Base of the family: choice of layer, layout, passes, sum over channels, average over layers.

    Args:
        forward_func: model or callable.
        layer: module, dotted name, `Layer`, or a list of these (their maps are averaged). None: the last layer
            whose tensor is a grid of places that the score depends on.
        device_ids: accepted for Captum's sake; not needed.
    """

    weighting: Weighting

    def __init__(self, forward_func: Callable[..., Any], layer: Any = None, device_ids: list[int] | None = None):
        super().__init__(forward_func, layer, device_ids)

    @args_from()
    def attribute(
        self,
        inputs: Inputs,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        *,
        layout: Any = "auto",
        batch_size: int | None = None,
    ) -> Maps:
        """The map at the layer's own resolution, (N, 1, *space); pictures of an `Explanation` enlarge it.

        Args:
            attribute_to_layer_input: use the layer's input instead of its output.
            relu_attributions: keep positive evidence only (default, as in the papers).
            layout: how the layer's tensor holds space: "auto" (told from the shapes of one forward pass), "first"
                (N, C, H, W), "last" (N, H, W, C), a size (h, w) for tokens (N, T, C), whose T - h * w first ones belong
                to no place, or a function tensor -> (N, C, h, w).

        Returns:
            (N, 1, *space) for one layer, a tuple where the layer has several tensors. For a list of layers one map: the
            mean of the layers' maps, each divided by its largest absolute value and enlarged to the input's size.

        Raises:
            LayerError: no such layer, or a layout that cannot be told; the text says what can be given.
        """
        chunk, by_itself = check_chunk("batch_size", batch_size), not sharing()
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward), share_passes(False):
            if by_itself and traits_of(self).begins_with_gradient and chunk is None:
                known = None if self.layer is None else self.resolved_layers(attribute_to_layer_input)
                first_pass(forward, xs, layers=known)  # layer, layout and gradient, of one pass
            layers = self.chosen_layers(forward, xs, attribute_to_layer_input)
            maps, counts = self.maps(forward, xs, layers, layout, chunk)
            maps = [m.relu() if relu_attributions else m for m in maps]
            return self.joined(forward, layers, maps, counts)

    def joined(self, forward: Forward, layers: Sequence[Layer], maps: Sequence[Tensor], counts: Sequence[int]) -> Maps:
        """One map for a list of layers, their mean; else one per tensor of the layer; a row per sample first."""
        maps = by_sample(forward, layers, counts, maps)
        if isinstance(self.layer, list):
            return averaged(maps, forward.samples)
        return tuple(maps) if counts[0] > 1 else maps[0]

    def chosen_layers(self, forward: Forward, xs: tuple[Tensor, ...], to_input: bool) -> list[Layer]:
        """The layers, found where none was given."""
        if self.layer is None:
            found = last_grid_layer(forward, xs)
            return [Layer(found.module, "input" if to_input else "output", found.call)]
        return self.resolved_layers(to_input)

    def maps(
        self, forward: Forward, xs: tuple[Tensor, ...], layers: list[Layer], layout: Any, chunk: int | None
    ) -> tuple[list[Tensor], tuple[int, ...]]:
        """A map (N, 1, *space) per tensor of the layers, and tensors per layer."""
        got = batch_gradients(forward, xs, wrt=layers, chunk=chunk)
        found = []
        for grid, a, g in zip(grids(forward, xs, layers, got, layout), got.activations, got.grads, strict=True):
            found.append(self.weighting(grid.lay_out(a), grid.lay_out(g)).sum(1, keepdim=True))
        return found, got.counts


def grids(forward: Forward, xs: tuple[Tensor, ...], layers: Sequence[Layer], got: Gradients, layout: Any) -> list[Grid]:
    """The grid of each tensor that was read; warns where the score does not depend on its places."""
    modules = [resolve_layer(forward.func, s).module for s, count in zip(layers, got.counts) for _ in range(count)]
    out = layouts(forward, xs, modules, got.activations, layout)
    for module, grid, g in zip(modules, out, got.grads or (), strict=bool(got.grads)):
        if grid.prefix and bool(g.any()) and not bool(grid.lay_out(g).any()):
            assert isinstance(module, nn.Module)
            name = layer_name(forward.func, module)
            warnings.warn(
                f"At the layer {name!r} the score depends on the class token alone, not on the tokens that have a "
                "place: the map is zero. Choose an earlier layer (the norm before the last attention), or leave layer "
                "out.",
                InterpWarning,
                stacklevel=5,
            )
    return out


def layouts(
    forward: Forward, xs: tuple[Tensor, ...], modules: Sequence[Any], tensors: Sequence[Tensor], layout: Any
) -> list[Grid]:
    """The grid of each tensor: as the user says, or told from one forward pass of the first sample."""
    given = [as_grid(layout, t) or grid_of_shape(t.shape, xs) for t in tensors]
    shapes_asked(modules, xs, None in given)
    seen = shapes_of_modules(forward, xs) if None in given else []
    return [g or find_grid(m, t.shape, xs, seen) for g, m, t in zip(given, modules, tensors, strict=True)]


@register(
    "grad_cam_plus_plus",
    aliases=("gradcampp", "grad_cam_pp"),
    site="layer",
    title="Grad-CAM++",
    reference="Chattopadhyay et al. 2018, arXiv:1710.11063",
    cost="1 forward, 1 backward",
    assumes="the layer's last axes are places; activations not negative",
)
class GradCAMPlusPlus(ClassActivationMap):
    """Grad-CAM++: positive gradients weighted so that every place where the class shows counts alike."""

    weighting = staticmethod(weights.grad_cam_plus_plus)


@register(
    "x_grad_cam",
    aliases=("xgradcam",),
    site="layer",
    title="XGrad-CAM",
    reference="Fu et al. 2020, arXiv:2008.02312",
    cost="1 forward, 1 backward",
    assumes="the layer's last axes are places",
)
class XGradCAM(ClassActivationMap):
    """XGrad-CAM: gradients averaged with the activations as weights, so that the map's sum is near the score."""

    weighting = staticmethod(weights.x_grad_cam)


@register(
    "layer_cam",
    site="layer",
    title="LayerCAM",
    reference="Jiang et al. 2021, doi:10.1109/TIP.2021.3089943",
    cost="1 forward, 1 backward",
    assumes="the layer's last axes are places",
)
class LayerCAM(ClassActivationMap):
    """LayerCAM: each place weighted by its own positive gradient; finer than Grad-CAM at early layers."""

    weighting = staticmethod(weights.layer_cam)


@register(
    "hi_res_cam",
    site="layer",
    title="HiResCAM",
    reference="Draelos and Carin 2020, arXiv:2011.08891",
    cost="1 forward, 1 backward",
    assumes="the layer's last axes are places; exact before linear layers",
)
class HiResCAM(ClassActivationMap):
    """HiResCAM: gradient times activation, place by place; exact where only linear layers follow."""

    weighting = staticmethod(weights.hi_res_cam)


@register(
    "eigen_grad_cam",
    site="layer",
    title="Eigen-Grad-CAM",
    reference="Muhammad and Yeasin 2020, arXiv:2008.00299, on gradient times activation",
    cost="1 forward, 1 backward",
    assumes="the layer's last axes are places",
)
class EigenGradCAM(ClassActivationMap):
    """The first principal component of gradient times activation: EigenCAM that knows the class."""

    weighting = staticmethod(weights.eigen_grad_cam)
