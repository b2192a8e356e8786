"""`Atlas`: pictures of the directions that the data take in a layer, on a map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from interp_plugins.core import files
from interp_plugins.core.spec import InputSpec
from interp_plugins.optim import saved
from interp_plugins.optim.atlas_page import atlas_page
from interp_plugins.optim.picture import pixels

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Atlas:
    """What `atlas` found; K cells of the map have a picture.

    Attributes:
        images: (K, C, H, W) in raw units.
        place: (K, 2) row and column of each.
        count: (K,) items in the cell.
        direction: (K, D) mean of their activations.
        label: what the model says most often of them.
        item: numbers of the items that lie nearest to the direction.
        crops: (K, 3, h, w, 3) bytes, what the layer sees of these; None for other data than pictures.
        state: of each climb.
        grid: rows and columns of the map.
        layer: where.
        seen: items that were looked at.
        spec: kind of data, normalisation, class names.
        params: how it was made.
    """

    images: Tensor
    place: Tensor
    count: Tensor
    direction: Tensor
    label: tuple[str, ...]
    item: tuple[tuple[int, ...], ...]
    crops: Tensor | None
    state: tuple[str, ...]
    grid: tuple[int, ...]
    layer: str
    seen: int
    spec: InputSpec
    params: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        rows, columns = self.grid
        return (
            f"Atlas({self.layer}: {len(self)} cells of {rows} x {columns}, {self.seen} items, {self.params['embed']})"
        )

    def to_df(self) -> pd.DataFrame:
        """A row per cell: place, count, what the model says of its items, their numbers."""
        import pandas as pd

        columns = {"row": self.place[:, 0].tolist(), "column": self.place[:, 1].tolist(), "count": self.count.tolist()}
        return pd.DataFrame({**columns, "says": self.label, "items": self.item, "state": self.state})

    def show(self) -> Any:
        """Draw the map. Returns a `Plot`: the figure and its axis."""
        from interp_plugins.viz.figure import Plot, bare, new_figure

        made = pixels(self.images, self.spec)
        h, w = made.shape[1:3]
        rows, columns = self.grid
        board = np.ones((rows * h, columns * w, 3))
        for (r, c), picture in zip(self.place.tolist(), made, strict=True):
            board[r * h : (r + 1) * h, c * w : (c + 1) * w] = picture
        fig = new_figure(min(12.0, 0.7 * columns + 1), min(12.0, 0.7 * rows + 1))
        ax = fig.subplots()
        ax.imshow(board, interpolation="nearest")
        ax.set_title(f"{self.layer}: {len(self)} directions of {self.seen} items", fontsize=9)
        bare(ax)
        return Plot(fig, np.array([[ax]]))

    def plot(self) -> Any:
        """(figure, axes) of `show`, to go on drawing."""
        return tuple(self.show())

    def to_html(self, path: str | Path, title: str = "Activation atlas") -> files.Page:
        """Write the map as a page that opens without a network: tiles to zoom, for each its items and classes."""
        return files.Page(files.write(path, atlas_page(self, title).html()))

    def save(self, path: str | Path) -> Path:
        """Write all of it to a safetensors file. Returns the path."""
        return saved.save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Atlas:
        """Read what `save` wrote.

        Raises:
            MissingFileError: there is no such file.
            InputError: it is none of these, or damaged.
        """
        return saved.load(path, cls)

    def _repr_html_(self) -> str:
        from interp_plugins.viz.figure import data_uri, png_of_figure

        return f'<img src="{data_uri(png_of_figure(self.show().fig))}" alt="{escape(repr(self), quote=True)}">'
