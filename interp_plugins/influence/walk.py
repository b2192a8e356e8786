"""Items of a data set in its own order, whatever a loader does with it.

What is found of an item is found under its number in the data set: loaders and data sets are read by `ItemReader`. What
fits in memory is kept, since several passes go over it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, SequentialSampler

from interp_plugins.api.items import ItemReader, rows_of
from interp_plugins.core.errors import InputError
from interp_plugins.core.global_random import around_others_code
from interp_plugins.core.placement import beside_weights
from interp_plugins.core.report import note
from interp_plugins.core.tensors import as_tuple, take_rows
from interp_plugins.core.truth import LABEL_NAMES

_BATCH = 256
_KEPT = 2**28  # bytes of items that are kept for the next reading


@dataclass(frozen=True)
class Items:
    """Items that are read together.

    Attributes:
        numbers: in the data set.
        inputs: what the model is called with, by position.
        labels: what the loss is called with beside the output; None where the data have none.
        kwargs: further arguments of the model, by name.
    """

    numbers: tuple[int, ...]
    inputs: tuple[Any, ...]
    labels: Any
    kwargs: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, begin: int, end: int) -> Items:
        """Some of them, in order."""
        if begin == 0 and end >= len(self):
            return self
        index, n = torch.arange(begin, min(end, len(self))), len(self)
        return Items(
            self.numbers[begin:end],
            take_rows(self.inputs, index, n),
            take_rows(self.labels, index, n),
            take_rows(dict(self.kwargs), index, n),
        )

    def chosen(self, rows: Sequence[int]) -> Items:
        """Some of them, in the order given."""
        index, n = torch.tensor(rows), len(self)
        return Items(
            tuple(self.numbers[r] for r in rows),
            take_rows(self.inputs, index, n),
            take_rows(self.labels, index, n),
            take_rows(dict(self.kwargs), index, n),
        )

    @staticmethod
    def joined(parts: Sequence[Items]) -> Items:
        """Several batches as one; at least one."""
        if len(parts) == 1:
            return parts[0]

        def cat(*values: Any) -> Any:
            return torch.cat(values) if isinstance(values[0], Tensor) else values[0]

        numbers = tuple(i for part in parts for i in part.numbers)
        trees = [(part.inputs, part.labels, dict(part.kwargs)) for part in parts]
        inputs, labels, kwargs = pytree.tree_map(cat, trees[0], *trees[1:])
        return Items(numbers, inputs, labels, kwargs)


class ItemWalk:
    """A data set, read again and again in one order.

    Args:
        data: a data set; a loader; a tuple (inputs, ..., labels) of tensors; a list of batches; or what has a
            length and `batches_in_order(size)`.
        model: beside whose weights the tensors are put; None: they stay where they are.
        batch_size: items that are read together; None: chosen.
        labelled: whether the last part of a batch is the labels.

    Raises:
        InputTypeError: nothing of these.
    """

    def __init__(self, data: Any, model: Any = None, batch_size: int | None = None, labelled: bool = True):
        self.data: Any = (data,) if isinstance(data, Tensor) and not labelled else data
        self.model, self.labelled = model, labelled
        self.batch_size = _BATCH if batch_size is None else batch_size
        self._held: list[Items] | None = None
        self._reader: ItemReader | None = None
        if not isinstance(self.data, tuple) and not hasattr(data, "batches_in_order"):
            _tell(data)
            own = data.batch_size or 0 if isinstance(data, DataLoader) else 0
            with around_others_code():  # a stream is looked at, and a loader draws a seed when it begins
                self._reader = ItemReader(data, size=max(own, self.batch_size))

    def __len__(self) -> int:
        """The number of items, where it is known.

        Raises:
            InputError: a stream does not know it.
        """
        size = self.size
        if size is None:
            raise InputError("These data do not know how many items they have.")
        return size

    @property
    def size(self) -> int | None:
        """The number of items; None where a stream does not know it."""
        if isinstance(self.data, tuple):
            return rows_of(self.data)
        if self._reader is None:
            return len(self.data)
        if self._reader.numbers is not None:
            return len(self._reader.numbers)
        return sum(map(rows_of, self.data)) if isinstance(self.data, Sequence) else None

    @property
    def subset(self) -> list[int] | None:
        """The items' numbers, where a loader chooses some of its data set; None: 0, 1, 2, ..."""
        numbers = self._reader.numbers if self._reader is not None else None
        return None if numbers is None or numbers == list(range(len(numbers))) else numbers

    def __iter__(self) -> Iterator[Items]:
        """The items, batch by batch; what fits in memory is read from its source once."""
        if self._held is not None:
            yield from self._held
            return
        held: list[Items] | None = []
        taken = 0
        for items in self._read():
            if held is not None:
                held.append(items)
                taken += sum(
                    x.nbytes for x in pytree.tree_leaves((items.inputs, items.labels)) if isinstance(x, Tensor)
                )
                held = held if taken <= _KEPT else None
            yield items
        self._held = held

    def _read(self) -> Iterator[Items]:
        for numbers, batch in self._batches():
            inputs, labels, kwargs = self._parts(batch)
            if self.model is not None:
                inputs, kwargs = beside_weights((inputs, kwargs), self.model)
            yield Items(tuple(numbers), inputs, _beside(labels, inputs, kwargs), kwargs)

    def _batches(self) -> Iterator[tuple[Sequence[int], Any]]:
        """The numbers of some items, and their batch."""
        if self._reader is not None:
            read = self._reader.batches()
            while True:
                with around_others_code():  # a data set may draw
                    found = next(read, None)
                if found is None:
                    return
                yield found
        if isinstance(self.data, tuple):
            n = rows_of(self.data)
            for begin in range(0, n, self.batch_size):
                rows = range(begin, min(n, begin + self.batch_size))
                yield rows, take_rows(self.data, torch.tensor(rows), n)
            return
        at = 0
        for batch in self.data.batches_in_order(self.batch_size):
            n = rows_of(batch)
            yield range(at, at + n), batch
            at += n

    def _parts(self, batch: Any) -> tuple[tuple[Any, ...], Any, dict[str, Any]]:
        """Inputs, labels and keyword arguments of a batch."""
        if isinstance(batch, Mapping):
            found = dict(batch)
            name = next((k for k in LABEL_NAMES if k in found), None) if self.labelled else None
            labels = found.pop(name) if name is not None else None
            return (), labels, found
        parts = tuple(batch) if isinstance(batch, list) else as_tuple(batch)
        if not self.labelled:
            return parts, None, {}
        if len(parts) < 2:
            raise InputError(
                "A training batch is (inputs, ..., labels), and this has one part: without labels there is no loss."
            )
        return parts[:-1], parts[-1], {}


def _beside(labels: Any, inputs: Any, kwargs: Any) -> Any:
    """Labels on the device of the inputs; their type is the loss's business."""
    device = next((x.device for x in pytree.tree_leaves((inputs, kwargs)) if isinstance(x, Tensor)), None)
    if device is None:
        return labels
    return pytree.tree_map(lambda v: v.to(device) if isinstance(v, Tensor) else v, labels)


def _tell(data: Any) -> None:
    """Note that a loader is not read as it would give its batches."""
    if not isinstance(data, DataLoader) or data.batch_sampler is None:
        return
    plain = isinstance(data.sampler, SequentialSampler) and data.batch_size is not None
    if not plain or data.drop_last:
        note(walk="the loader shuffles or leaves items out: it is read in the order of its data set, every item once")
