"""`Change`: what perturbations change of one map, one box per row; `FeatureMap`: the same map without perturbation.

Maps lie channels-last, (H, W, C), so that a crop is a gather of whole positions. A gather reads from a store with one
more position than the map has: the value that stands for everything outside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.engine.incremental.regions import Span

FIRST, LAST, FLAT = "N C H W", "N H W C", "N C"  # layouts in a model of what is a map here


def as_map(t: Tensor, layout: str) -> Tensor:
    """(R, H, W, C) of a tensor in some layout."""
    if layout == FIRST:
        return t.permute(0, 2, 3, 1)
    return t if layout == LAST else t[:, None, None]


def from_map(t: Tensor, layout: str) -> Tensor:
    """A map in the shared layout, turned back into the model's layout."""
    if layout == FIRST:
        return t.permute(0, 3, 1, 2)
    return t if layout == LAST else t[:, 0, 0]


@dataclass
class Change:
    """`delta` (R, h, w, C) is what each row's box differs by from the map; zero elsewhere.

    `dirty` says that positions of a box outside of the map may hold anything.
    """

    delta: Tensor
    y: Span
    x: Span
    dirty: bool = False

    @property
    def full(self) -> bool:
        """The box is the map."""
        return self.y.full and self.x.full

    @property
    def hangs(self) -> bool:
        """Some box reaches over the border."""
        return self.y.hangs or self.x.hangs

    def like(self, delta: Tensor, dirty: bool | None = None) -> Change:
        """Other values in the same boxes."""
        return Change(delta, self.y, self.x, self.dirty if dirty is None else dirty)

    def moved(self, y: Span, x: Span) -> Change:
        """The change in other boxes; what they do not hold is cut off."""
        if y is self.y and x is self.x:
            return self
        rows, h, w, channels = self.delta.shape
        at_y, at_x = self.y.start - y.start, self.x.start - x.start
        if (at_y == at_y[0]).all() and (at_x == at_x[0]).all():
            top, left = int(at_y[0]), int(at_x[0])
            if not top and not left and (h, w) == (y.size, x.size):
                return Change(self.delta, y, x, self.dirty)
            return Change(padded(self.delta, top, y.size - top - h, left, x.size - left - w), y, x, self.dirty)
        out = self.delta.new_zeros(rows, y.size, x.size, channels)
        for r, (top, left) in enumerate(zip(at_y.tolist(), at_x.tolist(), strict=True)):
            a, b, c, d = max(0, top), min(y.size, top + h), max(0, left), min(x.size, left + w)
            if a < b and c < d:
                out[r, a:b, c:d] = self.delta[r, a - top : b - top, c - left : d - left]
        return Change(out, y, x, self.dirty)

    def whole(self) -> Change:
        """The change in boxes of the whole map."""
        moved = self.moved(self.y.whole(), self.x.whole())
        return Change(moved.delta, moved.y, moved.x)


def padded(t: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Zeros around (R, h, w, C); negative widths cut off."""
    if top == bottom == left == right == 0:
        return t
    return F.pad(t, (0, 0, left, right, top, bottom))


class Geometry:
    """Index tensors of one set of boxes, made once for all layers that share it."""

    def __init__(self) -> None:
        self._apart: dict[tuple[int, int], Tensor] = {}
        self._index: dict[tuple[int, int], tuple[Tensor, Tensor | None, Span, Span]] = {}

    def of(self, y: Span, x: Span, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Positions (R * h * w,) in a store, and which lie outside (R, h, w, 1), None where none does."""
        key = (id(y), id(x))
        if key not in self._index:
            rows = y.start[:, None] + np.arange(y.size)
            columns = x.start[:, None] + np.arange(x.size)
            index = rows[:, :, None] * x.extent + columns[:, None, :]
            outside = None
            if y.hangs or x.hangs:
                bad_rows, bad_columns = (rows < 0) | (rows >= y.extent), (columns < 0) | (columns >= x.extent)
                bad = bad_rows[:, :, None] | bad_columns[:, None, :]
                index[bad] = y.extent * x.extent
                outside = torch.from_numpy(bad[..., None]).to(device)
            # The spans are kept, so that their ids stay theirs.
            self._index[key] = (torch.from_numpy(index.reshape(-1)).to(device), outside, y, x)
        return self._index[key][:2]

    def apart(self, y: Span, x: Span, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Positions as in `of` where each row has a map of its own, one behind the other; outside, anywhere."""
        index, outside = self.of(y, x, device)
        key = (id(y), id(x))
        if key not in self._apart:
            moved = index.view(len(y.start), -1)
            moved = moved + torch.arange(len(moved), device=device)[:, None] * (y.extent * x.extent)
            if outside is not None:
                moved = moved.masked_fill(outside.view(len(moved), -1), 0)
            self._apart[key] = moved.reshape(-1)
        return self._apart[key], outside

    def clean(self, change: Change) -> Change:
        """The change with zeros outside of the map."""
        if not change.dirty:
            return change
        _, outside = self.of(change.y, change.x, change.delta.device)
        delta = change.delta if outside is None else change.delta.masked_fill_(outside, 0)
        return change.like(delta, dirty=False)


class FeatureMap:
    """One tensor of the unperturbed pass, (H, W, C)."""

    def __init__(self, data: Tensor):
        self.data = data.contiguous()
        self._derived: dict[object, Tensor] = {}
        self._lock = threading.Lock()

    @property
    def extents(self) -> tuple[int, int]:
        """The height and width of the map."""
        return self.data.shape[0], self.data.shape[1]

    def of_rows(self, rows: int) -> Tensor:
        """The map for each of so many rows, (R, H, W, C)."""
        return self.data.expand(rows, *self.data.shape)

    def crop(
        self,
        geometry: Geometry,
        y: Span,
        x: Span,
        *,
        outside: float = 0.0,
        name: str = "",
        derive: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The boxes of this map, (R, h, w, C), or (1, H, W, C) where each is all of it.

        Args:
            geometry: the rows' index tensors.
            y: rows.
            x: columns.
            outside: what stands outside of the map.
            name: of what is derived from the map.
            derive: makes it, once.
        """
        key = (name, outside)
        with self._lock:
            if key not in self._derived:
                data = (derive(self.data) if derive is not None else self.data).reshape(-1, self.data.shape[2])
                self._derived[key] = torch.cat([data, data.new_full((1, data.shape[1]), outside)])
            store = self._derived[key]
        if y.full and x.full:
            return store[:-1].view(1, *self.data.shape)
        index, _ = geometry.of(y, x, store.device)
        return store.index_select(0, index).view(len(y.start), y.size, x.size, -1)
