"""One pass over data: of every unit the strongest items, its values over all of them, and what those items show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.core.batching import chunks
from interp_plugins.core.errors import InputError
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import is_float
from interp_plugins.optim.capture import Capture, Running
from interp_plugins.optim.fields import SeenField
from interp_plugins.optim.found import Examples
from interp_plugins.optim.objective import Seen
from interp_plugins.optim.readout import Readout, Values
from interp_plugins.optim.source import ExampleBatch, ExampleSource

CROP = 96  # pixels of a crop's longer side, as it is kept
BINS = 40
_VALUES = 20_000_000  # numbers that are kept for quantiles


@dataclass
class Best:
    """The k strongest items of U units so far; of equal ones the earlier."""

    value: Tensor
    index: Tensor
    place: Tensor

    @classmethod
    def empty(cls, units: int, k: int) -> Best:
        """The state before any item."""
        none = torch.full((units, k), -1)
        return cls(torch.full((units, k), -torch.inf), none, none.clone())

    def add(self, values: Tensor, places: Tensor, numbers: Tensor) -> None:
        """More items: values and places (R, U), numbers (R,)."""
        k = self.value.shape[1]
        value = torch.cat([self.value, values.T], 1)
        index = torch.cat([self.index, numbers.expand(len(self.value), -1)], 1)
        place = torch.cat([self.place, places.T], 1)
        order = value.sort(dim=1, descending=True, stable=True).indices[:, :k]
        self.value, self.index, self.place = (t.gather(1, order) for t in (value, index, place))


@dataclass
class KeptExamples:
    """What is kept of items that may be shown: pictures as bytes, others as they are."""

    spec: InputSpec
    inputs: dict[int, Tensor] = field(default_factory=dict)
    label: dict[int, str] = field(default_factory=dict)
    name: dict[int, str] = field(default_factory=dict)
    words: dict[int, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> bool:
        """Whether items are pictures, kept as bytes."""
        return self.spec.kind == "image"

    def add(self, batch: ExampleBatch, wanted: set[int]) -> None:
        """Keep the wanted items of a batch, and forget others."""
        for number in [n for n in self.inputs if n not in wanted]:
            for table in (self.inputs, self.label, self.name, self.words):
                table.pop(number, None)
        for r, number in enumerate(batch.numbers):
            if number not in wanted or number in self.inputs:
                continue
            self.inputs[number] = self._stored(batch.inputs[0][r : r + 1])
            self.label[number] = str(batch.labels[r]) if batch.labels is not None else ""
            self.name[number] = str(batch.names[r]) if batch.names is not None else ""
            if batch.words is not None:
                self.words[number] = batch.words[r]

    def _stored(self, x: Tensor) -> Tensor:
        x = x.detach().cpu()
        if not self.bytes:
            return x.clone()
        low, high = self.spec.value_range
        raw = self.spec.denormalise(x.double())
        raw = raw if self.spec.channel_axis(4) == 1 else raw.movedim(-1, 1)
        return (((raw - low) / (high - low)).clamp(0, 1) * 255).round().to(torch.uint8)[0]

    def raw(self, number: int) -> Tensor:
        """An item in raw units, (1, C, ...), float32."""
        x = self.inputs[number]
        if self.bytes:
            low, high = self.spec.value_range
            return x[None].float() / 255 * (high - low) + low
        if not is_float(x):
            return x
        axis, raw = self.spec.channel_axis(x.ndim), self.spec.denormalise(x.float())
        return raw if axis in (None, 1) else raw.movedim(axis, 1)

    def crop(self, number: int, box: Sequence[int]) -> Tensor:
        """A part of a picture as bytes (h, w, 3), no side longer than 96."""
        x = self.inputs[number]
        rgb = x[:3] if x.shape[0] >= 3 else x[:1].expand(3, -1, -1)
        if len(box) == 4:
            rgb = rgb[:, box[0] : box[2], box[1] : box[3]]
        longest = max(rgb.shape[1:])
        if longest > CROP:
            size = [max(1, round(s * CROP / longest)) for s in rgb.shape[1:]]
            rgb = F.interpolate(rgb[None].float(), size=size, mode="bilinear", antialias=True)[0].round()
        return rgb.to(torch.uint8).movedim(0, -1).contiguous()


@dataclass
class Collected:
    """What one pass found."""

    readout: Readout
    best: Best
    worst: Best | None
    kept: KeptExamples
    rank: Tensor  # (items, U)
    level: Tensor
    places: Tensor  # (items, U)
    numbers: list[int]  # of these items
    largest: Tensor  # (U,)
    seen: int
    strangers: list[int]  # items at even steps, to compare with
    between: Best | None = None  # items from the strongest to the weakest

    def examples(self, sees: SeenField, spec: InputSpec, layer: str, k: int) -> Examples:
        """What was found, as the result."""
        found = self._of(self.best, sees, spec, layer, k)
        beside: dict[str, Examples] = {}
        if self.worst is not None:
            low = Best(-self.worst.value, self.worst.index, self.worst.place)
            beside["bottom"] = self._of(low, sees, spec, layer, low.value.shape[1])
        if self.between is not None:
            beside["spread"] = self._of(self.between, sees, spec, layer, self.between.value.shape[1])
        return replace(found, **beside)  # type: ignore[arg-type]

    def spread_out(self, source: ExampleSource, n: int, most: int | None) -> None:
        """Keep n items of every unit at even steps from its strongest to its weakest; the data are read once more."""
        ranked = self.rank.sort(dim=0, descending=True, stable=True)
        n = min(n, len(ranked.values))
        steps = torch.linspace(0, len(ranked.values) - 1, n).round().long()
        at = ranked.indices[steps].T
        numbers = torch.tensor(self.numbers)[at]
        self.between = Best(ranked.values[steps].T.contiguous(), numbers, self.places.T.gather(1, at))
        wanted = {*numbers.flatten().tolist(), *self.kept.inputs}
        for batch in source.batches(most):
            self.kept.add(batch, wanted)

    def _of(self, best: Best, sees: SeenField, spec: InputSpec, layer: str, k: int) -> Examples:
        k = min(k, self.seen)
        index, value = best.index[:, :k], best.value[:, :k]
        place, box = sees.boxes(best.place[:, :k])
        grid = torch.linspace(0, 1, 101, dtype=torch.float64)
        rank, level = self.rank.double(), self.level.double()
        numbers = index.tolist()
        return Examples(
            names=tuple(u.name for u in self.readout.units),
            index=index,
            value=value,
            place=place,
            box=box,
            crops=self._crops(numbers, box),
            words=self._words(numbers),
            label=tuple(tuple(self.kept.label.get(i, "") for i in row) for row in numbers),
            item=tuple(tuple(self.kept.name.get(i, "") for i in row) for row in numbers),
            quantiles=torch.quantile(rank, grid, 0).T.contiguous(),
            counts=_counts(rank),
            level_counts=_counts(level),
            level=torch.quantile(level, grid, 0).T.contiguous(),
            largest=self.largest,
            silent=(rank <= rank.amin(0)).double().mean(0),
            seen=self.seen,
            spec=spec,
            layer=layer,
        )

    def _crops(self, numbers: Sequence[Sequence[int]], box: Tensor) -> Tensor | None:
        if not self.kept.bytes:
            return None
        shapes: dict[tuple[int, ...], int] = {}
        made = [[self.kept.crop(i, box[u, r].tolist()) for r, i in enumerate(row)] for u, row in enumerate(numbers)]
        for row in made:
            for crop in row:
                shapes[tuple(crop.shape)] = shapes.get(tuple(crop.shape), 0) + 1
        if not shapes:
            return None
        shape = max(shapes, key=lambda s: shapes[s])
        return torch.stack([torch.stack([_fitted(crop, shape) for crop in row]) for row in made])

    def _words(self, numbers: Sequence[Sequence[int]]) -> tuple[tuple[Any, ...], ...] | None:
        if self.kept.bytes:
            return None
        return tuple(tuple(self.kept.words.get(i, self._plain(i)) for i in row) for row in numbers)

    def _plain(self, number: int) -> Any:
        """An item without words: its numbers, by the names of its columns."""
        x = self.kept.raw(number)[0]
        names = self.kept.spec.feature_names
        if x.ndim == 1 and names is not None and len(names) == len(x):
            return {name: round(float(v), 4) for name, v in zip(names, x, strict=True)}
        return [round(float(v), 4) for v in x.flatten()[:512]]


def collect(
    capture: Capture,
    readout: Readout,
    source: ExampleSource,
    spec: InputSpec,
    k: int,
    bottom: int,
    most: int | None,
    chunk: int,
    bar: Any,
) -> Collected:
    """Run the data through once.

    Args:
        capture: the model at its layer.
        readout: the units.
        source: the data.
        spec: of the model's input.
        k: examples of each unit.
        bottom: of the other end.
        most: items at most.
        chunk: items per pass.
        bar: progress bar.

    Raises:
        InputError: no items.
    """
    units = len(readout.units)
    best = Best.empty(units, k)
    worst = Best.empty(units, bottom) if bottom else None
    kept, seen = KeptExamples(spec), 0
    ranks, levels, places, listed = list[Tensor](), list[Tensor](), list[Tensor](), list[int]()
    largest, strangers = torch.full((units,), -torch.inf, dtype=torch.float64), list[int]()
    with torch.no_grad(), capture.running() as run:
        for batch in source.batches(most):
            values = _values(run, readout, batch, chunk)
            numbers = torch.as_tensor(list(batch.numbers))
            best.add(values.rank, values.place, numbers)
            if worst is not None:
                worst.add(-values.rank, values.place, numbers)
            strangers += list(batch.numbers)[:: max(1, len(numbers) // 4)] if len(strangers) < 32 else []
            wanted = {*best.index.flatten().tolist(), *strangers}
            wanted |= set(worst.index.flatten().tolist()) if worst is not None else set()
            kept.add(batch, wanted)
            largest = torch.maximum(largest, values.level.amax(0))
            if len(ranks) * len(values.rank) * units < _VALUES:
                ranks.append(values.rank)
                levels.append(values.level)
                places.append(values.place)
                listed += numbers.tolist()
            seen += len(numbers)
            bar.update(len(numbers))
    if not seen:
        raise InputError("The data hold no item.")
    rank, level, place = (torch.cat(t) for t in (ranks, levels, places))
    return Collected(readout, best, worst, kept, rank, level, place, listed, largest, seen, strangers[:32])


def _values(run: Running, readout: Readout, batch: ExampleBatch, chunk: int) -> Values:
    """The units' values for a batch."""
    found = []
    size = chunk if not batch.kwargs else len(batch.numbers)
    base = run.forward.kwargs
    run.forward.kwargs = {**base, **batch.kwargs}

    def work(start: int, stop: int) -> Values:
        inputs = [x[start:stop] for x in batch.inputs]
        output = run(inputs, None if batch.kwargs else torch.zeros(stop - start, dtype=torch.long))
        return readout.values(Seen(run.seen(), inputs[0], output))

    try:
        for _, _, one in chunks(len(batch.numbers), size, work):
            found.append(one)
    finally:
        run.forward.kwargs = base
    return Values(*(torch.cat([getattr(v, name) for v in found]) for name in ("rank", "place", "level")))


def _counts(rank: Tensor) -> Tensor:
    """Items by value (U, 40), in equal steps from the smallest to the largest."""
    low, high = rank.amin(0), rank.amax(0)
    width = torch.where(high > low, high - low, torch.ones_like(low))
    bins = ((rank - low) / width * BINS).long().clamp(0, BINS - 1)
    return torch.zeros(rank.shape[1], BINS, dtype=torch.long).scatter_add_(1, bins.T, torch.ones_like(bins.T))


def _fitted(crop: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A crop of an item of another size, at the size of most."""
    if tuple(crop.shape) == shape:
        return crop
    moved = crop.movedim(-1, 0)[None].float()
    size = list(shape[:2])
    return F.interpolate(moved, size=size, mode="bilinear", antialias=True)[0].round().to(torch.uint8).movedim(0, -1)


def strangers_of(found: Collected) -> Iterator[Tensor]:
    """Items of the data at large, in raw units."""
    return (found.kept.raw(i) for i in found.strangers if i in found.kept.inputs)
