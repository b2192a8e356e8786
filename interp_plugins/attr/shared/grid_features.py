"""Cells: the features that methods with few features use where the user names none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import like


def cells(inputs: tuple[Tensor, ...], spec: InputSpec, count: int = 7) -> dict[str, Any]:
    """The features that `explain` uses for methods that need few: a grid of cells on pictures, else each element.

    A series has so many parts along time, of each channel where these are few, else of all together.
    """
    if any(x.ndim < 3 for x in inputs):
        return {}
    masks, start = [], 0
    for i, x in enumerate(inputs):
        mask = _cells(x, spec.of_input(i, x), count)
        masks.append(mask + start)
        start += int(mask.max()) + 1
    return {"feature_mask": like(inputs if len(inputs) > 1 else inputs[0], masks)}


def _cells(x: Tensor, spec: InputSpec, count: int) -> Tensor:
    axes, channels = spatial_axes(x, spec), spec.channel_axis(x.ndim)
    if x.ndim == 3 and channels is not None and x.shape[channels] <= count:
        return grid_mask(x, (count, x.shape[channels]), (*axes, channels))
    return grid_mask(x, (count,) * len(axes), axes)


def spatial_axes(x: Tensor, spec: InputSpec | None = None) -> tuple[int, ...]:
    """Axes that a grid divides: height and width of pictures, time of series and sequences, the features of rows.

    Args:
        x: an input.
        spec: what is known of it; None: time is the longer one of two axes.
    """
    if x.ndim > 3:
        return tuple(range(2, x.ndim))
    places = (spec or InputSpec.guess(x)).places(x.ndim) if x.ndim == 3 else ()
    return places or (1,)


def grid_mask(x: Tensor, cells_per_axis: Sequence[int], axes: Sequence[int] | None = None) -> Tensor:
    """A feature mask (1, ...) that cuts axes of x (N, ...) into so many cells each, numbered in order.

    Args:
        x: an input.
        cells_per_axis: how many.
        axes: which are cut; None: `spatial_axes`.
    """
    mask = torch.zeros((1,) * x.ndim, dtype=torch.long, device=x.device)
    for axis, count in zip(spatial_axes(x) if axes is None else axes, cells_per_axis, strict=True):
        size = x.shape[axis]
        count = min(count, size)
        along = (torch.arange(size, device=x.device) * count) // size
        mask = mask * count + along.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return mask
