"""Maps at the size of the input: those of a layer, interpolated linearly along every axis of space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.core.tensors import as_tuple

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def enlarged(t: Tensor, size: Sequence[int]) -> Tensor:
    """A map (N, C, *space) at another size, by (bi-, tri-)linear interpolation with aligned corners off."""
    if tuple(t.shape[2:]) == tuple(size):
        return t
    return F.interpolate(t, tuple(size), mode=_MODES[t.ndim - 2], align_corners=False)


def over_input(exp: Any) -> tuple[Tensor, ...]:
    """An `Explanation`'s maps in the layout of its input, that of a layer added up over its channels and enlarged.

    Enlarged are maps of series along time, of pictures along height and width, of volumes and clips along all three
    axes. What is none of these (a text, a table), or has the input's places already, stays as it is.
    """
    maps = as_tuple(exp.attributions)
    return (_over(exp, maps[0]),) if len(maps) == 1 else maps


def _over(exp: Any, one: Tensor) -> Tensor:
    x, frames = exp.input, "entries_per_sample" in exp.meta
    axis = exp.spec.channel_axis(x.ndim)
    axis = 1 if axis is None and x.ndim == 4 else axis
    if axis is None or one.ndim != x.ndim or one.shape == x.shape or (frames and exp.spec.kind != "clip"):
        return one
    if exp.layer is None and all(a in (1, b) for a, b in zip(one.shape, x.shape)):
        return one
    if frames or (x.ndim == 3 and axis == 2 and one.shape[1] > 1):  # a layer with a row per frame, or time first
        one = one.movedim(2, 1)  # a class activation map has its channel first already
    size = tuple(x.shape[a] for a in range(1, x.ndim) if a != axis)
    if tuple(one.shape[2:]) != size:
        wide = one if one.dtype == torch.float64 else one.float()
        one = enlarged(wide.sum(1, keepdim=True), size)
    return one.movedim(1, axis)
