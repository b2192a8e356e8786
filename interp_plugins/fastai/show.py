"""`show_explanations`: maps drawn the fastai way, chosen by the types of input and target.

It follows `show_results`: plum picks the function by the types of `x` and `y`, `samples` are fastai's decoded items,
`ctxs` are axes to draw in, `max_n` bounds the number of samples. Only the truth is read from `samples`: the picture
below a map is the batch that the network saw, made visible, and a map is never decoded (`Normalize` would add the mean
colour to it). Write a function of this name with `@dispatch` to show types of your own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastai.imports import dispatch
from fastai.vision.core import TensorBBox, TensorImage, TensorMask, TensorPoint
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.viz import Plot, plot, show, titles
from interp_plugins.viz.colour import FAINT_INK, INK
from interp_plugins.viz.figure import display_in_notebook, new_figure
from interp_plugins.viz.renderer import attribution_renderer, is_signed, resolve_kind

_RIGHT, _WRONG = "green", "red"  # as `show_results` has them; the words say the same
_OUTLINE = ("#000000", "#ffff00", "#00ffff", "#ff00ff", "#00ff00")  # seen on photographs, and no colour of a map


@dispatch
def show_explanations(
    x: Any,  # the inputs of the batch; chooses the function
    y: Any,  # its first target, or None; chooses the function
    samples: Any,  # decoded items (inputs and targets) as fastai shows them, or None
    exps: Any,  # Explanations of the same samples, in the same order
    ctxs: Any = None,  # axes: one per sample, or with several explanations one per panel, inputs first
    max_n: int = 9,
    **kwargs: Any,
) -> Any:
    """Anything: a panel per sample with its map, entitled with prediction, truth and probability.

    Returns the axes: a list with one per sample, or with several explanations an array with a row per sample.
    """
    return _panels(samples, exps, ctxs, max_n, **kwargs)


@dispatch  # type: ignore[no-redef]
def show_explanations(  # noqa: F811 - plum keeps both
    x: TensorImage,
    y: TensorMask | TensorPoint | TensorBBox,
    samples: Any,
    exps: Any,
    ctxs: Any = None,
    max_n: int = 9,
    **kwargs: Any,
) -> Any:
    """Pictures whose truth has a place: it is drawn on them (masks as outlines)."""
    axes = _panels(samples, exps, ctxs, max_n, **kwargs)
    for i, ax in enumerate(axes[:, 0] if isinstance(axes, np.ndarray) else axes):
        _draw_truth(ax, samples[i][1])
    return axes


def _panels(
    samples: Any,
    exps: Explanations,
    ctxs: Any = None,
    max_n: int = 9,
    nrows: int | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
    kind: str = "overlay",
    notes: Sequence[str] | None = None,
    **scale: Any,
) -> Any:
    n = min(max_n, max((len(e) for e in exps), default=0))
    if n < 1:
        raise InputError(f"There is nothing to show: {len(exps)} explanations, max_n={max_n}.")
    truths = [truth_of(samples, i) for i in range(n)]
    notes = list(notes or [""] * n)
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
    exps: Explanations,
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
        truths: the ground truth of each sample in words; none: nothing is said of it.
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


def caption(exp: Explanation, i: int, truth: str = "", note: str = "", explained: bool = True) -> str:
    """Prediction with probability, truth, and what was explained if it is another class; a line each.

    Args:
        exp: the explanation.
        i: the sample.
        truth: the ground truth in words, or "".
        note: a last line, such as the loss.
        explained: whether to name the class explained where it is not the predicted one.
    """
    predicted, target = titles.prediction_text(exp, i), titles.target_text(exp, i)
    probability = titles.number(exp.probability, i)
    of_prediction = exp.prediction is not None and exp.target is not None and exp.prediction[i] == exp.target[i]
    lines = [titles.shorten(titles.sample_text(exp, i), 34, keep_end=True)]
    if predicted:
        text = titles.shorten(f"predicted: {predicted}", 28)
        lines.append(titles.with_probability(text, probability if of_prediction else None))
    elif exp.score is not None:
        lines.append(f"{titles.shorten(target or 'output', 28)}: {titles.number(exp.score, i):.4g}")
    if truth:
        lines.append(titles.shorten(f"actual: {truth}", 38))
    if explained and target and predicted and not of_prediction:
        lines.append(titles.with_probability(titles.shorten(f"explained: {target}", 28), probability))
    return "\n".join(line for line in (*lines, note) if line)


def verdict(exp: Explanation, i: int, truth: str) -> str:
    """The colour of a caption: green for a right prediction, red for a wrong one, ink where that is not known."""
    if not truth or exp.prediction_label is None:
        return INK
    return _RIGHT if str(exp.prediction_label[i]) == truth else _WRONG


def truth_of(samples: Any, i: int) -> str:
    """The ground truth of a decoded sample in words; "" where there is none, or where it is a picture."""
    if samples is None or len(samples[i]) < 2:
        return ""
    truth = samples[i][-1]
    if isinstance(truth, (TensorMask, TensorPoint, TensorBBox)):
        return ""
    if isinstance(truth, (str, bool, int, float)):
        return f"{truth:.4g}" if isinstance(truth, float) else str(truth)
    if isinstance(truth, Tensor):
        values = truth.as_subclass(Tensor).reshape(-1)
        return ", ".join(f"{v:.4g}" for v in values.tolist()) if len(values) <= 4 else ""
    if isinstance(truth, Sequence):  # several labels
        return ", ".join(map(str, truth)) or "none"
    return str(truth)


def _draw_truth(ax: Any, truth: Any) -> None:
    if not isinstance(truth, TensorMask):
        truth.show(ctx=ax)
        return
    mask = truth.as_subclass(Tensor).cpu().numpy()
    for n, code in enumerate(np.unique(mask)[1:]):
        ax.contour(mask == code, levels=[0.5], colors=[_OUTLINE[n % len(_OUTLINE)]], linewidths=1)
