"""Volumes: slices beside each other, or the three planes through the strongest place.

"slices" shows the same evenly spaced slices along the depth axis for every method, so that maps can be compared, and
names the slice with the strongest attribution; "planes" goes through the map's own strongest voxel.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from interp_plugins.core.enlarged import enlarged
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.tensors import in_sizes
from interp_plugins.viz import colour, pixels
from interp_plugins.viz.renderer import Renderer, register
from interp_plugins.viz.scale import Scale, finite
from interp_plugins.viz.tiles import rows_and_columns, tile_names

MAX_SLICES = 8
_AXES = ("z", "y", "x")


@register
class VolumeRenderer(Renderer):
    """Inputs (N, C, D, H, W) with attributions of the same layout, or of a layer with three spatial axes."""

    name: ClassVar[str] = "volume"
    kinds: ClassVar[tuple[str, ...]] = ("slices", "planes", "heatmap")

    def accepts_input(self, exp: Explanation) -> bool:
        """Whether the input has three spatial axes."""
        return exp.input.ndim == 5

    def accepts(self, exp: Explanation) -> bool:
        """Whether the attributions have them as well."""
        return exp.input.ndim == 5 and exp.attribution.ndim in (4, 5)

    def size(self, exp: Explanation, kind: str) -> tuple[float, float]:
        """The montage's proportions; three planes are in a row."""
        depth, height, width = exp.input.shape[2:]
        if kind == "planes":
            return 4.6, 4.6 * max(height, depth) / (2 * width + depth)
        rows, columns = rows_and_columns(min(depth, MAX_SLICES))
        wide = max(1.1 * columns, 2.6)  # the title needs room, also above a single slice
        return wide, min(max(wide * rows * height / (columns * width), 1.8), 5.0)

    def values(self, exp: Explanation, i: int) -> np.ndarray:
        """The signed map (D, H, W), added up over channels, at the input's size."""
        values = torch.from_numpy(super().values(exp, i))
        grid = (values.sum(0) if values.ndim == 4 else values)[None, None]
        return np.asarray(enlarged(grid, exp.input.shape[2:])[0, 0].numpy())

    def original(self, ax: Axes, exp: Explanation, i: int) -> str:
        """Evenly spaced slices in grey."""
        volume, note = _grey(exp, i)
        numbers = slices(len(volume))
        tile_names(ax, [np.repeat(volume[z][..., None], 3, 2) for z in numbers], [f"z = {z}" for z in numbers])
        return ", ".join(filter(None, (note, f"{len(numbers)} of {len(volume)} slices")))

    def draw(self, ax: Axes, exp: Explanation, i: int, kind: str, scale: Scale) -> ScalarMappable | None:
        """The map over the slices or planes, or alone."""
        volume, values = _grey(exp, i)[0], finite(self.values(exp, i))
        paint = pixels.heatmap if kind == "heatmap" else pixels.overlay
        peak = tuple(int(k) for k in np.unravel_index(np.abs(values).argmax(), values.shape))
        if kind == "planes":
            cuts = [(np.take(volume, k, axis), np.take(values, k, axis)) for axis, k in enumerate(peak)]
            names = [f"{name} = {k}" for name, k in zip(_AXES, peak, strict=True)]
            text = "planes through the strongest voxel"
        else:
            cuts = [(volume[z], values[z]) for z in slices(len(volume))]
            names = [f"z = {z}" for z in slices(len(volume))]
            text = f"strongest at z = {peak[0]}, y = {peak[1]}, x = {peak[2]}"
        tiles = [paint(np.repeat(grey[..., None], 3, 2), part, scale) for grey, part in cuts]
        tile_names(ax, tiles, names, columns=3 if kind == "planes" else None)
        if values.any():
            ax.set_title(text, fontsize=8, color=colour.FAINT_INK)
        return scale.mappable(cmap=None if kind == "heatmap" else pixels.overlay_colours(scale))


def slices(depth: int) -> list[int]:
    """The numbers of the slices that are shown: all, or `MAX_SLICES` evenly spaced ones off the borders."""
    if depth <= MAX_SLICES:
        return list(range(depth))
    return [int((k + 0.5) * depth / MAX_SLICES) for k in range(MAX_SLICES)]


def _grey(exp: Explanation, i: int) -> tuple[np.ndarray, str]:
    """The volume (D, H, W) in [0, 1] by its raw range, and a note on what was done, or ""."""
    x = in_sizes(exp.input[i % len(exp)][None])
    raw, note = pixels.in_range(torch.nan_to_num(exp.spec.denormalise(x)[0]), exp.spec)
    several = raw.shape[0] > 1
    return raw.mean(0).numpy(), ", ".join(filter(None, (f"mean of {len(raw)} channels" if several else "", note)))
