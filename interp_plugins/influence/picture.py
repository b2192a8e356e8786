"""A query with the training items that speak for it and against it beside, as a figure."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.viz import colour
from interp_plugins.viz.figure import Plot, bare, compact, new_figure
from interp_plugins.viz.titles import shorten

FOR, AGAINST = colour.POSITIVE_COLOUR, colour.NEGATIVE_COLOUR
LEGEND = (
    ("Score", "positive: training on the item made the model say so; negative: it spoke against."),
    ("Bar", "the score's size, beside the largest of the query; orange spoke for it, blue against it."),
    ("Label", "of the training item; in brackets what the model says of it, where that is another class."),
)


def drawable(found: Any) -> bool:
    """Whether queries and items are pictures of one or three channels."""
    x, items = found.inputs, found.item_inputs
    return x is not None and items is not None and x.ndim == 4 and x.shape[found.spec.channel_axis(4) or 1] in (1, 3)


def picture(found: Any, max_n: int, k: int, maps: Any) -> Plot:
    """Two rows per query: proponents, then opponents; the query on the left.

    Args:
        found: `Influences`.
        max_n: queries at most.
        k: items of each kind at most.
        maps: (of the queries, of the items), explanations to lay over, or None.

    Raises:
        InputError: the inputs are no pictures.
    """
    x, items, spec = found.inputs, found.item_inputs, found.spec
    if not drawable(found):
        shape = None if x is None else tuple(x.shape)
        raise InputError(
            f"Only pictures (N, C, H, W) of one or three channels are drawn, and the inputs have shape {shape}. "
            "to_html(path) shows rows and texts beside each other, to_df() has a row per item."
        )
    n, k = min(len(found), max_n), min(k, found.indices.shape[1])
    both = found.opponent_indices.shape[1] > 0
    rows = 2 if both else 1
    fig = new_figure(1.35 * (k + 1) + 0.6, 1.85 * rows * n + 0.35)
    axes = np.asarray(fig.subplots(rows * n, k + 1, squeeze=False))
    own, theirs = pixels(x, spec), pixels(items, spec)
    over = (None, None) if maps is None else (heat(maps[0]), heat(maps[1]))
    place = {number: i for i, number in enumerate(found.numbers)}
    for q in range(n):
        first = axes[rows * q, 0]
        _draw(first, own[q], None if over[0] is None else over[0][q])
        name = f"{shorten(found.query_names[q], 20)}\n" if found.query_names and found.query_names[q] else ""
        first.set_xlabel(name + shorten(found.asked[q], 40), fontsize=8)
        for row in range(rows):
            at = (found.indices, found.opponent_indices)[row][q].tolist()
            scores = (found.scores, found.opponent_scores)[row][q].tolist()
            largest = max([abs(v) for v in found.scores[q].tolist() + found.opponent_scores[q].tolist()] or [1]) or 1
            if row:
                axes[rows * q + 1, 0].set_axis_off()
            for j in range(k):
                ax = axes[rows * q + row, j + 1]
                if j >= len(at):
                    ax.set_axis_off()
                    continue
                _draw(ax, theirs[place[at[j]]], None if over[1] is None else over[1][place[at[j]]])
                _below(ax, found, at[j], scores[j], largest)
    told = "orange: spoke for it, blue: against" if both else "orange: spoke for it"
    fig.suptitle(f"{found.method}: training items behind what the model says ({told})", fontsize=9)
    return Plot(fig, axes)


def _below(ax: Any, found: Any, number: int, score: float, largest: float) -> None:
    """A bar as long as the score, and what is known of the item."""
    ink = FOR if score > 0 else AGAINST
    bar = ax.inset_axes((0.0, -0.07, 1.0, 0.05))
    bar.barh([0], [abs(score) / largest], color=ink, height=1)
    bar.set_xlim(0, 1)
    bar.set_axis_off()
    label, said = found.labels.get(number, ""), found.predictions.get(number, "")
    wrong = f" (says {shorten(said, 10)})" if said and said != label else ""
    name = shorten(found.names.get(number, "") or f"item {number}", 18, keep_end=True)
    ax.set_xlabel(f"\n{compact(score)}  {shorten(label, 12)}{wrong}\n{name}", fontsize=7, color=ink, labelpad=1)


def _draw(ax: Any, rgb: np.ndarray, heat: np.ndarray | None) -> None:
    ax.imshow(rgb, interpolation="nearest")
    if heat is not None:  # over the whole picture, however coarse it is
        height, width = rgb.shape[:2]
        ax.imshow(glow(heat), interpolation="bilinear", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    bare(ax)


def glow(values: np.ndarray) -> np.ndarray:
    """Strengths as colours that are the more solid the stronger they are, (H, W, 4)."""
    strength = np.abs(values) / (float(np.abs(values).max()) or 1.0)
    colours: np.ndarray = np.asarray(colormaps["inferno"](strength))
    colours[..., 3] = 0.25 + 0.65 * strength
    return colours


def heat(exp: Any) -> np.ndarray:
    """A map summed over its channels, (N, H, W)."""
    found: np.ndarray = exp.attributions.detach().double().sum(1).numpy()
    return found


def pixels(x: Tensor, spec: Any) -> np.ndarray:
    """Pictures (N, H, W, 3) from 0 to 1."""
    raw = spec.denormalise(x).detach().double()
    low, high = spec.value_range
    values = raw.movedim(spec.channel_axis(4) or 1, -1).numpy()
    if not spec.normalised and (values.min() < low - 1e-3 or values.max() > high + 1e-3):
        low, high = float(values.min()), float(values.max())
    values = np.clip((values - low) / ((high - low) or 1.0), 0, 1)
    found: np.ndarray = values.repeat(3 // values.shape[-1], axis=-1)
    return found
