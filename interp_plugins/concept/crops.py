"""Parts of pictures, squares on a grid or segments of like colour, each brought back to the input's size."""

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
SEGMENTS = "segments"  # of `crops=`: parts of like colour instead of squares
_SEGMENTS = 15  # of a picture, about
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


def part_of(x: Tensor, part: Box | Segment) -> Tensor:
    """A part of pictures (n, C, H, W), as large as it is there."""
    if isinstance(part, Segment):
        return part.of(x)
    top, left, bottom, right = part
    return x[:, :, top:bottom, left:right]


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """A part of pictures, brought to their size."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Segment:
    """A part of a picture with its own outline.

    Attributes:
        box: around it, in pixels.
        mask: (h, w) within the box, bool.
    """

    box: Box
    mask: Tensor

    def of(self, x: Tensor) -> Tensor:
        """The part of a picture (1, C, H, W) within the box (1, C, h, w); outside the outline its mean colour."""
        top, left, bottom, right = self.box
        mean = x.mean((2, 3), keepdim=True)
        return torch.where(self.mask.to(x.device), x[:, :, top:bottom, left:right], mean)


def segments_of(x: Tensor) -> list[Segment]:
    """About 15 parts of like colour that cover a picture (C, H, W): SLIC (Achanta et al. 2012), as in ACE.

    Raises:
        ImportError: scikit-image is missing; the text says what else can be done.
    """
    try:
        from skimage.segmentation import slic
    except ModuleNotFoundError as err:
        raise ImportError(
            'crops="segments" cuts pictures with scikit-image: pip install scikit-image. crops=True takes squares.'
        ) from err
    colours = x[:3] if len(x) >= 3 else x[:1].expand(3, -1, -1)
    low, high = colours.amin(), colours.amax()
    scaled = ((colours - low) / (high - low).clamp_min(1e-12)).movedim(0, -1).detach().cpu().double().numpy()
    labels = torch.from_numpy(
        slic(scaled, n_segments=_SEGMENTS, compactness=20, sigma=1, start_label=0, channel_axis=-1)
    )
    found = []
    for number in labels.unique().tolist():
        rows, columns = (labels == number).nonzero(as_tuple=True)
        box = (int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
        found.append(Segment(box, labels[box[0] : box[2], box[1] : box[3]] == number))
    return found


def share_of(crops: Any) -> float | str | None:
    """What `crops=` asks for: the share of the side, "segments", or None for places.

    Raises:
        InputError: neither a bool nor a number in (0, 1], nor "segments".
    """
    if isinstance(crops, bool):
        return 0.5 if crops else None
    if isinstance(crops, str) and crops == SEGMENTS:
        return SEGMENTS
    if not isinstance(crops, (int, float)) or not 0 < crops <= 1:
        raise InputError(f'crops must be True, False, "segments", or a share of the side in (0, 1], got {crops!r}.')
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
