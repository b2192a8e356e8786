"""Grad-CAM (Selvaraju et al., ICCV 2017, arXiv:1610.02391): a layer's channels weighted by their mean gradients.

The oldest member of the family in `attr/cam/base.py`, with Captum's face: channels stand second unless `layout` says
otherwise, negative evidence is kept, and a list of layers gives a list of maps. `explain` sets the family's defaults.
"""

from __future__ import annotations

from typing import Any

from interp_plugins.attr.cam import weights
from interp_plugins.attr.cam.base import ClassActivationMap, grids
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.base import LayerAttribution, batch_gradients, prepared
from interp_plugins.attr.shared.images import averaged
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import Inputs, LayerMaps


@register(
    "grad_cam",
    unsigned=True,
    first_look=("image",),
    aliases=("gradcam", "layer_grad_cam"),
    site="layer",
    title="Grad-CAM",
    reference="Selvaraju et al. 2017, arXiv:1610.02391",
    defaults={"relu_attributions": True, "layout": "auto", "average_layers": True},
    shares_targets=True,
    begins_with_gradient=True,
    cost="1 forward, 1 backward",
    assumes="the layer's last axes are places",
)
class LayerGradCam(LayerAttribution):
    """Coarse map of a convolutional layer: sum over channels of activation times spatially averaged gradient.

    Example:
        cam = LayerGradCam(model, "0").attribute(x, target=3, relu_attributions=True)
        cam.shape  # -> (2, 1, 22, 22)
        LayerAttribution.interpolate(cam, (24, 24)).shape  # -> (2, 1, 24, 24)
    """

    @args_from(ClassActivationMap.attribute)
    def attribute(
        self,
        inputs: Inputs,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        layout: Any = "first",
        average_layers: bool = False,
        batch_size: int | None = None,
    ) -> LayerMaps:
        """Grad-CAM at the layer's own resolution; `LayerAttribution.interpolate` enlarges it.

        Args:
            relu_attributions: keep positive evidence only, as in the paper (Captum's default is False).
            attr_dim_summation: sum over the channels, giving (N, 1, ...); False keeps them.
            grad_kwargs: accepted for Captum's sake; not needed.
            layout: how the layer's tensor holds space, see `ClassActivationMap.attribute`; "first" (N, C, ...), as in
                Captum, is the default of this class, "auto" that of `explain`.
            average_layers: for a list of layers, one map, their mean, instead of a list of maps.
        """
        layers = self.resolved_layers(attribute_to_layer_input)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            got = batch_gradients(forward, xs, wrt=layers, chunk=check_chunk("batch_size", batch_size))
            maps, found = [], grids(forward, xs, layers, got, layout)
            for grid, act, grad in zip(found, got.activations, got.grads, strict=True):
                cam = weights.grad_cam(grid.lay_out(act), grid.lay_out(grad))
                if attr_dim_summation:
                    cam = cam.sum(1, keepdim=True)
                maps.append(cam.relu() if relu_attributions else cam)
            if average_layers and isinstance(self.layer, list):
                return averaged(maps, xs)
            return self.by_sample(forward, layers, maps, got.counts)
