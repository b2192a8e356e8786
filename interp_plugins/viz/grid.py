"""Many samples and methods: a row per sample, the input first, then a column per method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation

from . import colour
from .figure import bare, characters, display_in_notebook, new_figure, png_of_figure
from .medium import attribution_medium, input_medium, is_signed, panel, resolve_kind
from .scale import Scale, ScaleRule
from .titles import broken, method_title, original_caption, panel_caption

_FONT = 8.5
_CHAR = 0.58 * _FONT / 72  # width of an average character in inches


class Plot(NamedTuple):
    """A figure and its axes (rows, columns); notebooks show the picture."""

    fig: Any
    axes: np.ndarray

    def _repr_png_(self) -> bytes | None:
        return png_of_figure(self.fig) if isinstance(self.fig, Figure) else None


def plot(
    exps: Sequence[Explanation],
    kind: str = "overlay",
    *,
    max_n: int = 9,
    normalize: str | float = "percentile",
    percentile: float = 99.0,
    figsize: tuple[float, float] | None = None,
    ax: Any = None,
) -> Plot:
    """Draw a grid: a row per sample, first the input with the prediction, then a column per explanation.

    Args:
        exps: the explanations (one per method and target) of the same samples.
        kind: the kind of picture, see `show`.
        max_n: the number of samples drawn at most; how many were left out is said below the grid.
        normalize: "percentile", "max", "none" or a positive number, see `ScaleRule`; for each map alone.
        percentile: the percentile of |map| that gets the full colour.
        figsize: width and height in inches of a new figure.
        ax: where to draw: a figure or subfigure, or as many axes as there are panels (rows x columns, the
            first column for the inputs); one axis takes one sample of one explanation. None makes a figure.

    Returns:
        (figure, axes), axes being an array (rows, 1 + number of explanations).

    Raises:
        InputError: for nothing to draw, NaN or infinite attributions, or the wrong number of axes.
        UnknownNameError: for an unknown `kind` or `normalize`.
    """
    rule = ScaleRule(normalize, percentile)
    rows, total = _rows(exps, max_n)
    for exp in exps:
        resolve_kind(attribution_medium(exp), kind)
    if isinstance(ax, Axes):
        return _single(exps, kind, rule, rows, ax)
    sheet = _sheet(ax, exps, kind, rows, figsize)
    scales = []
    for row in range(rows):
        first = next(exp for exp in exps if row < len(exp))
        note = input_medium(first).original(sheet.axes[row, 0], first, row)
        _caption(sheet.axes[row, 0], original_caption(first, row, sheet.widths[0], note))
        for column, exp in enumerate(exps, start=1):
            scales.append(_cell(sheet.axes[row, column], exp, row, kind, rule, sheet.widths[column]))
    for column, text in enumerate(["Input", *(method_title(exp) for exp in exps)]):
        _heading(sheet.axes[0, column], broken(text, int(sheet.widths[column] / 1.2)))
    if sheet.roomy:
        text = _footnote(exps, kind, [scale for scale in scales if scale is not None], rows, total)
        sheet.fig.supxlabel(text, fontsize=8, color=colour.FAINT_INK)
    return Plot(sheet.fig, sheet.axes)


def show_grid(exps: Sequence[Explanation], ctx: Any = None, **kwargs: Any) -> np.ndarray:
    """Draw `plot`'s grid and display it in a notebook; `ctx` is plot's `ax`. Returns axes (rows, columns)."""
    drawn = plot(exps, ax=ctx, **kwargs)
    if ctx is None:
        display_in_notebook(drawn.fig)
    return drawn.axes


def _rows(exps: Sequence[Explanation], max_n: int) -> tuple[int, int]:
    """Number of rows drawn, and number of samples there are."""
    if max_n < 1:
        raise InputError(f"max_n must be at least 1, got {max_n}.")
    total = max((len(exp) for exp in exps), default=0)
    if total == 0:
        raise InputError("There is nothing to draw: no explanation, or none with a sample.")
    return min(total, max_n), total


class _Sheet(NamedTuple):
    """Where a grid is drawn: figure, axes (rows, columns), characters per line of each column."""

    fig: Any
    axes: np.ndarray
    widths: list[int]
    roomy: bool  # whether the figure is laid out here, with room below the grid


def _sheet(ax: Any, exps: Sequence[Explanation], kind: str, rows: int, figsize: tuple[float, float] | None) -> _Sheet:
    """The axes given, or a figure whose columns are as wide as their pictures."""
    sizes = [input_medium(exps[0]).size(exps[0], "original")]
    sizes += [attribution_medium(exp).size(exp, kind) for exp in exps]
    inches, height = [w for w, _ in sizes], max(h for _, h in sizes)
    widths = [int(w / _CHAR) for w in inches]
    if ax is None:
        ax = new_figure(*(figsize or (sum(inches) + 0.62 * len(exps) + 0.3, rows * (height + 0.42) + 0.65)))
    if isinstance(ax, FigureBase):
        return _Sheet(ax, ax.subplots(rows, 1 + len(exps), squeeze=False, width_ratios=inches), widths, True)
    given = np.array(ax, dtype=object).reshape(-1)
    if given.size != rows * (1 + len(exps)):
        raise InputError(
            f"ax holds {given.size} axes, but {rows} samples and {len(exps)} explanations need "
            f"{rows * (1 + len(exps))}: {rows} rows of {1 + len(exps)}, the first column for the inputs."
        )
    axes = given.reshape(rows, -1)
    return _Sheet(axes[0, 0].figure, axes, [characters(one, _FONT) for one in axes[0]], False)


def _single(exps: Sequence[Explanation], kind: str, rule: ScaleRule, rows: int, ax: Axes) -> Plot:
    """One sample of one explanation in the axis given."""
    if rows != 1 or len(exps) != 1:
        raise InputError(
            f"ax is one axis, but there are {rows} samples and {len(exps)} explanations to draw. Give a "
            f"figure or {rows * (1 + len(exps))} axes, or use .show(ctx=ax) on one explanation."
        )
    _cell(ax, exps[0], 0, kind, rule, characters(ax, _FONT))
    _heading(ax, method_title(exps[0]))
    return Plot(ax.figure, np.array([[ax]], dtype=object))


def _cell(ax: Axes, exp: Explanation, i: int, kind: str, rule: ScaleRule, width: int) -> Scale | None:
    """One picture with its caption; blank for an explanation with fewer samples. Returns its colour scale."""
    if i >= len(exp):
        bare(ax)
        return None
    drawn = panel(ax, exp, i, kind, rule, label=False)
    _caption(ax, panel_caption(exp, i, width))
    return drawn.scale


def _caption(ax: Axes, text: str) -> None:
    ax.set_xlabel(text, fontsize=_FONT, color=colour.INK, parse_math=False)


def _heading(ax: Axes, text: str) -> None:
    text = "\n".join(t for t in (text, ax.get_title()) if t)
    ax.set_title(text, fontsize=_FONT + 1, fontweight="bold", color=colour.INK, parse_math=False)


def _footnote(exps: Sequence[Explanation], kind: str, scales: list[Scale], rows: int, total: int) -> str:
    """What the colours mean, how they are scaled, and what is not shown."""
    signs = {is_signed(exp) for exp in exps}
    coloured = bool(scales) or kind == "contour"  # else bars, orange and blue whatever the method
    words = []
    if kind in ("masked", "alpha"):
        words.append("visible where the attribution is strong, whatever its sign")
    elif kind != "original":
        words += ["orange raises the score, blue lowers it"] if True in signs or not coloured else []
        words += ["purple values are never negative"] if False in signs and coloured else []
    lines = ["; ".join(words)]
    if scales:
        how = dict.fromkeys(scale.label.replace("\n", " ").removeprefix("attribution, ") for scale in scales)
        lines[0] += ". Each map has its own scale: " + "; or ".join(how)
    if any(exp.region is not None for exp in exps):
        lines.append("the outline is the region whose score is explained")
    if rows < total:
        lines.append(f"{rows} of {total} samples are shown")
    return "\n".join(f"{line[0].upper()}{line[1:]}." for line in lines if line)
