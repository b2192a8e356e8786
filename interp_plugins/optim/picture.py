"""Pictures of units with their examples and the values of all items, as figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.optim.scores import told
from interp_plugins.viz import colour
from interp_plugins.viz.figure import Plot, bare, compact, new_figure
from interp_plugins.viz.titles import shorten

PICTURE, DATA = "#c25a00", "#1f5fbf"
_GAP = 4
_FADED = 0.8  # quantile of a place's importance from which it is drawn fully
STATES = {
    "converged": "converged",
    "steps": "still rising at the end",
    "woken": "woken: no gradient at first",
    "dead": "dead: no gradient, never active",
    "nan": "stopped at NaN",
    "interrupted": "interrupted",
}


def pixels(images: Tensor, spec: Any, alpha: Tensor | None = None) -> np.ndarray:
    """Pictures (N, C, H, W) in raw units as (N, H, W, 3) in [0, 1]; places that do not matter fade to white.

    Raises:
        InputError: no pictures.
    """
    if images.ndim != 4:
        raise InputError(f"Only pictures (N, C, H, W) are drawn as such; these have shape {tuple(images.shape)}.")
    low, high = spec.value_range
    channels = images.shape[1]
    x = images if channels == 3 else images[:, :1].expand(-1, 3, -1, -1) if channels < 3 else _first_three(images)
    shares = ((x.double() - low) / ((high - low) or 1.0)).clamp(0, 1)
    if alpha is not None:
        full = alpha.flatten(1).quantile(_FADED, dim=1).clamp(min=1e-12)
        visible = (alpha / full[:, None, None]).clamp(0, 1)[:, None].double()
        shares = 1 - visible * (1 - shares)
    found: np.ndarray = shares.movedim(1, -1).numpy()
    return found


def _first_three(images: Tensor) -> Tensor:
    """Many channels as three colours: the mean of each third of them, in its own range."""
    parts = torch.stack([p.mean(1) for p in images.tensor_split(3, 1)], 1)
    low, high = parts.flatten(1).amin(1), parts.flatten(1).amax(1)
    shape = (-1, 1, 1, 1)
    return (parts - low.reshape(shape)) / (high - low).clamp(min=1e-12).reshape(shape)


def board(crops: Tensor, columns: int | None = None) -> np.ndarray:
    """Crops (k, h, w, 3) as bytes, side by side on white, (H, W, 3) in [0, 1]."""
    k, h, w = crops.shape[:3]
    columns = columns or max(1, math.ceil(math.sqrt(k)))
    rows = math.ceil(k / columns)
    found = np.ones((rows * (h + _GAP) - _GAP, columns * (w + _GAP) - _GAP, 3))
    for i, crop in enumerate(crops.numpy()):
        top, left = (i // columns) * (h + _GAP), (i % columns) * (w + _GAP)
        found[top : top + h, left : left + w] = crop / 255
    return found


def features_figure(found: Any, max_n: int) -> Plot:
    """A row per picture: the picture, the examples, the values of all items with the picture's marked.

    Args:
        found: `Visualization`.
        max_n: pictures at most.
    """
    n, with_data = min(len(found), max_n), found.examples is not None
    widths = (2.6, 2.6, 2.4) if with_data else (2.6,)
    columns = 1 if with_data else max(1, min(n, 4))
    rows = n if with_data else math.ceil(n / columns)
    fig = new_figure(sum(widths) * columns, 3.15 * rows + 0.2)
    axes = np.atleast_2d(fig.subplots(rows, len(widths) * columns, squeeze=False))
    for ax in axes.flat:
        ax.set_axis_off()
    for i in range(n):
        if not with_data:
            _draw(axes[i // columns, i % columns], found, i)
            continue
        _draw(axes[i, 0], found, i)
        _examples(axes[i, 1], found.examples, found.unit[i])
        _levels(axes[i, 2], found, i)
    if not with_data:
        fig.suptitle("without data:\nmay mislead" if n == 1 else "without data: these pictures may mislead", fontsize=9)
    return Plot(fig, axes)


def _draw(ax: Any, found: Any, i: int) -> None:
    """The picture, or of a dead unit that there is none."""
    ax.set_axis_on()
    bare(ax)
    ax.set_title(shorten(found.names[i], 34), fontsize=9, color=colour.INK)
    if found.state[i] == "dead":
        ax.text(0.5, 0.5, "dead\nno gradient: never active", ha="center", va="center", fontsize=9)
        ax.set_facecolor("#eeeeee")
        return
    if found.images.ndim == 4:
        alpha = None if found.alpha is None else found.alpha[i : i + 1]
        ax.imshow(pixels(found.images[i : i + 1], found.spec, alpha)[0], interpolation="nearest")
    else:
        _draw_numbers(ax, found.images[i], found.spec)
    said = STATES[found.state[i]] if found.state[i] not in ("converged", "steps") else ""
    scores = told(found.scores, i)
    lines = [f"activation {compact(float(found.activation[i]))}", *(s for s in (said, scores) if s)]
    ax.set_xlabel("\n".join(lines), fontsize=7.5, color=colour.INK)


def _draw_numbers(ax: Any, values: Tensor, spec: Any) -> None:
    """A series as lines, a row of a table as bars (a prototype row)."""
    if values.ndim == 2:
        for channel in values:
            ax.plot(channel.numpy(), linewidth=0.9)
        return
    names = spec.feature_names if spec.feature_names and len(spec.feature_names) == len(values) else range(len(values))
    ax.barh(range(len(values)), values.numpy(), color=PICTURE)
    ax.set_yticks(range(len(values)), [str(n) for n in names], fontsize=6)


def _examples(ax: Any, examples: Any, u: int) -> None:
    """The crops of a unit, or what can be shown of other data."""
    ax.set_axis_on()
    bare(ax)
    have = [r for r in range(examples.index.shape[1]) if examples.index[u, r] >= 0]
    if examples.crops is not None:
        ax.imshow(board(examples.crops[u][have]), interpolation="nearest")
    else:
        said = "\n".join(shorten(str(examples.words[u][r]), 46) for r in have[:9]) if examples.words else ""
        ax.text(0, 1, said, va="top", fontsize=6, family="monospace", transform=ax.transAxes)
    labels = list(dict.fromkeys(label for label in examples.label[u] if label))
    ax.set_title(f"most active of {examples.seen} items", fontsize=8, color=DATA)
    ax.set_xlabel(shorten(", ".join(labels), 60), fontsize=7, color=colour.FAINT_INK)


def _levels(ax: Any, found: Any, i: int) -> None:
    """The values of all items, and where the picture's lies."""
    examples, u = found.examples, found.unit[i]
    low, high = float(examples.level[u, 0]), float(examples.largest[u])
    counts = examples.level_counts[u].numpy()
    edges = np.linspace(low, max(high, low + 1e-12), len(counts) + 1)
    ax.set_axis_on()
    ax.stairs(counts, edges, fill=True, color=DATA, alpha=0.7)
    own = float(found.activation[i])
    ax.axvline(own, color=PICTURE, linewidth=1.6)
    ax.set_yscale("symlog", linthresh=1)
    ax.set_yticks([])
    ax.tick_params(labelsize=7, length=2)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.set_title("values: data (blue), picture", fontsize=8, color=PICTURE)


def examples_figure(found: Any, max_n: int) -> Any:
    """A row per unit: its examples side by side, and the values of all items; texts and rows as a DataFrame.

    Args:
        found: `Examples`.
        max_n: units at most.
    """
    if found.crops is None:
        return _table(found, max_n)
    n, k = min(len(found), max_n), found.index.shape[1]
    fig = new_figure(min(1.15 * k, 12) + 2.2, 1.5 * n + 0.3)
    axes = np.atleast_2d(fig.subplots(n, 2, squeeze=False, width_ratios=[min(1.15 * k, 12), 2.0]))
    for u in range(n):
        have = [r for r in range(k) if found.index[u, r] >= 0]
        axes[u, 0].imshow(board(found.crops[u][have], columns=max(1, len(have))), interpolation="nearest")
        bare(axes[u, 0])
        axes[u, 0].set_title(found.names[u], fontsize=8, loc="left", color=colour.INK)
        values = "  ".join(compact(float(found.value[u, r])) for r in have[:9])
        axes[u, 0].set_xlabel(values, fontsize=7, color=colour.FAINT_INK)
        counts = found.counts[u].numpy()
        edges = np.linspace(float(found.quantiles[u, 0]), float(found.quantiles[u, -1]) + 1e-12, len(counts) + 1)
        axes[u, 1].stairs(counts, edges, fill=True, color=DATA, alpha=0.7)
        axes[u, 1].set_yscale("symlog", linthresh=1)
        axes[u, 1].set_yticks([])
        axes[u, 1].tick_params(labelsize=7, length=2)
    return Plot(fig, axes)


def _table(found: Any, max_n: int) -> Any:
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for u in range(min(len(found), max_n)):
        for r in range(found.index.shape[1]):
            if found.index[u, r] >= 0:
                one = {"unit": found.names[u], "item": int(found.index[u, r]), "value": float(found.value[u, r])}
                rows.append(one | as_columns(found.words[u][r]))
    return pd.DataFrame(rows)


def as_columns(words: Any) -> dict[str, Any]:
    """What people read of an item, as columns of a table."""
    if isinstance(words, dict):
        return {str(k): v for k, v in words.items()}
    if isinstance(words, str):
        return {"text": words}
    return {"text": " ".join(str(w) for w in words)} if isinstance(words, Sequence) else {"item": str(words)}
