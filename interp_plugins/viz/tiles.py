"""Small pictures in rows in one axis, each with its name: slices of a volume, channels of a picture."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes

from interp_plugins.viz import colour
from interp_plugins.viz.figure import bare
from interp_plugins.viz.titles import shorten


def rows_and_columns(count: int) -> tuple[int, int]:
    """Rows of at most four pictures, as even as they can be."""
    rows = max(1, math.ceil(count / 4))
    return rows, math.ceil(count / rows)


def montage(tiles: list[np.ndarray], columns: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Pictures (H, W, 3) in rows on white, and the (y, x) of their upper left corners."""
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    gap = max(1, round(0.04 * width))
    rows = -(-len(tiles) // columns)
    board = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    corners = []
    for k, tile in enumerate(tiles):
        y, x = (k // columns) * (height + gap), (k % columns) * (width + gap)
        board[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        corners.append((y, x))
    return board, corners


def tile_names(ax: Axes, tiles: list[np.ndarray], names: list[str], columns: int | None = None) -> None:
    """Draw pictures (H, W, 3) with their names in their corners."""
    board, corners = montage(tiles, columns or rows_and_columns(len(tiles))[1])
    ax.imshow(board, interpolation="nearest")
    bare(ax)
    box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8}
    for (y, x), name in zip(corners, names, strict=True):
        style = {"fontsize": 6, "va": "top", "ha": "left", "color": colour.INK, "parse_math": False}
        ax.text(x, y, shorten(name, 18), bbox=box, **style)  # type: ignore[arg-type]
