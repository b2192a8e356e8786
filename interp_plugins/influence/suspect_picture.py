"""Suspects as a grid of pictures with their neighbours beneath, or as a table of rows or texts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from interp_plugins.core.errors import InputError
from interp_plugins.influence.suspect_rows import SuspectRows

_SIDE = 168  # pixels of a picture's longer side, at least


def heading(found: SuspectRows, r: int) -> str:
    """What stands above entry r: "4, rather 9"."""
    given, better = found.label(found.given[r]), found.label(found.suggested[r])
    share = f" in {float(found.more['share'][r]):.0%} of its places" if "share" in found.more else ""
    return f"{given}, rather {better}{share}" if given != better else given


def grid(found: SuspectRows, max_n: int, neighbours: int, ncols: int) -> Any:
    """A picture per suspect, its neighbours beneath, with their labels."""
    from interp_plugins.viz import colour
    from interp_plugins.viz.figure import Plot, bare, new_figure

    shown = found.shown(max_n, neighbours)
    rows = found.order[:max_n].tolist()
    ncols = max(1, min(ncols, len(rows)))
    nrows = math.ceil(len(rows) / ncols)
    fig = new_figure(2.3 * ncols, (3.5 if neighbours else 2.6) * nrows)
    axes = fig.subplots(nrows, ncols, squeeze=False)
    labels = dict(zip(found.items.tolist(), found.given))
    for ax, r in zip(axes.flat, rows):
        near = found.near(r, neighbours)
        ax.imshow(_composed(shown[int(found.items[r])], [shown[i] for i in near]), interpolation="nearest")
        mark = "likely wrong" if found.likely[r] else f"score {float(found.score[r]):.3f}"
        ax.set_title(f"{heading(found, r)}\n{_named(found, r)}, {mark}", fontsize=8, color=colour.INK)
        ax.set_xlabel("near: " + " | ".join(found.label(labels[i]) for i in near) if near else "", fontsize=8)
        bare(ax)
    for ax in axes.flat[len(rows) :]:
        ax.set_visible(False)
    return Plot(fig, axes)


def _named(found: SuspectRows, r: int) -> str:
    name = found.names[r] if found.names is not None else ""
    text = name or f"item {int(found.items[r])}"
    return text if len(text) <= 24 else "…" + text[-23:]


def _composed(large: np.ndarray, small: list[np.ndarray]) -> np.ndarray:
    """One picture above others of a third of its width."""
    factor = max(1, math.ceil(_SIDE / max(large.shape[:2])))
    large = large.repeat(factor, 0).repeat(factor, 1)
    if not small:
        return large
    width, gap = large.shape[1], 4
    side = max(1, (width - 2 * gap) // max(3, len(small)))
    board = np.ones((side, width, 3))
    for j, picture in enumerate(small):
        at = j * (side + gap)
        board[:, at : at + side] = _fitted(picture, side)[:, : max(0, width - at)]
    return np.concatenate([large, np.ones((gap, width, 3)), board])


def _fitted(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture inside a square, on white, in its own proportions."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).float().permute(2, 0, 1)[None]
    smooth: dict[str, Any] = {"mode": "bilinear", "antialias": True} if scale < 1 else {"mode": "nearest"}
    board = np.ones((side, side, 3))
    made = F.interpolate(pixels, size=size, **smooth)[0].permute(1, 2, 0).numpy()
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    board[top : top + size[0], left : left + size[1]] = made.clip(0, 1)
    return board


def table(found: SuspectRows, max_n: int, neighbours: int, ncols: int) -> Any:
    """A DataFrame in which each suspect is followed by its neighbours."""
    import pandas as pd

    shown = found.shown(max_n, neighbours)
    entry = {int(i): r for r, i in enumerate(found.items.tolist())}
    rows = []
    for place, r in enumerate(found.order[:max_n].tolist(), 1):
        number = int(found.items[r])
        first = {"suspect": place, "item": number, "given": found.label(found.given[r])}
        first |= {"suggested": found.label(found.suggested[r]), "score": round(float(found.score[r]), 4)}
        rows.append({**first, "likely": bool(found.likely[r]), **_columns(shown[number])})
        for i in found.near(r, neighbours):
            other = {"suspect": "near", "item": i, "given": found.label(found.given[entry[i]])}
            rows.append({**other, "suggested": "", "score": "", "likely": "", **_columns(shown[i])})
    return pd.DataFrame(rows)


def _columns(value: Any) -> dict[str, Any]:
    if isinstance(value, np.ndarray):
        raise InputError("Some items are pictures and others are not; to_df() has all numbers.")
    return dict(value) if isinstance(value, dict) else {"text": str(value)}
