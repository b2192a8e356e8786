"""Clips: a strip of frames, each with its part of the map.

Frames are evenly spaced and the same for every method, so that maps can be compared; the frame with the most
attribution is named with its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from interp_plugins.core.enlarged import enlarged
from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import colour, pixels
from interp_plugins.viz.renderer import Renderer, register
from interp_plugins.viz.scale import Scale, finite
from interp_plugins.viz.tiles import rows_and_columns, tile_names
from interp_plugins.viz.volume import slices


@register
class ClipRenderer(Renderer):
    """Clips, which come here as (N, C, T, H, W), with maps of that layout or of a layer with three such axes."""

    name: ClassVar[str] = "clip"
    kinds: ClassVar[tuple[str, ...]] = ("frames", "heatmap")

    def accepts_input(self, exp: Explanation) -> bool:
        """Whether the input has frames of two axes."""
        return exp.input.ndim == 5

    def accepts(self, exp: Explanation) -> bool:
        """Whether the attributions have them as well."""
        return exp.input.ndim == 5 and exp.attribution.ndim == 5

    def size(self, exp: Explanation, kind: str) -> tuple[float, float]:
        """Width and height of the strip, with the proportions of its frames."""
        count, height, width = exp.input.shape[2:]
        rows, columns = rows_and_columns(len(slices(count)))
        wide = 1.2 * columns
        return wide, min(max(wide * rows * height / (columns * width), 1.2), 5.0)

    def values(self, exp: Explanation, i: int) -> np.ndarray:
        """The signed map (T, H, W), added up over channels, at the input's size."""
        values = torch.from_numpy(super().values(exp, i))
        grid = (values.sum(0) if values.ndim == 4 else values)[None, None]
        return np.asarray(enlarged(grid, exp.input.shape[2:])[0, 0].numpy())

    def original(self, ax: Axes, exp: Explanation, i: int) -> str:
        """Draw the frames in their own colours, evenly spaced."""
        chosen = slices(exp.input.shape[2])
        photos = _frames(exp, i, chosen)
        tile_names(ax, [p.rgb for p in photos], [f"frame {t}" for t in chosen])
        return ", ".join(filter(None, (photos[0].note, f"{len(chosen)} of {exp.input.shape[2]} frames")))

    def draw(self, ax: Axes, exp: Explanation, i: int, kind: str, scale: Scale) -> ScalarMappable | None:
        """The map over the frames, or alone."""
        values = finite(self.values(exp, i))
        paint = pixels.heatmap if kind == "heatmap" else pixels.overlay
        chosen = slices(len(values))
        tiles = [paint(p.rgb, values[t], scale) for t, p in zip(chosen, _frames(exp, i, chosen), strict=True)]
        tile_names(ax, tiles, [f"frame {t}" for t in chosen])
        shares = np.abs(values).sum((1, 2))
        if shares.any():
            best = int(shares.argmax())
            text = f"most in frame {best}: {shares[best] / shares.sum():.0%} of |attribution|".replace("%", " %")
            ax.set_title(text, fontsize=8, color=colour.FAINT_INK)
        return scale.mappable()


def _frames(exp: Explanation, i: int, chosen: Sequence[int]) -> list[pixels.Photo]:
    """Frames of sample i as photographs; all have the clip's range of brightness."""
    clip, spec = exp.input[i % len(exp)], replace(exp.spec, kind="image")
    raw = torch.nan_to_num(spec.denormalise(clip[None].detach().cpu().double())[0])
    note = pixels.in_range(raw, spec)[1]
    if note:
        spec = replace(spec, value_range=(float(raw.min()), float(raw.max())))
    return [pixels.photo_of(clip[:, t], spec)._replace(note=note) for t in chosen]
