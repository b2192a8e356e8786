"""`show_explanations`: maps drawn the fastai way, chosen by the types of input and target.

It follows `show_results`: plum picks the function by the types of `x` and `y`, `samples` are fastai's decoded items,
`ctxs` are axes to draw in, `max_n` bounds the number of samples. Only the truth is read from `samples`: the picture
below a map is the batch that the network saw, made visible, and a map is never decoded (`Normalize` would add the mean
colour to it). Write a function of this name with `@dispatch` to show types of your own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from fastai.imports import dispatch
from fastai.vision.core import TensorBBox, TensorImage, TensorMask, TensorPoint
from torch import Tensor

from interp_plugins.core.explanation import Explanations
from interp_plugins.viz.panels import draw_panels

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
    for i, ax in enumerate(axes[:, 0] if np.ndim(axes) == 2 else axes):
        _draw_truth(ax, samples[i][1])
    return axes


def _panels(samples: Any, exps: Explanations, ctxs: Any, max_n: int, **kwargs: Any) -> Any:
    n = min(max_n, max((len(e) for e in exps), default=0))
    return draw_panels(exps, [truth_of(samples, i) for i in range(n)], ctxs=ctxs, max_n=max_n, **kwargs)


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
