"""Cells: the features that methods with few features use where the user names none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import like


def cells(inputs: tuple[Tensor, ...], spec: InputSpec, count: int = 7) -> dict[str, Any]:
    """The features that `explain` uses for methods that need few: a grid of cells on pictures, else each element."""
    if any(x.ndim < 3 for x in inputs):
        return {}
    masks, start = [], 0
    for x in inputs:
        mask = grid_mask(x, (count,) * len(spatial_axes(x)))
        masks.append(mask + start)
        start += int(mask.max()) + 1
    return {"feature_mask": like(inputs if len(inputs) > 1 else inputs[0], masks)}


def spatial_axes(x: Tensor) -> tuple[int, ...]:
    """Axes that a grid divides: height and width of pictures, time of sequences (N, T, C), the features of rows."""
    return tuple(range(2, x.ndim)) if x.ndim > 3 else (1,)


def grid_mask(x: Tensor, cells_per_axis: Sequence[int]) -> Tensor:
    """A feature mask (1, ...) that cuts the spatial axes of x (N, ...) into so many cells each, numbered in order."""
    mask = torch.zeros((1,) * x.ndim, dtype=torch.long, device=x.device)
    for axis, count in zip(spatial_axes(x), cells_per_axis, strict=True):
        size = x.shape[axis]
        count = min(count, size)
        along = (torch.arange(size, device=x.device) * count) // size
        mask = mask * count + along.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return mask
