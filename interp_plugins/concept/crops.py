"""Parts of pictures: squares of a share of the side on a grid, each brought back to the input's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from interp_plugins.core.errors import InputError
from interp_plugins.core.spec import InputSpec

Box = tuple[int, int, int, int]  # top, left, bottom, right
_SHOWN = 96  # pixels of a side that are kept for pictures


@dataclass(frozen=True)
class Crop:
    """A part of an item in which a concept is strong.

    Attributes:
        item: number or name of the item.
        box: top, left, bottom and right in pixels of the input; None: the whole item.
        amount: how much of the concept is there.
    """

    item: Any
    box: Box | None
    amount: float


def boxes_of(size: Sequence[int], share: float) -> list[Box]:
    """Squares (or what has the picture's proportions) of a share of each side, half overlapping, row by row.

    Args:
        size: height and width.
        share: of the side, in (0, 1].
    """
    height, width = (max(1, round(share * s)) for s in size)
    tops, lefts = _starts(size[0], height), _starts(size[1], width)
    return [(t, left, t + height, left + width) for t in tops for left in lefts]


def _starts(length: int, part: int) -> list[int]:
    count = max(1, round(2 * (length - part) / part)) + 1 if length > part else 1
    return [round(i * (length - part) / max(1, count - 1)) for i in range(count)]


def around(place: int, grid: Sequence[int], size: Sequence[int]) -> Box:
    """A box of three places per axis around a place of a grid, within the picture."""
    row, column = divmod(place, grid[1])
    tall, wide = size[0] / grid[0], size[1] / grid[1]
    top, left = max(0, round((row - 1) * tall)), max(0, round((column - 1) * wide))
    return top, left, min(size[0], round((row + 2) * tall)), min(size[1], round((column + 2) * wide))


def cropped(x: Tensor, box: Box) -> Tensor:
    """A part of pictures (n, C, H, W), enlarged to their size."""
    top, left, bottom, right = box
    return F.interpolate(x[:, :, top:bottom, left:right], size=x.shape[2:], mode="bilinear", align_corners=False)


def share_of(crops: Any) -> float | None:
    """What `crops=` asks for: the share of the side, or None for places.

    Raises:
        InputError: neither a bool nor a number in (0, 1].
    """
    if isinstance(crops, bool):
        return 0.5 if crops else None
    if not isinstance(crops, (int, float)) or not 0 < crops <= 1:
        raise InputError(f"crops must be True, False, or a share of the side in (0, 1], got {crops!r}.")
    return float(crops)


def pixels(x: Tensor, spec: InputSpec, most: int = _SHOWN) -> np.ndarray:
    """A picture (1, C, H, W) in the model's units as bytes (h, w, 3), no side longer than `most` pixels."""
    low, high = spec.value_range
    raw = ((spec.denormalise(x.detach().cpu().double()) - low) / (high - low)).clamp(0, 1)
    raw = raw[:, :3] if raw.shape[1] >= 3 else raw[:, :1].expand(-1, 3, -1, -1)
    longest = max(raw.shape[2:])
    if longest > most:
        size = [max(1, round(s * most / longest)) for s in raw.shape[2:]]
        raw = F.interpolate(raw, size=size, mode="bilinear", antialias=True)
    found: np.ndarray = (raw[0].movedim(0, -1) * 255).round().to(torch.uint8).numpy()
    return found
