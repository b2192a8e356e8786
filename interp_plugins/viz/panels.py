"""Maps entitled with what the model says and what is so, as the adapters show validation samples and top losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import titles
from interp_plugins.viz.colour import FAINT_INK, INK
from interp_plugins.viz.figure import Plot, display_in_notebook, new_figure
from interp_plugins.viz.grid import plot
from interp_plugins.viz.renderer import attribution_renderer, is_signed, resolve_kind
from interp_plugins.viz.show import show
from interp_plugins.viz.truth import caption, verdict


def draw_panels(
    exps: Sequence[Explanation],
    truths: Sequence[str] = (),
    *,
    notes: Sequence[str] | None = None,
    ctxs: Any = None,
    max_n: int = 9,
    nrows: int | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
    kind: str = "overlay",
    **scale: Any,
) -> Any:
    """A panel per sample with its map, entitled with prediction and truth; of several explanations, `draw_table`.

    Args:
        exps: explanations of the same samples.
        truths: the ground truth of each sample in words; none: what the explanations know of it.
        notes: a last line for each sample.
        ctxs: axes: one per sample, or with several explanations one per panel, inputs first.
        max_n: samples drawn at most.
        nrows: rows of panels.
        ncols: columns of panels.
        figsize: width and height in inches of a new figure.
        kind: the kind of picture.
        **scale: `normalize` and `percentile` of `interp_plugins.viz.plot`.

    Returns:
        The axes: a list with one per sample, or with several explanations an array with a row per sample.
    """
    n = min(max_n, max((len(e) for e in exps), default=0))
    if n < 1:
        raise InputError(f"There is nothing to show: {len(exps)} explanations, max_n={max_n}.")
    truths, notes = ([*(texts or ()), *[""] * n][:n] for texts in (truths, notes))
    if len(exps) > 1:
        drawn = draw_table(exps, truths, notes, max_n=n, ctxs=ctxs, kind=kind, figsize=figsize, **scale)
        return drawn.axes if ctxs is not None else display_in_notebook(drawn.fig, drawn.axes)
    exp = exps[0]
    axes, fig = _grid(exp, n, ctxs, nrows, ncols, figsize, kind)
    for i, ax in enumerate(axes):
        show(exp, ctx=ax, kind=kind, index=i, title=caption(exp, i, truths[i], notes[i]), colorbar_label=False, **scale)
        ax.title.set_color(verdict(exp, i, truths[i]))
        error = titles.completeness_text(exp, i)
        if error:
            ax.set_xlabel(f"completeness error {error}", fontsize=8, color=FAINT_INK)
    if fig is not None:
        fig.suptitle(titles.method_title(exp), fontsize=11, fontweight="bold", color=INK)
        colours = "orange raises the score, blue lowers it" if is_signed(exp) else "purple values are never negative"
        fig.supxlabel(f"{colours.capitalize()}. Each map has its own scale.", fontsize=8, color=FAINT_INK)
        return display_in_notebook(fig, np.array(axes, dtype=object))
    return axes


def draw_table(
    exps: Sequence[Explanation],
    truths: Sequence[str] = (),
    notes: Sequence[str] = (),
    *,
    max_n: int = 9,
    ctxs: Any = None,
    kind: str = "overlay",
    **kwargs: Any,
) -> Plot:
    """A row per sample and a column per explanation, with prediction, truth and notes below each input.

    Args:
        exps: explanations of the same samples.
        truths: the ground truth of each sample in words; none: what the explanations know of it.
        notes: a last line for each sample.
        max_n: samples drawn at most.
        ctxs: axes to draw in, see `interp_plugins.viz.plot`.
        kind: the kind of picture.
        **kwargs: `normalize`, `percentile` and `figsize` of `interp_plugins.viz.plot`.
    """
    drawn = plot(exps, kind, max_n=max_n, ax=ctxs, **kwargs)
    for i, ax in enumerate(drawn.axes[:, 0]):
        exp = next(e for e in exps if i < len(e))
        truth, note = (texts[i] if i < len(texts) else "" for texts in (truths, notes))
        ax.set_xlabel(caption(exp, i, truth, note, explained=False), fontsize=8.5, parse_math=False)
        ax.xaxis.label.set_color(verdict(exp, i, truth))
    return drawn


def _grid(
    exp: Explanation, n: int, ctxs: Any, nrows: int | None, ncols: int | None, figsize: Any, kind: str
) -> tuple[list[Any], Any]:
    """The axes and the figure that holds them; None for the figure where the axes are the caller's."""
    if ctxs is not None:
        axes = list(np.array(ctxs, dtype=object).reshape(-1))
        if len(axes) < n:
            raise InputError(f"ctxs holds {len(axes)} axes for {n} samples; give one per sample, or fewer samples.")
        return axes[:n], None
    if ncols is None:
        ncols = math.ceil(n / nrows) if nrows else math.ceil(math.sqrt(n))
    nrows = nrows or math.ceil(n / ncols)
    if nrows * ncols < n:
        raise InputError(f"nrows={nrows} and ncols={ncols} make {nrows * ncols} panels for {n} samples.")
    renderer = attribution_renderer(exp)
    width, height = renderer.size(exp, resolve_kind(renderer, kind))
    fig = new_figure(*(figsize or (ncols * (width + 0.75), nrows * (height + 0.7) + 0.6)))
    axes = list(fig.subplots(nrows, ncols, squeeze=False).reshape(-1))
    for ax in axes[n:]:
        ax.remove()
    return axes[:n], fig
