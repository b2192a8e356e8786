"""Samples to be measured, batch by batch, each with its id: from tensors, from loaders, from saved explanations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.literals import map_literals, with_truth
from interp_plugins.core.numbered import Numbered, NumbersBeside
from interp_plugins.core.placement import beside_weights
from interp_plugins.core.region import ClassRegion
from interp_plugins.core.target import Target
from interp_plugins.core.tensors import as_tuple, describe, take_rows
from interp_plugins.core.truth import Reading, TrueClasses, missing, part

PIECE = 64  # samples that are explained together where nobody cut them
Key = int | str


@dataclass(frozen=True)
class SampleBatch:
    """Samples that are evaluated together; nothing that is found depends on who they are.

    Attributes:
        model: as for `interp_plugins.explain`.
        inputs: a tensor, a tuple of tensors, or a dict of them by name, batch first.
        keys: an id per sample.
        target: as for `interp_plugins.explain`, for one explanation per sample.
        options: further arguments of `interp_plugins.explain`.
        masks: where the thing lies in each sample, or None.
        truth: what is true of each sample's elements, or None.
        labels: the class of each sample, -1 without one; None: not known.
        told: explanations -> the same in words of the data (columns side by side, tokens), for metrics that ask no
            model; None: as they are.
    """

    model: Callable[..., Any]
    inputs: Any
    keys: tuple[Key, ...]
    target: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    masks: Any = None
    truth: Any = None
    labels: Tensor | None = None
    told: Callable[[Explanations], Explanations] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, chosen: Sequence[int]) -> SampleBatch:
        """Some of the samples."""
        rows = list(chosen)
        n, index = len(self), torch.tensor(rows)
        options = _options_of(self.options, index, n)
        return replace(
            self,
            inputs=take_rows(self.inputs, index, n),
            keys=tuple(self.keys[r] for r in rows),
            target=_target_of(self.target, rows, n),
            options=options,
            masks=cut(self.masks, rows),
            truth=cut(self.truth, rows),
            labels=None if self.labels is None else self.labels[rows],
        )

    @property
    def shape(self) -> tuple[Any, ...]:
        """What a sample looks like: two of one look cost the same."""
        many = self.inputs.values() if isinstance(self.inputs, Mapping) else as_tuple(self.inputs)
        return tuple((tuple(x.shape[1:]), x.dtype) for x in many if isinstance(x, Tensor))


def size_of(inputs: Any) -> int:
    """The number of samples in a tensor, a tuple or a dict of them.

    Raises:
        InputTypeError: none of these.
    """
    many = list(inputs.values()) if isinstance(inputs, Mapping) else list(as_tuple(inputs))
    first = next((x for x in many if isinstance(x, Tensor) and x.ndim), None)
    if first is None:
        raise InputTypeError(
            f"Samples are a tensor, a tuple or dict of tensors (batch first), a loader of batches, or a data set; got "
            f"{describe(inputs)}."
        )
    return int(first.shape[0])


def _options_of(options: Mapping[str, Any], index: Tensor, n: int) -> dict[str, Any]:
    """Arguments of `explain` for some of n samples."""
    found = dict(options)
    for name in ("additional_forward_args", "forward_kwargs", "baselines", "feature_mask"):
        if isinstance(found.get(name), (Tensor, tuple, Mapping)):
            found[name] = take_rows(found[name], index, n)
    return found


def cut(values: Any, rows: Sequence[int]) -> Any:
    """Entries of a tensor, array or list with one per sample; of a tuple, of each of its parts."""
    if values is None:
        return None
    if isinstance(values, tuple):
        return tuple(cut(one, rows) for one in values)
    if isinstance(values, (Tensor, np.ndarray)):
        return values[list(rows)]
    return [values[r] for r in rows]


def _target_of(target: Any, rows: list[int], n: int) -> Any:
    """A target of n samples, for some of them."""
    if isinstance(target, TrueClasses):
        return TrueClasses(target.classes[rows])
    if isinstance(target, ClassRegion) and target.truth is not None:
        return replace(target, truth=target.truth[rows])
    if isinstance(target, Target) and (made := target.map(lambda part: _target_of(part, rows, n))) is not target:
        return made
    if isinstance(target, Target):
        return target.at(torch.tensor(rows))
    if isinstance(target, (Tensor, np.ndarray)) and tuple(target.shape) == (n,):
        return torch.as_tensor(target)[rows]
    return [_target_of(one, rows, n) for one in target] if isinstance(target, list) else target


@dataclass(frozen=True)
class SampleStream:
    """What a measure was given, as a stream of batches.

    Attributes:
        model: as for `interp_plugins.explain`.
        data: a tensor, a tuple or dict of tensors, batches, or a data set with a length, which is read in order.
        target: as for `interp_plugins.explain`, "label" for the ground truth.
        options: further arguments of `interp_plugins.explain`.
        reading: which part of a batch is what.
        ids: one per sample, in the order of the data; None: their numbers.
        masks: one per sample in the order of the data, a dict by id, the batch's part of that name, or a function of
            the batch.
        truth: what is true of the elements, in the forms of `masks`.
        n: the number of samples; None: all.
    """

    model: Callable[..., Any]
    data: Any
    target: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)
    ids: Sequence[Key] | Tensor | None = None
    masks: Any = None
    truth: Any = None
    n: int | None = None

    def __post_init__(self) -> None:
        if self.n is not None and (isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1):
            raise InputError(f"n is a number of samples of at least 1, or None for all; got {self.n!r}.")
        if (
            isinstance(self.data, Dataset)
            and not isinstance(self.data, IterableDataset)
            and hasattr(self.data, "__len__")
        ):
            object.__setattr__(self, "data", DataLoader(self.data, batch_size=PIECE))

    def __iter__(self) -> Iterator[SampleBatch]:
        left = self.n
        for numbers, raw in self._raw():
            batch = self._batch(numbers, raw)
            if left is not None:
                batch = batch if len(batch) <= left else batch.rows(range(left))
                left -= len(batch)
            if len(batch):
                yield batch
            if left == 0:
                return

    def _raw(self) -> Iterator[tuple[list[int], Any]]:
        """Batches with the numbers of their samples in the data."""
        data = self.data
        if isinstance(data, (Tensor, tuple, Mapping)):
            size = size_of(data)
            for start in range(0, size, PIECE):
                rows = list(range(start, min(size, start + PIECE)))
                yield rows, take_rows(data, torch.tensor(rows), size)
            return
        if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
            raise InputTypeError(
                f"Samples are a tensor, a tuple or dict of tensors (batch first), or a loader of batches; got "
                f"{describe(data)}."
            )
        if isinstance(data, DataLoader) and _is_numbered(data):
            yield from _numbered(data)
            return
        running = count()
        for batch in data:
            size = size_of(self._inputs(batch))
            yield [next(running) for _ in range(size)], batch

    def _inputs(self, batch: Any) -> Any:
        whole = isinstance(self.data, (Tensor, tuple, Mapping))
        return batch if whole else self.reading.inputs(batch)

    def _batch(self, numbers: list[int], raw: Any) -> SampleBatch:
        inputs = beside_weights(self._inputs(raw), self.model)
        n = size_of(inputs)
        whole = isinstance(self.data, (Tensor, tuple, Mapping))
        labels = None if whole else self.reading.labels(raw, n, isinstance(inputs, Tensor))
        target = map_literals(self.target, lambda one: self._by_number(one, numbers))
        names = None if whole else self.reading.ids(raw, n)
        options = _options_of(self.options, torch.tensor(numbers), size_of(self.data)) if whole else self.options
        keys = names if names is not None else tuple(self._key(i) for i in numbers)
        return SampleBatch(
            self.model,
            inputs,
            keys,
            with_truth(target, labels, missing("a batch of these samples")),
            options,
            self._beside("masks", self.masks, numbers, keys, raw),
            self._beside("truth", self.truth, numbers, keys, raw),
            labels,
        )

    def _by_number(self, literal: Any, numbers: list[int]) -> Any:
        """A tensor or array of one class index for each sample of the data, as that of these samples."""
        if not isinstance(literal, (Tensor, np.ndarray)) or literal.ndim != 1:
            return literal
        values = torch.as_tensor(literal)
        if len(values) <= max(numbers):
            raise InputError(
                f"target holds {len(values)} class indices, and the data have a sample {max(numbers)}: give one per "
                "sample of the data."
            )
        return values[numbers].to(torch.long)

    def _key(self, number: int) -> Key:
        if self.ids is None:
            return number
        ids = self.ids.tolist() if isinstance(self.ids, Tensor) else self.ids
        if number >= len(ids):
            raise InputError(f"{len(ids)} ids were given, and the data have a sample {number}: give one per sample.")
        key: Key = ids[number]
        return key

    def _beside(self, name: str, given: Any, numbers: list[int], keys: Sequence[Key], raw: Any) -> Any:
        """Masks or truth of these samples."""
        if given is None:
            return None
        if callable(given) and not isinstance(given, Tensor):
            return given(raw)
        if isinstance(given, (str, int)):
            return part(raw, given, name)
        if isinstance(given, Mapping):
            absent = [key for key in keys if key not in given]
            if absent:
                raise InputError(f"{name} has no entry for sample {absent[0]!r}: give one for every id.")
            return _together([given[key] for key in keys])
        known = min(len(one) for one in given) if isinstance(given, tuple) else len(given)
        if max(numbers) >= known:
            raise InputError(f"{name} has {known} entries, and the data have a sample {max(numbers)}: one per sample.")
        return cut(given, numbers)


def _together(values: list[Any]) -> Any:
    tensors = all(isinstance(v, Tensor) for v in values)
    return torch.stack(values) if tensors and len({v.shape for v in values}) == 1 else values


def _is_numbered(loader: DataLoader[Any]) -> bool:
    """Whether the numbers of a loader's samples can be had: it draws them from a data set with an index."""
    return loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)


def _numbered(loader: DataLoader[Any]) -> Iterator[tuple[list[int], Any]]:
    """A loader's batches, by its own sampler, with the numbers of their samples in the data set.

    A sampler that repeats samples to fill up (`DistributedSampler`) gives them their number again, so they count once.
    """
    made: DataLoader[Any] = DataLoader(
        Numbered(loader.dataset),
        batch_sampler=loader.batch_sampler,
        collate_fn=NumbersBeside(loader.collate_fn),
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        timeout=loader.timeout,
    )
    for numbers, batch in made:
        once = [at for at, i in enumerate(numbers) if i not in numbers[:at]]
        if len(once) < len(numbers):  # one batch may hold a sample twice
            batch, numbers = take_rows(batch, torch.tensor(once), len(numbers)), [numbers[at] for at in once]
        yield numbers, batch
