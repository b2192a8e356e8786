"""Several maps of one sample beside each other: the frames of a clip, the crops or views of a picture.

A layer that sees a sample's frames one by one has a map for each; they share one scale. Where the input holds as many
frames (or there are as many input pictures), a map lies over its own; else it stands alone.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from torch import Tensor

from interp_plugins.core.enlarged import enlarged
from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import colour, pixels
from interp_plugins.viz.renderer import Renderer, register
from interp_plugins.viz.scale import Scale, finite
from interp_plugins.viz.tiles import rows_and_columns, tile_names

MAX_ENTRIES = 8


@register
class StripRenderer(Renderer):
    """Attributions (N, k, C, h, w) of a layer that has k rows per sample."""

    name: ClassVar[str] = "strip"
    kinds: ClassVar[tuple[str, ...]] = ("overlay", "heatmap")

    def accepts_input(self, exp: Explanation) -> bool:
        """Whether there is a picture for every map."""
        return self.accepts(exp) and _frames(exp, 0) is not None

    def accepts(self, exp: Explanation) -> bool:
        """Whether the attributions are maps with two axes of space, several for a sample."""
        return "entries_per_sample" in exp.meta and exp.attribution.ndim == 5

    def size(self, exp: Explanation, kind: str) -> tuple[float, float]:
        """As wide as its columns, as high as the pictures' proportions ask."""
        height, width = _space(exp)
        rows, columns = rows_and_columns(len(shown(exp.attribution.shape[1])))
        wide = 1.3 * columns
        return wide, min(max(wide * rows * height / (columns * width), 1.8), 6.0)

    def values(self, exp: Explanation, i: int) -> np.ndarray:
        """The signed maps (k, H, W), added up over channels, at the pictures' size."""
        maps = exp.attribution[i].detach().double().cpu().sum(1, keepdim=True)
        return np.asarray(enlarged(maps, _space(exp))[:, 0].numpy())

    def original(self, ax: Axes, exp: Explanation, i: int) -> str:
        """The frames or views."""
        photos = _frames(exp, i)
        assert photos is not None
        numbers = shown(len(photos))
        tile_names(ax, [photos[k].rgb for k in numbers], _names(exp, numbers))
        notes = dict.fromkeys(photo.note for photo in photos if photo.note)
        return ", ".join((*notes, *_left_out(len(photos))))

    def draw(self, ax: Axes, exp: Explanation, i: int, kind: str, scale: Scale) -> ScalarMappable | None:
        """The maps over their pictures, or alone."""
        values, photos = finite(self.values(exp, i)), _frames(exp, i)
        numbers = shown(len(values))
        if photos is None or kind == "heatmap":
            tiles = [_framed(scale.rgb(values[k])) for k in numbers]
        else:
            tiles = [pixels.overlay(photos[k].rgb, values[k], scale) for k in numbers]
        tile_names(ax, tiles, _names(exp, numbers))
        strongest = f"strongest in {_names(exp, [int(np.abs(values).sum((1, 2)).argmax())])[0]}" if values.any() else ""
        text = ", ".join(filter(None, (strongest, *_left_out(len(values)))))
        ax.set_title(text, fontsize=8, color=colour.FAINT_INK)
        return scale.mappable()


def shown(count: int) -> list[int]:
    """The numbers of the maps that are drawn: all, or `MAX_ENTRIES` evenly spaced ones with both ends."""
    if count <= MAX_ENTRIES:
        return list(range(count))
    return [round(j * (count - 1) / (MAX_ENTRIES - 1)) for j in range(MAX_ENTRIES)]


def _framed(tile: np.ndarray) -> np.ndarray:
    """A tile with a grey line around it, which tells white maps from the page."""
    return np.pad(tile, ((1, 1), (1, 1), (0, 0)), constant_values=0.8)


def _left_out(count: int) -> tuple[str, ...]:
    return (f"{MAX_ENTRIES} of {count} are drawn",) if count > MAX_ENTRIES else ()


def _names(exp: Explanation, numbers: list[int]) -> list[str]:
    word = "frame" if exp.input.ndim == 5 else "view"
    return [f"{word} {k}" for k in numbers]


def _clip(x: Tensor, count: int) -> Tensor | None:
    """Pictures (k, C, H, W) of a sample's clip, its frames first (T, C, H, W) or second (C, T, H, W)."""
    if x.ndim != 4:
        return None
    if x.shape[0] == count:
        return x
    return x.transpose(0, 1) if x.shape[1] == count else None


def _frames(exp: Explanation, i: int) -> list[pixels.Photo] | None:
    """A photograph for each map of sample i: the frames of a clip, or as many input pictures; else None."""
    count = exp.attribution.shape[1]
    many = exp.inputs if isinstance(exp.inputs, tuple) else (exp.inputs,)
    clip: Tensor | None = None
    if len(many) == 1:
        clip = _clip(exp.input[i], count)
    elif len(many) == count and all(x.ndim == 4 and x.shape[1:] == many[0].shape[1:] for x in many):
        clip = torch.stack([x[i] for x in many])
    if clip is None:
        return None
    mean = exp.spec.mean
    if mean is not None and len(mean) not in (1, clip.shape[1]):
        return None
    return pixels.photos(clip, exp.spec)


def _space(exp: Explanation) -> tuple[int, int]:
    """Height and width of the pictures, or of the maps where there are none."""
    spatial = exp.input.ndim >= 4
    shape = exp.input.shape if spatial else exp.attribution.shape
    return int(shape[-2]), int(shape[-1])
