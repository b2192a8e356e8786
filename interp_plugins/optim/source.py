"""The data as features need them: items by number, in order, as often as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from interp_plugins.api.items import ItemReader, rows_of
from interp_plugins.core.errors import InputError
from interp_plugins.core.placement import beside_weights
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple, is_float
from interp_plugins.core.truth import Reading

SAMPLE = 512  # items by which colours, ranges and spectra are measured


@dataclass(frozen=True)
class ExampleBatch:
    """Items as the model takes them.

    Attributes:
        inputs: batch first, in the model's units.
        numbers: of the items in their data set.
        labels: of the items in words, or None.
        names: of the items, or None.
        kwargs: keyword arguments of the model for these items.
        words: what people read of each item (tokens of a text, columns of a row); None: the numbers themselves.
    """

    inputs: tuple[Tensor, ...]
    numbers: Sequence[int]
    labels: Sequence[Any] | None = None
    names: Sequence[str] | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    words: Sequence[Any] | None = None

    def first(self, n: int) -> ExampleBatch:
        """The first n items."""
        if n >= len(self.numbers):
            return self
        cut: Callable[[Any], Any] = lambda v: None if v is None else v[:n]  # noqa: E731
        kwargs = {k: v[:n] if isinstance(v, Tensor) else v for k, v in self.kwargs.items()}
        return ExampleBatch(
            tuple(x[:n] for x in self.inputs), cut(self.numbers), cut(self.labels), cut(self.names), kwargs,
            cut(self.words),
        )  # fmt: skip


@dataclass(frozen=True)
class ExampleSource:
    """Data that can be read again.

    Attributes:
        read: gives a fresh iterator over batches.
        total: items in all, where that is known.
    """

    read: Callable[[], Iterator[ExampleBatch]]
    total: int | None = None

    def batches(self, most: int | None = None) -> Iterator[ExampleBatch]:
        """The first items, all where `most` is None."""
        left = most
        for batch in self.read():
            one = batch if left is None else batch.first(left)
            yield one
            left = None if left is None else left - len(one.numbers)
            if left is not None and left <= 0:
                return


def source_of(data: Any, model: Any, spec: InputSpec | None, reading: Reading, most: int | None) -> ExampleSource:
    """What a user calls the data, as a source.

    Args:
        data: a DataLoader, a data set of (input, label), a tensor or tuple (inputs, labels), or batches.
        model: whose device and type the inputs get.
        spec: class names, or None.
        reading: which part of a batch is what.
        most: items of a one-way stream that are kept, so that they can be read again.
    """
    if isinstance(data, ExampleSource):
        return data
    if isinstance(data, Tensor):
        data = TensorDataset(data)
    elif isinstance(data, tuple) and data and all(isinstance(x, Tensor) for x in data):
        data = TensorDataset(*data)
    reader = ItemReader(data)
    if not reader.again:
        kept = list(islice(_until(reader, most), None))
        return ExampleSource(
            lambda: (_batch(numbers, raw, model, spec, reading) for numbers, raw in kept),
            sum(len(numbers) for numbers, _ in kept),
        )
    return ExampleSource(
        lambda: (_batch(numbers, raw, model, spec, reading) for numbers, raw in reader.batches()),
        None if reader.numbers is None else len(reader.numbers),
    )


def _until(reader: ItemReader, most: int | None) -> Iterator[tuple[list[int], Any]]:
    seen = 0
    for numbers, raw in reader.batches():
        yield numbers, raw
        seen += len(numbers)
        if most is not None and seen >= most:
            return


def _batch(numbers: list[int], raw: Any, model: Any, spec: InputSpec | None, reading: Reading) -> ExampleBatch:
    kwargs: dict[str, Any] = {}
    if isinstance(raw, Mapping) and reading.input_key is None and reading.input_fn is None:
        tensors = {k: v for k, v in raw.items() if isinstance(v, Tensor) and k not in ("labels", "label")}
        if "input_ids" in tensors:
            kwargs = {k: v for k, v in tensors.items() if k != "input_ids"}
            raw = (tensors["input_ids"], raw["labels"]) if "labels" in raw else [tensors["input_ids"]]
    found = reading.inputs(raw)
    inputs = beside_weights(tuple(found) if isinstance(found, (list, tuple)) else (found,), model)
    classes = reading.labels(raw, rows_of(inputs[0]), len(inputs) == 1)
    words = None
    if classes is not None:
        words = ["" if c < 0 else str(spec.label(c) if spec is not None else c) for c in classes.tolist()]
    return ExampleBatch(inputs, numbers, words, None, beside_weights(kwargs, model))


def first_inputs(source: ExampleSource) -> tuple[Tensor, ...]:
    """One item of the data, as an example of the model's inputs.

    Raises:
        InputError: there is none.
    """
    batch = next(source.batches(1), None)
    if batch is None or not len(batch.numbers):
        raise InputError("The data hold no item.")
    return batch.inputs


def raw_sample(source: ExampleSource, spec: InputSpec, place: int = 0, most: int = SAMPLE) -> Tensor | None:
    """The first items in raw units, channels first, float32 on the CPU; None where they are ids or differ in size."""
    found: list[Tensor] = []
    for batch in source.batches(most):
        x = batch.inputs[place]
        if not is_float(x) or (found and found[0].shape[1:] != x.shape[1:]):
            return None
        raw = spec.denormalise(x.detach()).float().cpu()
        axis = spec.channel_axis(raw.ndim)
        found.append(raw if axis in (None, 1) else raw.movedim(axis, 1))
    return torch.cat(found) if found else None


def as_batches(data: Iterable[ExampleBatch]) -> ExampleSource:
    """Batches that are at hand, as a source."""
    kept = list(data)
    return ExampleSource(lambda: iter(kept))


def inputs_alone(value: Any) -> tuple[Tensor, ...]:
    """The tensors of one input or several."""
    return tuple(as_tuple(value))
