"""Means with their intervals, side by side: which of several is better, and whether the samples can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from interp_plugins.viz import colour
from interp_plugins.viz.figure import Plot, data_uri, new_figure, png_of_figure
from interp_plugins.viz.template import section, whole_page
from interp_plugins.viz.titles import shorten

_LABEL = 34  # characters of a name that are shown
_COLUMNS = 3  # panels side by side
_STYLE = "th { white-space: normal; } th, td { padding-right: .5rem; } td:last-child { min-width: 0; }"


@dataclass(frozen=True)
class Bar:
    """A mean with its interval.

    Attributes:
        label: whose it is.
        mean: NaN where there is none.
        low: lower end of the interval; NaN where there is none.
        high: its upper end.
        faint: drawn in grey: what the others are compared with.
        chosen: drawn in the colour that says so.
    """

    label: str
    mean: float
    low: float
    high: float
    faint: bool = False
    chosen: bool = False


@dataclass(frozen=True)
class Panel:
    """Means that are compared.

    Attributes:
        title: what they are means of.
        bars: the means.
        chance: drawn as a dashed line; None: not known.
        higher_is_better: direction; None where neither end is better.
    """

    title: str
    bars: Sequence[Bar]
    chance: float | None = None
    higher_is_better: bool | None = None


def draw_intervals(panels: Sequence[Panel], figsize: tuple[float, float] | None = None) -> Plot:
    """A panel per comparison, a line per mean: a dot, its interval, and chance as a dashed line.

    Args:
        panels: what is compared.
        figsize: width and height in inches.

    Returns:
        (figure, axes), axes being an array (rows, columns).
    """
    across = min(_COLUMNS, len(panels))
    down = -(-len(panels) // across)
    lines = max(len(panel.bars) for panel in panels)
    names = max(len(shorten(bar.label, _LABEL)) for panel in panels for bar in panel.bars)
    width, height = figsize or (0.075 * names + 3.3 * across, (0.9 + 0.3 * lines) * down)
    fig: Figure = new_figure(width, height)
    axes = fig.subplots(down, across, squeeze=False)
    for at, ax in enumerate(axes.flat):
        if at < len(panels):
            _draw(ax, panels[at], names=at % across == 0 or _others(panels, at))
        else:
            ax.set_axis_off()
    return Plot(fig, axes)


def _others(panels: Sequence[Panel], at: int) -> bool:
    """Whether a panel has other lines than the one to its left, and so needs names of its own."""
    return [bar.label for bar in panels[at].bars] != [bar.label for bar in panels[at - 1].bars]


def _draw(ax: Axes, panel: Panel, names: bool) -> None:
    places = np.arange(len(panel.bars))[::-1]
    for y, bar in zip(places, panel.bars):
        ink = colour.GREY if bar.faint else colour.POSITIVE_COLOUR if bar.chosen else colour.NEGATIVE_COLOUR
        if not math.isnan(bar.low):
            ax.plot([bar.low, bar.high], [y, y], color=ink, linewidth=2.2, solid_capstyle="butt")
        if math.isnan(bar.mean):
            ax.text(0.02, y, "no value", transform=ax.get_yaxis_transform(), va="center", color=colour.FAINT_INK)
        else:
            ax.plot([bar.mean], [y], "o", color=ink, markersize=5)
    if panel.chance is not None:
        ax.axvline(panel.chance, color=colour.FAINT_INK, linewidth=1, linestyle="--", zorder=0)
    ax.set_yticks(places, [shorten(bar.label, _LABEL) for bar in panel.bars] if names else [""] * len(places))
    ax.set_ylim(-0.6, len(panel.bars) - 0.4)
    ax.tick_params(labelsize=8, length=0, axis="y")
    ax.tick_params(labelsize=7.5, axis="x")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}".replace("-", "−"))
    ax.locator_params(axis="x", nbins=5)
    better = {True: "  (more is better)", False: "  (less is better)", None: ""}[panel.higher_is_better]
    ax.set_title(f"{shorten(panel.title, _LABEL)}{better}", fontsize=9, loc="left", color=colour.INK)
    ax.grid(axis="x", color=colour.GREY, linewidth=0.4, alpha=0.6)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def interval_page(title: str, lead: str, parts: Sequence[tuple[str, Any]], legend: Sequence[tuple[str, str]]) -> str:
    """One HTML page without a network: sections of intervals (as a picture), of HTML, or of sentences.

    Args:
        title: heading of the page.
        lead: what stands below it.
        parts: (heading, a list of `Panel`, a list of sentences, or HTML).
        legend: (term, explanation).
    """
    return whole_page(title, lead, [section(name, _content(name, content)) for name, content in parts], legend, _STYLE)


def _content(name: str, content: Any) -> str:
    if isinstance(content, str):
        return f'<div class="scroll" tabindex="0">{content}</div>'
    if all(isinstance(one, str) for one in content):
        return "".join(f"<p>{escape(one)}</p>" for one in content)
    fig = draw_intervals(content)[0]
    return f'<img src="{data_uri(png_of_figure(fig))}" alt="{escape(name)}">'
