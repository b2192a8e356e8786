"""A training as a strip of pictures: a row per sample, a column per explained epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import Plot, ScaleRule, show, titles
from interp_plugins.viz.colour import FAINT_INK, INK
from interp_plugins.viz.figure import new_figure
from interp_plugins.viz.renderer import attribution_renderer, input_renderer, is_signed, resolve_kind


def draw_timeline(
    names: Sequence[str],
    frames: Sequence[Explanation],
    kind: str = "overlay",
    *,
    max_n: int = 6,
    max_epochs: int = 8,
    normalize: str | float = "percentile",
    percentile: float = 99.0,
    figsize: tuple[float, float] | None = None,
) -> Plot:
    """Draw one method's maps of the same samples over the epochs.

    Args:
        names: a heading per epoch.
        frames: an explanation per epoch, in order.
        kind: the kind of picture, see `interp_plugins.viz.show`.
        max_n: samples drawn at most.
        max_epochs: epochs drawn at most, evenly chosen; the first and the last are always there.
        normalize: "percentile", "max", "none" or a number: each map for itself; "shared": one scale for all maps of a
            sample, the percentile over all epochs. Then weak maps of early epochs look weak.
        percentile: the percentile of |map| that gets the full colour.
        figsize: width and height in inches.

    Returns:
        (figure, axes), axes being an array (rows, 1 + epochs).
    """
    if max_n < 1 or max_epochs < 1:
        raise InputError(f"max_n and max_epochs must be at least 1, got {max_n} and {max_epochs}.")
    chosen = _evenly(len(frames), max_epochs)
    shown = [frames[i] for i in chosen]
    first, rows, columns = shown[0], min(max_n, *(len(exp) for exp in shown)), 1 + len(shown)
    renderer = attribution_renderer(first)
    kind = resolve_kind(renderer, kind)
    width, height = (0.72 * side for side in renderer.size(first, kind))
    fig = new_figure(*(figsize or (columns * (width + 0.55), rows * (height + 0.42) + 0.7)))
    axes = fig.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        limit = normalize
        if normalize == "shared":
            values = np.concatenate([renderer.values(exp, row).reshape(-1) for exp in shown])
            limit = ScaleRule("percentile", percentile).fit(values).limit or "percentile"
        _draw_row(axes[row], shown, row, kind=kind, normalize=limit, percentile=percentile)
    for column, text in enumerate(["Input", *(names[i] for i in chosen)]):
        axes[0, column].set_title(text, fontsize=9, fontweight="bold", color=INK)
    fig.suptitle(titles.method_title(first), fontsize=10, color=INK)
    signed = any(is_signed(exp) for exp in shown)
    words = "Orange raises the score, blue lowers it." if signed else "Purple values are never negative."
    scale = "All maps of a row have one scale." if normalize == "shared" else "Each map has its own scale."
    fig.supxlabel(f"{words} {scale}", fontsize=8, color=FAINT_INK)
    return Plot(fig, axes)


def _evenly(count: int, most: int) -> list[int]:
    """At most so many of the numbers below count, evenly chosen, with the first and the last; of one, the last."""
    if most == 1:
        return [count - 1]
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))]


def _draw_row(axes: Any, shown: Sequence[Explanation], row: int, **look: Any) -> None:
    """One sample: the input, then its map in every epoch with the target and its probability."""
    input_renderer(shown[0]).original(axes[0], shown[0], row)
    axes[0].set_xlabel(titles.shorten(titles.sample_text(shown[0], row), 22, keep_end=True), fontsize=8)
    for ax, exp in zip(axes[1:], shown, strict=True):
        show(exp, ctx=ax, index=row, title=False, colorbar_label=False, **look)
        target = titles.shorten(titles.target_text(exp, row), 16)
        text = titles.with_probability(target, titles.number(exp.probability, row))
        ax.set_xlabel(text, fontsize=8, color=INK, parse_math=False)
