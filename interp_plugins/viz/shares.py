"""Which input of a multimodal model mattered: each one's share of the sum of |attribution|, per sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import colour
from interp_plugins.viz.figure import Plot, compact
from interp_plugins.viz.inputs import InputPart, by_input, has_several
from interp_plugins.viz.overview import Explained, asked, axes_for, heading, overview, rows_of_names
from interp_plugins.viz.scale import finite
from interp_plugins.viz.text import ink_on
from interp_plugins.viz.titles import method_title, sample_text, shorten, target_text


def _why_not(exps: Sequence[Explanation]) -> str:
    for exp in exps:
        if not has_several(exp):
            return "it needs attributions of several inputs of the model; got those of one."
    return ""


@overview("shares", _why_not, "How much of the attribution lies in each input")
def input_shares(
    exps: Explained,
    *,
    max_n: int = 12,
    ax: Any = None,
    figsize: tuple[float, float] | None = None,
) -> Plot:
    """A bar per sample, divided by the inputs' shares of |attribution|, with each input's signed sum; below, the mean.

    An input of many small attributions of both signs (a picture) has a large share and a small sum: read both.

    Args:
        exps: an explanation of a model with several inputs, or several (a panel each).
        max_n: samples drawn at most; the mean is over all.
        ax: an axis per explanation, or a figure; None makes one.
        figsize: width and height in inches of a new figure.

    Returns:
        (figure, axes), axes being an array (1, number of explanations).

    Raises:
        InputError: for a model with one input, or NaN and infinite attributions.
    """
    if max_n < 1:
        raise InputError(f"max_n must be at least 1, got {max_n}.")
    many = asked("shares", exps)
    rows = min(max_n, max(len(exp) for exp in many))
    drawn = axes_for(ax, len(many), (5.2, 1.2 + 0.36 * (rows + 1)), figsize)
    for panel, exp in zip(drawn.axes[0], many, strict=True):
        _draw(panel, exp, by_input(exp), min(rows, len(exp)))
    return drawn


def _draw(ax: Axes, exp: Explanation, parts: list[InputPart], rows: int) -> None:
    shares = np.stack([part.shares for part in parts])
    known = np.isfinite(shares[0])
    finite(np.stack([part.sums for part in parts]))
    names = [_name(exp, i) for i in range(rows)]
    table = shares[:, :rows]
    if len(exp) > 1:
        mean = shares[:, known].mean(1, keepdims=True) if known.any() else np.full((len(parts), 1), np.nan)
        table, names = np.hstack([table, mean]), [*names, f"mean of {len(exp)}"]
    left = np.zeros(len(names))
    for k, part in enumerate(parts):
        shade = colour.CATEGORIES[k % len(colour.CATEGORIES)]
        width = np.nan_to_num(table[k])
        ax.barh(range(len(names)), width, left=left, color=shade, height=0.74, label=part.name, edgecolor="white")
        for row, wide in enumerate(width):
            if wide < 0.12:
                continue
            text = f"{wide:.0%}".replace("%", " %")
            if row < rows:
                text += f" ({'+' if part.sums[row] > 0 else ''}{compact(part.sums[row])})" if wide > 0.24 else ""
            ink = ink_on(np.array([int(shade[j : j + 2], 16) / 255 for j in (1, 3, 5)]))
            ax.text(left[row] + wide / 2, row, text, fontsize=7, ha="center", va="center", color=ink)
        left += width
    for empty in np.flatnonzero(left == 0):
        ax.text(0.01, float(empty), "zero everywhere", fontsize=7, va="center", color=colour.FAINT_INK)
    rows_of_names(ax, names)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    ax.set_xlabel("share of Σ|attribution| (in brackets: the signed sum)", fontsize=7.5, color=colour.FAINT_INK)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(parts), fontsize=7.5, frameon=False)
    heading(ax, method_title(exp))
    ax.title.set_y(1.0)
    ax.set_title(ax.get_title(), pad=22, fontsize=9.5, fontweight="bold", color=colour.INK, parse_math=False)


def _name(exp: Explanation, i: int) -> str:
    """The sample's name or number, and what was explained."""
    texts = (sample_text(exp, i) or f"sample {i + 1}", target_text(exp, i))
    return shorten(": ".join(filter(None, texts)), 26)
