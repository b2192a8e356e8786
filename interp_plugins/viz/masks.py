"""The rim and the label of a masked region of a picture, under Captum's names."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba


def border(mask: np.ndarray, width: int) -> np.ndarray:
    """The rim of a mask (H, W), `width` pixels deep; the picture's border counts as outside."""
    inner = mask.copy()
    for _ in range(width):
        padded = np.pad(inner, 1)
        inner = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def draw_mask_border(ax: Axes, mask: np.ndarray, border_width: int = 1, border_color: Any = "black") -> None:
    """Draw the rim of a masked region.

    Args:
        ax: the axis to draw in.
        mask: bool (H, W); nothing is drawn where it is empty.
        border_width: depth of the rim in pixels.
        border_color: a colour's name, or RGBA in [0, 1].
    """
    mask = np.asarray(mask).astype(bool)
    if not mask.any():
        return
    rgba = np.array(to_rgba(border_color) if isinstance(border_color, str) else border_color)
    ax.imshow(border(mask, border_width)[..., None] * rgba)


def draw_mask_legend(
    ax: Axes,
    mask: np.ndarray,
    label: str,
    fontsize: int = 10,
    text_color: str = "white",
    bbox_facecolor: str = "black",
    bbox_alpha: float = 0.6,
) -> None:
    """Write a label at the centre of a masked region.

    Args:
        ax: the axis to draw in.
        mask: bool (H, W); nothing is written where it is empty.
        label: the text.
        fontsize: points.
        text_color: colour of the text.
        bbox_facecolor: colour of its box.
        bbox_alpha: opacity of its box.
    """
    mask = np.asarray(mask).astype(bool)
    if not mask.any():
        return
    rows, columns = np.nonzero(mask)
    box = {"boxstyle": "round,pad=0.2", "facecolor": bbox_facecolor, "alpha": bbox_alpha}
    style: dict[str, Any] = {"color": text_color, "fontsize": fontsize, "parse_math": False}
    ax.text(columns.mean(), rows.mean(), label, ha="center", va="center", bbox=box, **style)
