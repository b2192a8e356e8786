"""Pictures as arrays: a photograph (H, W, 3) and a map (H, W) make a picture (H, W, 3), all in [0, 1]."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.colors import Colormap, ListedColormap
from torch import Tensor

from interp_plugins.core.explanation import Explanation
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import in_sizes
from interp_plugins.viz import colour
from interp_plugins.viz.scale import Scale

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_FINE = 192  # pixels of the shorter side up to which a picture is enlarged before lines are drawn
_OUTSIDE = 0.05  # share of values outside the stated range from which the range is taken to be unknown


class Photo(NamedTuple):
    """An input made visible: colours (H, W, 3) in [0, 1] and a note on what was done, or ""."""

    rgb: np.ndarray
    note: str


def pictures(exp: Explanation) -> list[Explanation]:
    """An explanation for each picture of the inputs, with its own map where there is one; they stand side by side."""
    xs, maps = exp.inputs, exp.attributions
    if not isinstance(xs, tuple) or any(x.ndim != 4 or x.shape[1] != xs[0].shape[1] for x in xs):
        return [exp]
    maps = maps if isinstance(maps, tuple) and len(maps) == len(xs) else (exp.attribution,) * len(xs)
    return [replace(exp, inputs=x, attributions=a) for x, a in zip(xs, maps)]


def has_a_place(exp: Explanation) -> bool:
    """Whether it is known which picture the map lies over: one map for two pictures belongs to neither."""
    maps = exp.attributions
    several = isinstance(exp.inputs, tuple) and sum(x.ndim == 4 for x in exp.inputs) > 1
    return not several or (isinstance(maps, tuple) and len(maps) == len(exp.inputs) == len(pictures(exp)))


def joined(arrays: list[np.ndarray], fill: float) -> np.ndarray:
    """Arrays (H, W, ...) in a row with a gap between them; lower ones are filled up at the bottom."""
    if len(arrays) == 1:
        return arrays[0]
    height, gap = max(len(a) for a in arrays), max(1, round(0.04 * arrays[0].shape[1]))
    parts = []
    for a in arrays:
        rest = a.shape[2:]
        parts += [np.full((height, gap, *rest), fill), np.full((height, a.shape[1], *rest), fill)]
        parts[-1][: len(a)] = a
    return np.concatenate(parts[1:], axis=1)


def photo(exp: Explanation, i: int = 0) -> Photo:
    """The input of sample i in raw units, clipped to the spec's value range; several pictures side by side.

    One channel is grey, three are RGB, four RGBA (on white); any other number is shown as the mean. Where no
    normalisation is known and the values clearly do not fit the range, they are stretched to it, with a note.
    """
    photos = [_photo(one, i) for one in pictures(exp)]
    return Photo(joined([p.rgb for p in photos], 1.0), ", ".join(dict.fromkeys(p.note for p in photos if p.note)))


def heat(exp: Explanation, i: int = 0) -> np.ndarray:
    """The signed map (H, W) of sample i; those of several pictures side by side, as `photo` has them."""
    return joined([one.heatmap(i) for one in pictures(exp)], 0.0)


def outlined(rgb: np.ndarray, exp: Explanation, i: int) -> np.ndarray:
    """A black line, with a white one around it, along the border of the region that is explained, if there is one.

    Small pictures are enlarged, so that the lines cover little of them.
    """
    if exp.region is None or len(pictures(exp)) > 1:
        return rgb
    factor = max(1, _FINE // min(rgb.shape[:2]))
    rgb = rgb.repeat(factor, axis=0).repeat(factor, axis=1)
    mask = exp.region[i % len(exp.region)][None, None].float()
    mask = torch.nn.functional.interpolate(mask, size=rgb.shape[:2], mode="nearest")
    grown, shrunk = (s * torch.nn.functional.max_pool2d(s * mask, 3, 1, 1) for s in (1, -1))
    out = np.array(rgb)
    out[(grown > mask)[0, 0].numpy()] = 1.0
    out[(mask > shrunk)[0, 0].numpy()] = 0.0
    return out


def photos(pictures: Tensor, spec: InputSpec) -> list[Photo]:
    """Pictures (k, C, H, W) made visible, all on the range of the whole."""
    raw = torch.nan_to_num(spec.denormalise(in_sizes(pictures)))
    unit, note = in_range(raw, spec)
    if pictures.is_complex():
        note = ", ".join(filter(None, ("magnitude", note)))
    return [_visible(one, note) for one in unit]


def _photo(exp: Explanation, i: int) -> Photo:
    return photo_of(exp.input[i % len(exp)], exp.spec)


def photo_of(x: Tensor, spec: InputSpec) -> Photo:
    """One picture (C, H, W) in the model's units, made visible as `photo` does it."""
    return photos(x[None], spec)[0]


def _visible(unit: Tensor, note: str) -> Photo:
    """Channels (C, H, W) in [0, 1] as colours."""
    notes = [note] if note else []
    image = unit.permute(1, 2, 0).numpy()
    channels = image.shape[2]
    if channels not in (1, 3, 4):
        image = image.mean(axis=2, keepdims=True)
        notes.insert(0, f"mean of {channels} channels")
    if channels == 4:
        alpha = image[..., 3:]
        image = image[..., :3] * alpha + (1 - alpha)
    rgb = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    return Photo(rgb, ", ".join(notes))


def in_range(raw: Tensor, spec: InputSpec) -> tuple[Tensor, str]:
    """Raw values in [0, 1] by the spec's value range, or stretched to it, with a note, where they do not fit."""
    low, high = spec.value_range
    note = ""
    if not spec.normalised and ((raw < low) | (raw > high)).double().mean() > _OUTSIDE:
        low, high = float(raw.min()), float(raw.max())
        note = "brightness stretched"
    return ((raw - low) / ((high - low) or 1.0)).clamp(0, 1), note


def grey(rgb: np.ndarray) -> np.ndarray:
    """The brightness of colours (H, W, 3), as (H, W, 1)."""
    return (rgb @ _LUMA)[..., None]


def faint(rgb: np.ndarray) -> np.ndarray:
    """A pale grey version in a narrow band of lightness, so that colours over black and over white look alike."""
    low, high = colour.GROUND
    return low + (high - low) * np.repeat(grey(rgb), 3, axis=2)


def heatmap(rgb: np.ndarray, values: np.ndarray, scale: Scale) -> np.ndarray:
    """The colours of a map alone, without the photograph: (H, W, 3)."""
    return scale.rgb(values)


def overlay(rgb: np.ndarray, values: np.ndarray, scale: Scale) -> np.ndarray:
    """The map over a pale grey photograph; the stronger the attribution, the more its colour covers.

    Colours start at the middle of their ramp, because pale ones would be lost on the photograph. Equal attributions
    look nearly equal over any two pixels, so that `overlay_colours` can stand beside the picture.
    """
    strength = scale.strength(values)
    cover = 0.9 * strength[..., None] ** 0.6
    vivid = np.sign(values) * (0.4 + 0.6 * strength) * scale.limit
    return (1 - cover) * faint(rgb) + cover * scale.rgb(vivid)


def overlay_colours(scale: Scale) -> Colormap:
    """The colours of `overlay` over a pixel of middle brightness, for the colour bar."""
    values = np.linspace(-scale.limit if scale.signed else 0.0, scale.limit, 256)[None]
    return ListedColormap(overlay(np.full((1, 256, 3), 0.5), values, scale)[0], name="attribution_overlay")


def masked(rgb: np.ndarray, values: np.ndarray, scale: Scale) -> np.ndarray:
    """The photograph times the strength of |map|: what does not matter is black."""
    return rgb * scale.strength(values)[..., None]


def alpha(rgb: np.ndarray, values: np.ndarray, scale: Scale) -> np.ndarray:
    """The photograph with the strength of |map| as opacity: what does not matter is white."""
    cover = scale.strength(values)[..., None]
    return rgb * cover + (1 - cover)


def positive(rgb: np.ndarray, values: np.ndarray, scale: Scale) -> np.ndarray:
    """The positive part of the map, on the scale of the whole map."""
    return scale.rgb(np.maximum(values, 0), cmap=colour.POSITIVE)


def negative(rgb: np.ndarray, values: np.ndarray, scale: Scale) -> np.ndarray:
    """The negative part of the map, on the scale of the whole map."""
    return np.asarray(colour.NEGATIVE(1 + np.minimum(scale.unit(values), 0)))[..., :3]


def side_by_side(pictures: list[np.ndarray], gap: int) -> np.ndarray:
    """Pictures of one height in a row, `gap` white pixels between them."""
    white = np.ones((pictures[0].shape[0], gap, 3))
    row = [pictures[0]]
    for picture in pictures[1:]:
        row += [white, picture]
    return np.concatenate(row, axis=1)


def smooth(values: np.ndarray, share: float = 0.02) -> np.ndarray:
    """The map smoothed by a Gaussian whose sigma is `share` of the shorter side (at least half a pixel)."""
    sigma = max(0.5, share * min(values.shape))
    grid = torch.from_numpy(np.asarray(values, dtype=np.float64))[None, None]
    for axis, length in enumerate(values.shape):
        radius = min(max(1, int(3 * sigma)), length - 1)
        if radius == 0:
            continue
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
        shape = (1, 1, -1, 1) if axis == 0 else (1, 1, 1, -1)
        pad = (0, 0, radius, radius) if axis == 0 else (radius, radius, 0, 0)
        grid = torch.nn.functional.pad(grid, pad, mode="reflect")
        grid = torch.nn.functional.conv2d(grid, (kernel / kernel.sum()).view(shape))
    return grid[0, 0].numpy()
