"""Many samples and methods: a row per sample (and input), the input first, then a column per method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import colour
from interp_plugins.viz.figure import Plot, bare, characters, display_in_notebook, new_figure
from interp_plugins.viz.inputs import InputPart, by_input, part_text
from interp_plugins.viz.overview import OVERVIEWS, fitting
from interp_plugins.viz.renderer import (
    attribution_renderer,
    in_own_size,
    input_renderer,
    is_signed,
    panel,
    resolve_kind,
)
from interp_plugins.viz.scale import Scale, ScaleRule
from interp_plugins.viz.titles import column_title, method_title, original_caption, panel_caption
from interp_plugins.viz.truth import verdict

_FONT = 8.5
_RULE = ("percentile", 99.0)  # of `plot`; overviews have their own
_MOST_TABLE_ROWS = 8  # rows of a table drawn one by one, where nothing else is asked for
_CHAR = 0.58 * _FONT / 72  # width of an average character in inches
_LINE = 0.17  # inches of a line of a heading


def plot(
    exps: Sequence[Explanation],
    kind: str | None = None,
    *,
    max_n: int | None = None,
    normalize: str | float = "percentile",
    percentile: float = 99.0,
    figsize: tuple[float, float] | None = None,
    ax: Any = None,
) -> Plot:
    """Draw a grid: a row per sample, first the input with the prediction, then a column per explanation.

    A model with several inputs gets a row for each of them, with its share of the sum of |attribution|.

    Args:
        exps: the explanations (one per method and target) of the same samples.
        kind: the kind of picture, see `show`; or an overview of all samples instead of single ones: "beeswarm" and
            "importance" for tables, "layers" for a text at several layers, "shares" for several inputs, "classes" for
            several classes of a photograph. None: "overlay", but "beeswarm" for more than eight rows of a table where
            neither max_n nor ax is given.
        max_n: the number of samples drawn at most (None: 9); how many were left out is said below the grid.
        normalize: "percentile", "max", "none" or a positive number, see `ScaleRule`; for each map alone.
        percentile: the percentile of |map| that gets the full colour.
        figsize: width and height in inches of a new figure.
        ax: where to draw: a figure or subfigure, or as many axes as there are panels (rows x columns, the
            first column for the inputs); one axis takes one sample of one explanation. None makes a figure.

    Returns:
        (figure, axes), axes being an array (rows, 1 + number of explanations); an overview's own axes.

    Raises:
        InputError: for nothing to draw, NaN or infinite attributions, the wrong number of axes, or an overview that
            the explanations do not allow.
        UnknownNameError: for an unknown `kind` or `normalize`.
    """
    if kind is None:
        kind = "beeswarm" if max_n is None and ax is None and is_long_table(exps) else "overlay"
    if kind in OVERVIEWS:
        said: dict[str, Any] = {"max_n": max_n} if max_n is not None else {}
        said |= {"normalize": normalize, "percentile": percentile} if (normalize, percentile) != _RULE else {}
        return OVERVIEWS[kind].draw(exps, ax=ax, figsize=figsize, **OVERVIEWS[kind].taken(**said))
    rule = ScaleRule(normalize, percentile)
    n, total = _rows(exps, 9 if max_n is None else max_n)
    parts = [by_input(exp) for exp in exps]
    for one in (part.exp for several in parts for part in several):
        resolve_kind(attribution_renderer(one), kind, tuple(OVERVIEWS))
    if isinstance(ax, Axes):
        return _single(parts, kind, rule, n, ax)
    rows = [_Row(i, k) for i in range(n) for k in range(max(map(len, parts)))]
    sheet = _sheet(ax, parts, kind, rows, figsize)
    scales = []
    for line, row in zip(sheet.axes, rows, strict=True):
        _input(line[0], parts, row, sheet.widths[0])
        for column, (exp, several) in enumerate(zip(exps, parts, strict=True), start=1):
            part = several[row.k] if row.k < len(several) and row.i < len(exp) else None
            scales.append(_cell(line[column], part, row.i, kind, rule, sheet.widths[column], is_signed(exp)))
    _heading(sheet.axes[0, 0], "Input")
    for column, exp in enumerate(exps, start=1):
        _heading(sheet.axes[0, column], column_title(exp, int(sheet.widths[column] / 1.2)))
    if ax is None and figsize is None:  # the first row has room for headings of one line
        lines = max(axis.get_title().count("\n") for axis in sheet.axes[0])
        sheet.fig.set_figheight(sheet.fig.get_figheight() + _LINE * lines)
    if sheet.roomy:
        text = _footnote(exps, kind, [scale for scale in scales if scale is not None], n, total)
        sheet.fig.supxlabel(text, fontsize=8, color=colour.FAINT_INK)
    return Plot(sheet.fig, sheet.axes)


def show_grid(exps: Sequence[Explanation], ctx: Any = None, **kwargs: Any) -> np.ndarray:
    """Draw `plot`'s grid and display it in a notebook; `ctx` is plot's `ax`. Returns axes (rows, columns)."""
    drawn = plot(exps, ax=ctx, **kwargs)
    return drawn.axes if ctx is not None else display_in_notebook(drawn.fig, drawn.axes)


def is_long_table(exps: Sequence[Explanation]) -> bool:
    """Whether all are explanations of so many rows of a table that nobody reads them one by one."""
    fits = any(one is OVERVIEWS["beeswarm"] for one in fitting(exps))
    return fits and max(len(exp) for exp in exps) > _MOST_TABLE_ROWS


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


class _Row(NamedTuple):
    """What a row of the grid shows: sample i, input k."""

    i: int
    k: int


def _sheet(
    ax: Any, parts: list[list[InputPart]], kind: str, rows: list[_Row], figsize: tuple[float, float] | None
) -> _Sheet:
    """The axes given, or a figure whose columns are as wide as their pictures."""
    columns = 1 + len(parts)
    if ax is None or isinstance(ax, FigureBase):
        inputs = [input_renderer(part.exp).size(part.exp, "original") for part in max(parts, key=len)]
        maps = [[attribution_renderer(part.exp).size(part.exp, kind) for part in several] for several in parts]
        inches = [max(w for w, _ in one) for one in (inputs, *maps)]
        tall = [max(one[k][1] for one in (inputs, *maps) if k < len(one)) + 0.42 for k in range(len(inputs))]
        heights = [tall[row.k] for row in rows]
        if ax is None:
            ax = new_figure(*(figsize or (sum(inches) + 0.62 * len(parts) + 0.3, sum(heights) + 0.65)))
        grid: dict[str, Any] = {"width_ratios": inches, "height_ratios": heights}
        axes = ax.subplots(len(rows), columns, squeeze=False, **grid)
        return _Sheet(ax, axes, [int(w / _CHAR) for w in inches], True)
    given = np.array(ax, dtype=object).reshape(-1)
    if given.size != len(rows) * columns:
        raise InputError(
            f"ax holds {given.size} axes, but {len(rows)} samples and {len(parts)} explanations need "
            f"{len(rows) * columns}: {len(rows)} rows of {columns}, the first column for the inputs. (A model with "
            "several inputs needs a row for each.)"
        )
    axes = given.reshape(len(rows), -1)
    return _Sheet(axes[0, 0].figure, axes, [characters(one, _FONT) for one in axes[0]], False)


def _single(parts: list[list[InputPart]], kind: str, rule: ScaleRule, n: int, ax: Axes) -> Plot:
    """One sample of one explanation in the axis given."""
    several = parts[0]
    if n != 1 or len(parts) != 1 or len(several) != 1:
        raise InputError(
            f"ax is one axis, but there are {n} samples and {len(parts)} explanations to draw, of {len(several)} "
            f"input(s). Give a figure or {n * len(several) * (1 + len(parts))} axes, or use .show(ctx=ax) on one "
            "explanation."
        )
    exp = several[0].exp
    _cell(ax, several[0], 0, kind, rule, characters(ax, _FONT), is_signed(exp))
    _heading(ax, method_title(exp))
    return Plot(ax.figure, np.array([[ax]], dtype=object))


def _input(ax: Axes, parts: list[list[InputPart]], row: _Row, width: int) -> None:
    """The input of a row with its caption: the prediction is said once per sample."""
    part = next(several[row.k] for several in parts if row.k < len(several) and row.i < len(several[row.k].exp))
    note = input_renderer(part.exp).original(ax, *in_own_size(part.exp, row.i))
    if row.k == 0:
        note = ", ".join(filter(None, (part.name, note)))
        _caption(ax, original_caption(part.exp, row.i, width, note), verdict(part.exp, row.i))
    else:
        _caption(ax, ", ".join(filter(None, (part.name, note))))


def _cell(
    ax: Axes, part: InputPart | None, i: int, kind: str, rule: ScaleRule, width: int, signed: bool
) -> Scale | None:
    """One picture with its caption; blank where there is no such sample or input. Returns its colour scale."""
    if part is None:
        bare(ax)
        return None
    drawn = panel(ax, part.exp, i, kind, rule, label=False, signed=signed)
    text = panel_caption(part.exp, i, width)
    _caption(ax, "\n".join(filter(None, (part_text(part, i), text.split("\n")[0] if part.name else text))))
    return drawn.scale


def _caption(ax: Axes, text: str, ink: str = colour.INK) -> None:
    ax.set_xlabel(text, fontsize=_FONT, color=ink, parse_math=False)


def _heading(ax: Axes, text: str) -> None:
    text = "\n".join(t for t in (text, ax.get_title()) if t)
    ax.set_title(text, fontsize=_FONT + 1, fontweight="bold", color=colour.INK, parse_math=False)


def _footnote(exps: Sequence[Explanation], kind: str, scales: list[Scale], rows: int, total: int) -> str:
    """What the colours mean, how they are scaled, and what is not shown."""
    signs = {is_signed(exp) for exp in exps}
    words = []
    if kind in ("masked", "alpha"):
        words.append("visible where the attribution is strong, whatever its sign")
    elif kind != "original":
        words += ["orange raises the score, blue lowers it"] if True in signs else []
        words += ["purple values are never negative"] if False in signs else []
    lines = ["; ".join(words)]
    if scales:
        how = dict.fromkeys(scale.label.replace("\n", " ").removeprefix("attribution, ") for scale in scales)
        lines[0] += ". Each map has its own scale: " + "; or ".join(how)
    if any(exp.region is not None and exp.region.ndim == 3 for exp in exps):  # volumes have none
        lines.append("the outline is the region whose score is explained")
    if rows < total:
        lines.append(f"{rows} of {total} samples are shown")
    return "\n".join(f"{line[0].upper()}{line[1:]}." for line in lines if line)
