"""The items of a data set by their numbers, each once and in order, whatever a loader shuffles, repeats or drops.

A loader is read anew: its data set in item order, in batches of a size of ours, with its own way to make a batch of
samples. So what is found does not depend on the loader's batch size, order, workers or dropped rest, and item 17 is
what `dataset[17]` gives. A data set that draws (an augmentation) draws by the item's own seed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)
from torch.utils.data.distributed import DistributedSampler

from interp_plugins.api.samples import PIECE, size_of
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.numbered import Numbered, NumbersBeside
from interp_plugins.core.random import sample_seed
from interp_plugins.core.tensors import describe, take_rows

_WHOLE = (RandomSampler, SequentialSampler, WeightedRandomSampler, DistributedSampler)  # of these: all items


class ItemReader:
    """The items behind what a user calls the data.

    Args:
        data: a DataLoader, a data set of (input, label) with a length, a tuple (inputs, labels) of tensors, or any
            iterable of batches, which is numbered as it comes.
        seed: of data sets that draw.
        size: items that are read together.

    Attributes:
        numbers: the items' numbers; None for a stream, which has as many as come.

    Raises:
        InputError: a stream that gives other items on a second read.
        InputTypeError: none of these.
    """

    def __init__(self, data: Any, seed: int = 0, size: int = PIECE):
        self.seed, self.size = seed, size
        self.numbers: list[int] | None = None
        self._loader: DataLoader[Any] | None = None
        self._batches: Iterable[Any] = ()
        if isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], Tensor):
            data = LabelledParts(*data)
        if isinstance(data, DataLoader) and _has_numbers(data):
            self._loader, self.numbers = data, _numbers_of(data)
        elif _is_set(data):
            self._loader = DataLoader(data, batch_size=size)
            self.numbers = list(range(len(data)))
        elif isinstance(data, (str, bytes, Tensor, Mapping)) or not isinstance(data, Iterable):
            raise InputTypeError(
                "The data are a DataLoader, a data set of (input, label), a tuple (inputs, labels) of tensors, or an "
                f"iterable of batches; got {describe(data)}."
            )
        else:
            self._batches = _repeatable(data)
        if self.numbers == []:
            raise InputError("The data hold no item.")

    @property
    def again(self) -> bool:
        """Whether items can be read a second time."""
        return self._loader is not None or iter(self._batches) is not self._batches

    def batches(self) -> Iterator[tuple[list[int], Any]]:
        """All items in order: their numbers, and the batch as the loader makes it."""
        if self.numbers is not None:
            yield from self._read(self.numbers)
            return
        running = count()
        for batch in self._batches:
            yield [next(running) for _ in range(rows_of(batch))], batch

    def some(self, numbers: Sequence[int]) -> Iterator[tuple[list[int], Any]]:
        """Chosen items, in the order of their numbers."""
        wanted = sorted(set(numbers))
        if self.numbers is not None:
            yield from self._read(wanted)
            return
        for found, batch in self.batches():
            kept = [at for at, number in enumerate(found) if number in set(wanted)]
            if kept:
                yield [found[at] for at in kept], take_rows(batch, torch.tensor(kept), len(found))

    def _read(self, numbers: list[int]) -> Iterator[tuple[list[int], Any]]:
        given = self._loader
        assert given is not None
        tensors = _tensors_of(given.dataset) if given.collate_fn is default_collate else None
        if tensors is not None:
            for begin in range(0, len(numbers), self.size):
                rows = numbers[begin : begin + self.size]
                yield rows, [t[torch.tensor(rows)] for t in tensors]
            return
        made: DataLoader[Any] = DataLoader(
            _Drawn(given.dataset, self.seed),
            batch_size=self.size,
            sampler=numbers,
            collate_fn=NumbersBeside(given.collate_fn),
            num_workers=given.num_workers if len(numbers) > self.size else 0,
            worker_init_fn=given.worker_init_fn,
            timeout=given.timeout if given.num_workers and len(numbers) > self.size else 0,
            multiprocessing_context=given.multiprocessing_context if given.num_workers else None,
            generator=torch.Generator().manual_seed(self.seed),
        )
        yield from made


class _Drawn(Numbered):
    """A data set whose random draws are decided by the item, not by who was read before or in which process."""

    def __init__(self, data: Any, seed: int):
        super().__init__(data)
        self.seed = seed

    def __getitem__(self, i: int) -> Any:
        """The number i and sample i of the data set, drawn by its own seed."""
        own = sample_seed(self.seed, int(i))
        random.seed(own)
        np.random.seed(own % 2**32)  # noqa: NPY002 - data sets draw from it
        torch.default_generator.manual_seed(own)  # `torch.manual_seed` notes the whole stack for CUDA
        return super().__getitem__(i)


class LabelledParts(Dataset[Any]):
    """Nested inputs (tuple, dict) and labels as a data set of pairs.

    Args:
        inputs: a tensor, or a tuple or dict of tensors, samples first.
        labels: one per sample.

    Raises:
        InputError: another number of labels than of inputs.
    """

    def __init__(self, inputs: Any, labels: Tensor):
        self.inputs, self.labels, self.n = inputs, labels, len(labels)
        if size_of(inputs) != self.n:
            raise InputError(f"There are {size_of(inputs)} inputs and {self.n} labels; give a label for each.")

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        """Input i and label i."""
        return pytree.tree_map(lambda t: t[i] if isinstance(t, Tensor) else t, self.inputs), self.labels[i]


def _tensors_of(data: Any) -> list[Tensor] | None:
    """The tensors of a data set that is nothing else: rows of them are what its items would be stacked to."""
    if type(data) is LabelledParts:
        found = [data.inputs, data.labels]
    elif type(data) is TensorDataset:
        found = list(data.tensors)
    else:
        return None
    return found if all(type(t) is Tensor for t in found) else None


def _is_set(data: Any) -> bool:
    """Whether data have a length and items by number, as torch's and other libraries' data sets do."""
    if isinstance(data, (IterableDataset, list, tuple, str, bytes, Tensor, Mapping)):
        return False
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


def _has_numbers(loader: DataLoader[Any]) -> bool:
    return loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)


def _numbers_of(loader: DataLoader[Any]) -> list[int]:
    """All numbers of a data set; of a sampler that chooses (a subset), those that it gives."""
    sampler: Any = loader.sampler
    own = type(loader.batch_sampler) is torch.utils.data.BatchSampler
    if own and isinstance(sampler, _WHOLE):
        return list(range(len(loader.dataset)))  # type: ignore[arg-type]
    given = sampler if own else chain.from_iterable(loader.batch_sampler or ())
    return sorted({int(i) for i in given})


def rows_of(batch: Any) -> int:
    """How many samples a batch holds: as many as its first tensor has rows."""
    first = next((t for t in pytree.tree_leaves(batch) if isinstance(t, Tensor) and t.ndim), None)
    if first is None:
        raise InputTypeError(f"A batch of the data holds no tensor: it is a {describe(batch)}.")
    return len(first)


def _repeatable(data: Iterable[Any]) -> Iterable[Any]:
    """Batches that are the same when they are read again; an iterator, which cannot be, as it is."""
    if iter(data) is data or isinstance(data, (list, tuple)):
        return data
    one, other = (next(iter(data), None) for _ in range(2))
    if one is not None and digest(one) != digest(other):
        raise InputError(
            "The data give other batches each time that they are read (they shuffle, or draw), so their items have no "
            "numbers. Give a data set with a length and an index, or a stream of known order."
        )
    return data


def digest(tree: Any) -> bytes:
    """A digest of all tensors in nested containers: equal for equal numbers of equal shapes and types."""
    made = hashlib.blake2b(digest_size=16)
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, Tensor):
            plain = leaf.detach().as_subclass(Tensor).cpu().contiguous()
            made.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
            made.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
        elif isinstance(leaf, (int, float, str, bytes)):
            made.update(repr(leaf).encode())
    return made.digest()
