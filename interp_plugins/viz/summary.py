"""A table's data set at a glance: a dot per row and feature (beeswarm), and the mean |attribution| of each feature.

The beeswarm is the summary plot of Lundberg et al. (Nature Machine Intelligence 2, 2020): how far a feature moved each
row's score, in which direction, and for which of its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.tensors import in_sizes
from interp_plugins.viz import colour
from interp_plugins.viz.figure import Plot, compact
from interp_plugins.viz.overview import Explained, asked, axes_for, heading, overview, rows_of_names
from interp_plugins.viz.scale import finite
from interp_plugins.viz.tabular import TabularRenderer, feature_names
from interp_plugins.viz.titles import method_title, shorten

_MOST_DOTS = 3000  # rows drawn one by one; of more, evenly spaced ones are taken
_MOST_KINDS = 3  # values of a category that are named: as many as stand beside a row
_OUTER = (5.0, 95.0)  # percentiles of a feature's values that get the ends of the colours


def _why_not(exps: Sequence[Explanation]) -> str:
    renderer = TabularRenderer()
    for exp in exps:
        if exp.spec.kind != "tabular" or not renderer.accepts(exp):
            return (
                "it needs one attribution per feature of a table, (N, F) with kind 'tabular'; got "
                f"{tuple(exp.attribution.shape)} of kind {exp.spec.kind!r}."
            )
        if len(exp) < 2:
            return "it needs two rows at least; .plot() draws a single one."
    return ""


@overview("beeswarm", _why_not, "Every row: which features moved its score")
def beeswarm(
    exps: Explained,
    *,
    max_features: int = 12,
    ax: Any = None,
    figsize: tuple[float, float] | None = None,
) -> Plot:
    """A row per feature, the most important on top, with a dot per sample at its attribution.

    Dots are coloured by the feature's own value (dark blue low, yellow high; between its 5th and 95th percentile).
    Those of a category have a colour for each of its most frequent values, named at the right; rarer values and
    constants are grey. Where dots crowd they are spread, so that a band's height says how many.

    Args:
        exps: an explanation (N, F) of a table, or several (a panel each).
        max_features: features drawn at most, by mean |attribution|; how many were left out is said below.
        ax: an axis per explanation, or a figure; None makes one.
        figsize: width and height in inches of a new figure.

    Returns:
        (figure, axes), axes being an array (1, number of explanations).

    Raises:
        InputError: for other data than rows of a table, or NaN and infinite attributions.
    """
    many = asked("beeswarm", exps)
    count = _count(many, max_features)
    drawn = axes_for(ax, len(many), (5.4, 1.1 + 0.3 * count), figsize)
    for panel, exp in zip(drawn.axes[0], many, strict=True):
        values, order = _ordered(exp, count)
        chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MOST_DOTS)).round().astype(int))
        for row, feature in enumerate(order):
            kinds = _categories(exp, int(feature))
            if kinds is None:
                _dots(panel, values[chosen, feature], row, _position(exp, int(feature))[chosen])
            else:
                _kinds(panel, values[chosen, feature], row, kinds[chosen])
        panel.axvline(0, color=colour.INK, linewidth=0.7, zorder=0)
        rows_of_names(panel, [shorten(feature_names(exp)[f], 24) for f in order])
        note = (
            f"attribution to {_targets(exp)}, {len(chosen)} of {len(exp)} rows"
            if len(chosen) < len(exp)
            else (f"attribution to {_targets(exp)}, {len(exp)} rows")
        )
        _words(panel, note, count, values.shape[1])
        heading(panel, method_title(exp))
        _legend(drawn.fig, panel)
    return drawn


@overview("importance", _why_not, "All rows: mean |attribution| of each feature")
def importance(
    exps: Explained,
    *,
    max_features: int = 12,
    ax: Any = None,
    figsize: tuple[float, float] | None = None,
) -> Plot:
    """The mean |attribution| of each feature over the samples, with twice its standard error, as bars.

    Args:
        exps: an explanation (N, F) of a table, or several (a panel each).
        max_features: features drawn at most; how many were left out is said below.
        ax: an axis per explanation, or a figure; None makes one.
        figsize: width and height in inches of a new figure.

    Returns:
        (figure, axes), axes being an array (1, number of explanations).

    Raises:
        InputError: for other data than rows of a table, or NaN and infinite attributions.
    """
    many = asked("importance", exps)
    count = _count(many, max_features)
    drawn = axes_for(ax, len(many), (4.6, 1.0 + 0.27 * count), figsize)
    for panel, exp in zip(drawn.axes[0], many, strict=True):
        values, order = _ordered(exp, count)
        sizes = np.abs(values[:, order])
        means = sizes.mean(0)
        errors = 2 * sizes.std(0, ddof=1) / np.sqrt(len(sizes))
        style = {"ecolor": colour.FAINT_INK, "elinewidth": 1}
        panel.barh(range(count), means, xerr=errors, color=colour.PLAIN_COLOUR, height=0.68, error_kw=style)
        for row, (mean, error) in enumerate(zip(means, errors, strict=True)):
            place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
            panel.annotate(compact(mean), (mean + error, row), fontsize=7, color=colour.INK, **place)
        rows_of_names(panel, [shorten(feature_names(exp)[f], 24) for f in order])
        panel.margins(x=0.14)
        panel.set_xlim(left=0)
        _words(
            panel, f"mean |attribution| to {_targets(exp)} ± 2 standard errors, {len(exp)} rows", count, values.shape[1]
        )
        heading(panel, method_title(exp))
    return drawn


def _count(exps: Sequence[Explanation], max_features: int) -> int:
    if max_features < 1:
        raise InputError(f"max_features must be at least 1, got {max_features}.")
    return min(max_features, *(exp.attribution.shape[1] for exp in exps))


def _ordered(exp: Explanation, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The attributions (N, F), and the numbers of the features with the largest mean size."""
    values = finite(exp.attribution.detach().cpu().double().numpy())
    return values, np.argsort(-np.abs(values).mean(0), kind="stable")[:count]


def _targets(exp: Explanation) -> str:
    """What the attributions are of: the class, if it is one for all rows."""
    labels = {str(label) for label in exp.target_label or exp.target or ()} - {"None"}
    return shorten(next(iter(labels)), 24) if len(labels) == 1 else "the score" if not labels else "each row's class"


def _position(exp: Explanation, feature: int) -> np.ndarray:
    """Where each row's value lies between the feature's low and high ones, in [0, 1]; NaN where that means nothing."""
    x = in_sizes(exp.input[:, feature]).numpy()
    low, high = np.nanpercentile(x, _OUTER)
    if not high > low:  # few rows differ: take all there is
        low, high = np.nanmin(x), np.nanmax(x)
    return np.clip((x - low) / (high - low), 0, 1) if high > low else np.full(len(x), np.nan)


def _dots(ax: Axes, values: np.ndarray, row: int, position: np.ndarray) -> None:
    """The samples of one feature."""
    heights = row + spread(values)
    known = np.isfinite(position)
    style: dict[str, Any] = {"s": 9, "linewidths": 0, "alpha": 0.85, "zorder": 2}
    if not known.all():
        ax.scatter(values[~known], heights[~known], color=colour.GREY, **style)
    ax.scatter(values[known], heights[known], c=position[known], cmap=colour.LOW_TO_HIGH, vmin=0, vmax=1, **style)


def _categories(exp: Explanation, feature: int) -> np.ndarray | None:
    """Each row's value in words where the feature is a category, else None."""
    if exp.values is None or not any(isinstance(row[feature], str) for row in exp.values):
        return None
    return np.array([str(row[feature]) for row in exp.values])


def _kinds(ax: Axes, values: np.ndarray, row: int, kinds: np.ndarray) -> None:
    """The samples of a category, in the colours of its most frequent values, which are named beside them."""
    heights = row + spread(values)
    found, counts = np.unique(kinds, return_counts=True)
    named = [str(kind) for kind in found[np.argsort(-counts, kind="stable")][:_MOST_KINDS]]
    shades = dict(zip(named, colour.CATEGORIES))
    drawn = [shades.get(kind, colour.GREY) for kind in kinds]
    ax.scatter(values, heights, c=drawn, s=9, linewidths=0, alpha=0.85, zorder=2)
    right = ax.get_yaxis_transform()
    for k, kind in enumerate(named):
        place: dict[str, Any] = {"transform": right, "va": "center", "ha": "left", "fontsize": 6, "parse_math": False}
        y = row + 0.8 * ((k + 0.5) / len(named) - 0.5)
        ax.text(1.01, y, f"\u25cf {shorten(kind, 14)}", color=shades[kind], **place)


def spread(values: np.ndarray, bins: int = 60, reach: float = 0.4) -> np.ndarray:
    """Offsets in [-reach, reach] that part values lying close together: the fuller a bin, the wider it gets."""
    span = float(np.ptp(values))
    offsets = np.zeros(len(values))
    if span == 0:
        return np.linspace(-reach, reach, len(values)) if len(values) > 1 else offsets
    where = np.minimum((bins * (values - values.min()) / span).astype(int), bins - 1)
    fullest = np.bincount(where).max()
    for one in np.unique(where):
        inside = np.flatnonzero(where == one)
        wide = reach * len(inside) / fullest
        places = np.linspace(-wide, wide, len(inside)) if len(inside) > 1 else np.zeros(1)
        offsets[inside] = places[np.argsort(np.arange(len(inside)) * 0.618033988749895 % 1)]  # no pattern, no draws
    return offsets


def _legend(fig: Any, ax: Axes) -> None:
    """What a dot's colour means."""
    source = ScalarMappable(Normalize(0, 1), colormaps[colour.LOW_TO_HIGH])
    bar = fig.colorbar(source, ax=ax, fraction=0.03, pad=0.02, aspect=30)
    bar.set_ticks([0, 1], labels=["low", "high"])
    bar.ax.tick_params(labelsize=7, length=0, labelcolor=colour.INK)
    bar.set_label("the feature's value (grey: rarer categories, constants)", fontsize=7, color=colour.FAINT_INK)
    bar.outline.set_linewidth(0.4)


def _words(ax: Axes, text: str, shown: int, total: int) -> None:
    more = f"; {total - shown} further features are weaker" if shown < total else ""
    ax.set_xlabel(text + more, fontsize=7.5, color=colour.FAINT_INK, parse_math=False)
