"""Images: the photograph, the map, and both together."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import colour, pixels
from interp_plugins.viz.figure import bare, compact, png_of_pixels
from interp_plugins.viz.renderer import Renderer, register
from interp_plugins.viz.scale import Scale, finite
from interp_plugins.viz.tiles import rows_and_columns, tile_names

_PICTURES: dict[str, Callable[[np.ndarray, np.ndarray, Scale], np.ndarray]] = {
    "overlay": pixels.overlay,
    "heatmap": pixels.heatmap,
    "masked": pixels.masked,
    "alpha": pixels.alpha,
    "positive": pixels.positive,
    "negative": pixels.negative,
}
_LEVELS = (0.25, 0.5, 0.75)
_MOST_CHANNELS = 12


@register
class ImageRenderer(Renderer):
    """Inputs (N, C, H, W) with attributions of the same layout, or of a layer with two spatial axes."""

    name: ClassVar[str] = "image"
    kinds: ClassVar[tuple[str, ...]] = ("overlay", "side", *list(_PICTURES)[1:], "contour", "channels")

    def accepts_input(self, exp: Explanation) -> bool:
        """Whether the input has a height and a width."""
        return exp.input.ndim == 4

    def accepts(self, exp: Explanation) -> bool:
        """Whether `Explanation.heatmap` can make maps of the attributions."""
        return exp.input.ndim == 4 and exp.attribution.ndim in (3, 4) and pixels.has_a_place(exp)

    def size(self, exp: Explanation, kind: str) -> tuple[float, float]:
        """The shape of the photograph, neither too flat nor too tall; wider for several beside each other."""
        sizes = [one.input.shape[2:] for one in pixels.pictures(exp)]
        height, width = max(h for h, _ in sizes), sum(w for _, w in sizes)
        ratio = min(max(height / width, 0.4), 2.0)
        wide = 2.6 if ratio <= 1 else 2.6 / ratio**0.5
        if kind == "channels":
            channels = exp.attribution.shape[1] if exp.attribution.ndim == 4 else 1
            rows, columns = rows_and_columns(min(channels, _MOST_CHANNELS))
            return 0.65 * wide * columns, max(0.65 * wide * ratio * rows, 1.2)
        return (3.06 * wide if kind == "side" else wide), wide * ratio

    def values(self, exp: Explanation, i: int) -> np.ndarray:
        """The signed map (H, W), added up over channels, at the input's size; side by side for several pictures."""
        return pixels.heat(exp, i)

    def original(self, ax: Axes, exp: Explanation, i: int) -> str:
        """Draw the photograph of sample i; give back a note of what was changed to show it."""
        rgb, note = pixels.photo(exp, i)
        ax.imshow(pixels.outlined(rgb, exp, i))
        bare(ax)
        return note

    def draw(self, ax: Axes, exp: Explanation, i: int, kind: str, scale: Scale) -> ScalarMappable | None:
        """One picture with the source of its colour bar."""
        if kind == "contour":
            self._contour(ax, exp, i, scale)
            return None
        if kind == "side":
            return self._side(ax, exp, i, scale)
        if kind == "channels":
            return self._channels(ax, exp, i, scale)
        ax.imshow(self._coloured(exp, i, kind, scale))
        bare(ax)
        return _colour_source(kind, scale)

    def picture(self, exp: Explanation, i: int, kind: str, scale: Scale, longest: int) -> bytes:
        """The picture's own pixels as PNG."""
        if kind == "original":
            return png_of_pixels(pixels.outlined(pixels.photo(exp, i).rgb, exp, i), longest)
        if kind not in _PICTURES:
            return super().picture(exp, i, kind, scale, longest)
        return png_of_pixels(self._coloured(exp, i, kind, scale), longest)

    def _coloured(self, exp: Explanation, i: int, kind: str, scale: Scale) -> np.ndarray:
        """Photograph and map as one picture, with the region that is explained."""
        rgb = _PICTURES[kind](pixels.photo(exp, i).rgb, self.values(exp, i), scale)
        return pixels.outlined(rgb, exp, i)

    def _side(self, ax: Axes, exp: Explanation, i: int, scale: Scale) -> ScalarMappable:
        """Original, heat map and overlay in one axis, named below."""
        rgb, note = pixels.photo(exp, i)
        values = self.values(exp, i)
        pictures = [rgb, pixels.heatmap(rgb, values, scale), pixels.overlay(rgb, values, scale)]
        pictures = [pixels.outlined(picture, exp, i) for picture in pictures]
        width = pictures[0].shape[1]
        gap = max(1, round(0.03 * width))
        ax.imshow(pixels.side_by_side(pictures, gap))
        bare(ax)
        names = [f"original\n({note})" if note else "original", "heat map", "overlay"]
        ax.set_xticks([width / 2 - 0.5 + n * (width + gap) for n in range(3)], names)
        ax.tick_params(axis="x", length=0, labelsize=8, labelcolor=colour.FAINT_INK)
        return scale.mappable()

    def _channels(self, ax: Axes, exp: Explanation, i: int, scale: Scale) -> ScalarMappable:
        """A heat map per channel (the strongest ones), on the scale of their sum: see whether signs cancel."""
        maps = finite(exp.attribution[i].detach().double().cpu().numpy())
        maps = maps if maps.ndim == 3 else maps[None]
        chosen = np.sort(np.argsort(-np.abs(maps).sum((1, 2)), kind="stable")[:_MOST_CHANNELS])
        known = exp.feature_names
        names = known if known and len(known) == len(maps) else [f"channel {c}" for c in range(len(maps))]
        tile_names(ax, [scale.rgb(maps[c]) for c in chosen], [str(names[c]) for c in chosen])
        if len(chosen) < len(maps):
            text = f"the {len(chosen)} strongest of {len(maps)} channels"
            ax.set_title(text, fontsize=8, color=colour.FAINT_INK)
        return scale.mappable()

    def _contour(self, ax: Axes, exp: Explanation, i: int, scale: Scale) -> None:
        """Lines of equal attribution of the clipped and smoothed map, at 25, 50 and 75 % of its peak."""
        ax.imshow(pixels.faint(pixels.photo(exp, i).rgb))
        bare(ax)
        unit = pixels.smooth(scale.unit(self.values(exp, i)))
        peak = float(np.abs(unit).max())
        above = colour.POSITIVE_COLOUR if scale.signed else colour.PLAIN_COLOUR
        for part, line in ((unit, above), (-unit, colour.NEGATIVE_COLOUR)):
            levels = [level * peak for level in _LEVELS if level * peak < part.max()]
            if levels and min(unit.shape) > 1:
                ax.contour(part, levels=levels, colors=[line], linewidths=[0.8, 1.3, 1.9][: len(levels)])
        text = f"25, 50, 75 % of the smoothed peak, {compact(peak * scale.limit)}"
        ax.set_title(text, fontsize=8, color=colour.FAINT_INK)


def _colour_source(kind: str, scale: Scale) -> ScalarMappable:
    """The colour bar that belongs to a kind of picture."""
    if kind == "overlay":
        return scale.mappable(cmap=pixels.overlay_colours(scale))
    if kind == "masked":
        return scale.mappable(low=0.0, cmap=colour.STRENGTH)
    if kind == "alpha":
        return scale.mappable(low=0.0, cmap=colour.OPACITY)
    if kind == "positive":
        return scale.mappable(low=0.0, cmap=colour.POSITIVE)
    if kind == "negative":
        return scale.mappable(low=-1.0, high=0.0, cmap=colour.NEGATIVE)
    return scale.mappable()
