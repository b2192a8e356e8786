"""Pictures of language models' attributions: tokens against tokens, a bar per token, segments of a picture."""

from __future__ import annotations

from textwrap import shorten
from typing import Any

import numpy as np
from matplotlib.colors import Normalize

from interp_plugins.core.errors import InputError
from interp_plugins.viz import colour
from interp_plugins.viz.captum_image import array, new_figure, present
from interp_plugins.viz.masks import draw_mask_border, draw_mask_legend


def _labels(tokens: list[str]) -> list[str]:
    return [shorten(repr(str(t))[1:-1], width=50, placeholder="...") or "''" for t in tokens]


def _finish(figure: Any, axis: Any, show: bool) -> Any:
    figure.set_facecolor("white")
    if not show:
        return figure, axis
    present(True)
    return None


def _top_labels(axis: Any, tokens: list[str]) -> None:
    axis.set_xticks(range(len(tokens)), labels=_labels(tokens), rotation=-30, ha="right", rotation_mode="anchor")
    axis.tick_params(top=True, bottom=False, labeltop=True, labelbottom=False)


def plot_tokens(values: Any, inputs: list[str], outputs: list[str], show: bool = False) -> Any:
    """A matrix: a row per output token, a column per input token; returns (figure, axis), or None after showing."""
    data = array(values)
    largest = float(np.abs(data).max()) or 1.0
    size = (max(data.shape[1] * 1.3, 6.4), max(data.shape[0] / 2.5, 4.8))
    figure, axis = new_figure(None, True, size)
    norm = Normalize(-largest, largest)
    image = axis.imshow(data, cmap=colour.DIVERGING, norm=norm, aspect="auto")
    figure.colorbar(image, ax=axis).ax.set_ylabel("Token Attribution", rotation=-90, va="bottom")
    _top_labels(axis, inputs)
    axis.set_yticks(range(len(outputs)), labels=_labels(outputs))
    for (i, j), value in np.ndenumerate(data):
        ink = "white" if abs(value) > 0.6 * largest else colour.INK
        axis.text(j, i, f"{value:.4f}", ha="center", va="center", color=ink)
    return _finish(figure, axis, show)


def plot_sequence(values: Any, inputs: list[str], show: bool = False) -> Any:
    """A bar per input token for the whole output; returns (figure, axis), or None after showing."""
    data = array(values)
    figure, axis = new_figure(None, True, (max(len(data) / 2, 6.4), max(len(data) / 4, 4.8)))
    shades = [colour.POSITIVE_COLOUR if v >= 0 else colour.NEGATIVE_COLOUR for v in data]
    axis.bar(range(len(data)), data, color=shades)
    axis.axhline(0, color=colour.FAINT_INK, linewidth=0.8)
    _top_labels(axis, inputs)
    axis.set_ylabel("Sequence Attribution", rotation=90, va="bottom")
    return _finish(figure, axis, show)


def _decorate(axis: Any, mask: np.ndarray, rgb: Any, width: int, label: str | None) -> None:
    if width > 0:
        draw_mask_border(axis, mask, width, (*rgb[:3], 0.9))
    if label is not None:
        draw_mask_legend(axis, mask, label)


def plot_segments(inp: Any, show: bool = False, border_width: int = 0, show_legends: bool = True) -> Any:
    """The segments of an `ImageMaskInput` in colours over its picture."""
    import matplotlib

    figure, axis = new_figure(None, True, (6.4, 4.8))
    axis.imshow(inp.image)
    palette = matplotlib.colormaps["tab20"]
    for k, (mask, number) in enumerate(zip(inp.get_mask_list(), inp.mask_id_to_idx)):
        where, rgb = array(mask).astype(bool), palette(k % 20)
        layer = np.zeros((*where.shape, 4))
        layer[where] = (*rgb[:3], 0.6)
        axis.imshow(layer)
        _decorate(axis, where, rgb, border_width, str(number) if show_legends else None)
    axis.axis("off")
    return _finish(figure, axis, show)


def plot_heatmap(inp: Any, values: Any, show: bool = False, border_width: int = 2, show_legends: bool = True) -> Any:
    """Attributions of the segments of an `ImageMaskInput` over its grey picture."""
    if values.shape[-1] != inp.n_itp_features:
        raise InputError(f"{values.shape[-1]} attributions came for {inp.n_itp_features} segments.")
    pixels, per_segment = array(inp.format_pixel_attr(values[None])[0]), array(values)
    largest = float(np.abs(pixels).max()) or 1.0
    norm = Normalize(-largest, largest)
    figure, axis = new_figure(None, True, (6.4, 4.8))
    axis.imshow(np.asarray(inp.image.convert("RGB")).mean(2), cmap="gray")
    image = axis.imshow(pixels, cmap=colour.DIVERGING, norm=norm, alpha=0.8)
    figure.colorbar(image, ax=axis).ax.set_ylabel("Attribution", rotation=-90, va="bottom")
    for mask, number, value in zip(inp.get_mask_list(), inp.mask_id_to_idx, per_segment):
        rgb = np.asarray(colour.DIVERGING(norm(value))) * 0.7
        _decorate(axis, array(mask).astype(bool), rgb, border_width, str(number) if show_legends else None)
    axis.axis("off")
    return _finish(figure, axis, show)
