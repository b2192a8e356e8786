"""XRAI (Kapishnikov et al., ICCV 2019, arXiv:1906.02825): regions instead of pixels.

Integrated gradients from a black and from a white baseline (each picture's smallest and largest value) are averaged;
the picture is cut into overlapping regions at several scales; regions are then taken one by one, always the one with
the largest mean attribution over what is not yet taken. The map's value at a pixel is that mean when its region was
taken. Cost: that of two integrated gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.base import GradientAttribution, prepared
from interp_plugins.attr.shared.images import check_real, say_channels_last
from interp_plugins.attr.shared.path import path_gradients
from interp_plugins.attr.shared.quadrature import check_steps, quadrature
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT, accumulation_dtype, check_float, describe, like

SCALES = (50, 100, 150, 250, 500, 1200)  # of Felzenszwalb's segmentation, as in the paper
_PIXELS = 224 * 224  # sizes below are for pictures of that many pixels
_SMALLEST, _GAIN, _GROWN = 150, 50, 5  # pixels of a segment; new pixels that make a step worth it; dilation


def segments_of(picture: Tensor) -> Tensor:
    """Regions (K, H, W), bool, of a picture (C, H, W): Felzenszwalb's segments at six scales, dilated by 5 pixels.

    Raises:
        ImportError: scikit-image is missing; the text says what else can be given.
    """
    try:
        from skimage.segmentation import felzenszwalb
    except ModuleNotFoundError as err:
        raise ImportError(
            "XRAI cuts pictures into segments with scikit-image: pip install scikit-image, or give segments= "
            "(N, H, W), an integer tensor with the number of each pixel's segment."
        ) from err
    low, high = picture.amin(), picture.amax()
    scaled = ((picture - low) / (high - low).clamp_min(1e-12)).movedim(0, -1).cpu().double().numpy()
    smallest = max(1, round(_SMALLEST * picture[0].numel() / _PIXELS))
    labels = [felzenszwalb(scaled, scale=scale, sigma=0.8, min_size=smallest, channel_axis=-1) for scale in SCALES]
    return regions(torch.from_numpy(np.stack(labels)), grown=True)


def regions(labels: Tensor, grown: bool) -> Tensor:
    """Every segment of the label maps (S, H, W) as a mask of its own, dilated by a disc if asked for."""
    masks = torch.cat([level == torch.arange(int(level.max()) + 1)[:, None, None] for level in labels.cpu().long()])
    masks = masks[masks.flatten(1).any(1)]
    radius = round(_GROWN * (masks[0].numel() / _PIXELS) ** 0.5)
    if grown and radius > 0:
        place = torch.arange(-radius, radius + 1)
        disc = ((place[:, None] ** 2 + place**2) <= radius**2).float()[None, None]
        masks = F.conv2d(masks[:, None].float(), disc, padding=radius)[:, 0] > 0.5
    return masks


def ranked(values: Tensor, masks: Tensor) -> Tensor:
    """The map (H, W): pixels get the mean value of the region that they are taken with."""
    flat, wide = values.reshape(-1), masks.flatten(1).to(values)
    free = torch.ones_like(flat)
    out = torch.zeros_like(flat)
    least = max(1.0, _GAIN * flat.numel() / _PIXELS)
    sums, areas = wide @ flat, wide.sum(1)
    while True:
        gain = torch.where(areas >= least, sums / areas.clamp_min(1), -torch.inf)
        best = int(gain.argmax())
        if not bool(torch.isfinite(gain[best])):
            break
        new = (wide[best] > 0) & (free > 0)
        out[new] = gain[best]
        free[new] = 0
        sums, areas = sums - wide[:, new] @ flat[new], areas - wide[:, new].sum(1)
    rest = free > 0
    if bool(rest.any()):
        out[rest] = flat[rest].mean()
    return out.reshape(values.shape)


@register(
    "xrai",
    title="XRAI",
    reference="Kapishnikov et al. 2019, arXiv:1906.02825",
    applies_to="image",
    compiles=True,
    cost="2n forward, 2n backward",
    assumes="segments are what counts",
)
class XRAI(GradientAttribution):
    """Attributions of whole regions, made of integrated gradients and a segmentation."""

    @args_from()
    def attribute(
        self,
        inputs: InputsT,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        *,
        segments: Any = None,
        progress: bool | None = None,
    ) -> InputsT:
        """The map (N, 1, H, W).

        Args:
            inputs: one tensor of pictures (N, C, H, W).
            n_steps: steps of each integrated gradients.
            method: quadrature rule.
            segments: the pixels' segments, (H, W), (N, H, W), or (N, S, H, W) for S segmentations; None: Felzenszwalb's
                at six scales, dilated (needs scikit-image).

        Raises:
            ImportError: no segments were given and scikit-image is missing.
            InputError: no pictures, or segments of another size.
        """
        check_steps(method, n_steps)
        chunk = check_chunk("internal_batch_size", internal_batch_size)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            check_real("XRAI", xs)
            if len(xs) != 1 or xs[0].ndim != 4:
                raise InputError(
                    f"XRAI explains one input of pictures (N, C, H, W); got {[tuple(x.shape) for x in xs]}."
                )
            say_channels_last("XRAI", xs)
            x = xs[0]
            found = _segments(segments, x)
            low, high = (f(x, (1, 2, 3), keepdim=True).expand_as(x) for f in (torch.amin, torch.amax))
            starts = (low, high)
            rule = quadrature(method, n_steps)
            total: Tensor | float = 0.0
            for start in starts:
                (grad,), _ = path_gradients(forward, xs, (start,), rule, chunk=chunk, progress=progress)
                total = total + ((x - start).to(grad) * grad).sum(1) / len(starts)
            assert isinstance(total, Tensor)
            dtype = accumulation_dtype(x.dtype)
            out = torch.stack([ranked(v.to(dtype), m.to(v.device)) for v, m in zip(total, found, strict=True)])[:, None]
            return like(inputs, (out,))


def _segments(segments: Any, x: Tensor) -> Sequence[Tensor]:
    if segments is None:
        return [segments_of(one) for one in x]
    if not isinstance(segments, Tensor) or segments.is_floating_point():
        raise InputTypeError(f"segments must be an integer tensor, got {describe(segments)}.")
    labels = segments[None, None] if segments.ndim == 2 else segments[:, None] if segments.ndim == 3 else segments
    if labels.ndim != 4 or labels.shape[2:] != x.shape[2:] or labels.shape[0] not in (1, len(x)):
        raise InputError(
            f"segments of shape {tuple(segments.shape)} do not fit pictures of shape {tuple(x.shape)}; expected "
            f"{tuple(x.shape[2:])}, (N, H, W) or (N, S, H, W)."
        )
    return [regions(one, grown=False) for one in labels.expand(len(x), -1, -1, -1)]
