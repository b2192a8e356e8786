"""`Examples`: of the data, the items that units are most active for, and the units' values over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from interp_plugins.core import files
from interp_plugins.core.errors import SampleError
from interp_plugins.core.spec import InputSpec
from interp_plugins.optim import saved

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """What the data say of U units; k examples of each, the most active first.

    Attributes:
        names: of the units, "layer4:3".
        index: (U, k) numbers of the items in the data; -1 where there are fewer.
        value: (U, k) float32, the units' values there.
        place: (U, k, axes) where in the layer's grid; none for layers without space.
        box: (U, k, 2 * axes) the part of the item that the unit sees there: starts, then ends, in its own places.
        crops: (U, k, h, w, 3) bytes, those parts of pictures; (U, k, C, T) of series; None for other data.
        words: (U, k) what people read of each item: tokens, columns; None for pictures.
        label: (U, k) of the items in words, "" where none is known.
        item: (U, k) names of the items, "" where they have none.
        quantiles: (U, 101) of the values over the items (of the first 20 million values, as all that counts them).
        counts: (U, 40) items by value, in equal steps from the smallest to the largest.
        level_counts: (U, 40) items by what `visualize` climbs (the mean over space of a channel), in equal steps.
        level: (U, 101) quantiles of the same.
        largest: (U,) the largest of those.
        silent: (U,) share of the items for which the unit is at its smallest value.
        seen: items that were looked at.
        spec: kind of data, normalisation, class names.
        layer: where the units are.
        bottom: (U, b) numbers of the items for which the units are least active; None where none were asked for.
        spread: (U, s) numbers of items at even steps from the most to the least active.
    """

    names: tuple[str, ...]
    index: Tensor
    value: Tensor
    place: Tensor
    box: Tensor
    crops: Tensor | None
    words: tuple[tuple[Any, ...], ...] | None
    label: tuple[tuple[str, ...], ...]
    item: tuple[tuple[str, ...], ...]
    quantiles: Tensor
    counts: Tensor
    level_counts: Tensor
    level: Tensor
    largest: Tensor
    silent: Tensor
    seen: int
    spec: InputSpec
    layer: str
    bottom: Examples | None = None
    spread: Examples | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Examples:
        """The result of unit i alone."""
        n = len(self)
        if not isinstance(i, int) or not -n <= i < n:
            raise SampleError(f"There are {n} units, 0 to {n - 1}; got {i!r}.")
        return self.rows([i % n])

    def __iter__(self) -> Iterator[Examples]:
        return (self[i] for i in range(len(self)))

    def rows(self, chosen: list[int]) -> Examples:
        """Some units, in the order given."""
        tensors = (
            "index",
            "value",
            "place",
            "box",
            "quantiles",
            "counts",
            "level_counts",
            "level",
            "largest",
            "silent",
        )
        cut: dict[str, Any] = {k: getattr(self, k)[chosen] for k in tensors}
        cut |= {k: tuple(getattr(self, k)[i] for i in chosen) for k in ("names", "label", "item")}
        cut["crops"] = None if self.crops is None else self.crops[chosen]
        cut["words"] = None if self.words is None else tuple(self.words[i] for i in chosen)
        cut["bottom"] = None if self.bottom is None else self.bottom.rows(chosen)
        cut["spread"] = None if self.spread is None else self.spread.rows(chosen)
        return replace(self, **cut)

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:3]) + (f", ... {len(self)} in all" if len(self) > 3 else "")
        quiet = int((self.silent >= 1).sum())
        dead = f", {quiet} the same for all" if quiet else ""
        return f"Examples({shown}: {self.index.shape[1]} each of {self.seen} items{dead})"

    def to_df(self) -> pd.DataFrame:
        """A row per example: unit, rank, item's number and name, label, value, place.

        Example:
            from interp_plugins import dataset_examples

            table = dataset_examples(model, x, "0", channel=[0, 1], k=2).to_df()
            len(table)  # -> 4
        """
        import pandas as pd

        rows = []
        for u, name in enumerate(self.names):
            for r in range(self.index.shape[1]):
                if self.index[u, r] < 0:
                    continue
                one = {"unit": name, "rank": r + 1, "item": int(self.index[u, r]), "name": self.item[u][r]}
                one |= {"label": self.label[u][r], "value": float(self.value[u, r])}
                one["place"] = tuple(self.place[u, r].tolist())
                rows.append(one)
        return pd.DataFrame(rows)

    def show(self, max_n: int = 8) -> Any:
        """Draw the examples of each unit in a row, with their values, and the values of all items.

        Args:
            max_n: units at most.

        Returns:
            A `Plot`: the figure and its axes; for texts and table rows a DataFrame.
        """
        from interp_plugins.optim.picture import examples_figure

        return examples_figure(self, max_n)

    def plot(self, max_n: int = 8) -> Any:
        """(figure, axes) of `show`, to go on drawing."""
        return self.show(max_n)

    def save(self, path: str | Path) -> Path:
        """Write all of it to a safetensors file. Returns the path."""
        return saved.save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Examples:
        """Read what `save` wrote.

        Raises:
            MissingFileError: there is no such file.
            InputError: it is none of these, or damaged.
        """
        return saved.load(path, cls)

    def to_html(self, path: str | Path, title: str = "What these units are active for") -> files.Page:
        """Write a page of all units that opens without a network, sortable by value. Returns the path."""
        from interp_plugins.optim.page import examples_page

        return files.Page(files.write(path, examples_page(self, title).html()))

    def _repr_html_(self) -> str | None:
        from interp_plugins.optim.page import in_cell

        return in_cell(self)
