"""One pass over a data set: of every item the features before the last layer, the outputs, the labels, a digest.

The model runs in eval mode inside `core.guard.frozen`; nothing but these numbers is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_plugins.api.items import digest
from interp_plugins.core.errors import InputError, LayerError
from interp_plugins.core.forward import Call
from interp_plugins.core.guard import frozen, modules_below, modules_of
from interp_plugins.core.hooks import Hooks, hooked
from interp_plugins.core.layers import layer_name, resolve_layer
from interp_plugins.core.progress import progress_bar
from interp_plugins.core.random import make_generator, sample_seed
from interp_plugins.core.tensors import describe

_LAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SIGNATURE = 8  # an input is pooled to so many numbers a side, to tell near copies from items that only mean the same
_PIXELS = 64  # places of a segmented picture at most
_CELLS = 16_384  # places of all pictures, about
_LEAST = 4


@dataclass(frozen=True)
class ItemBatch:
    """Items as the model takes them.

    Attributes:
        model: called with the inputs by position.
        inputs: batch first.
        numbers: the items' numbers.
        truth: the labels as they came, a row per item.
        more: further positional arguments of the model.
        names: of the items, or None.
    """

    model: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    numbers: Sequence[int]
    truth: Any
    more: tuple[Any, ...] = ()
    names: Sequence[str] | None = None


@dataclass(frozen=True)
class ItemFeatures:
    """What one pass found; a cell is an item, or one of the places of a segmented picture.

    Attributes:
        cells: (R, D) features, float32.
        outputs: (R, ...) outputs.
        truth: (R, ...) labels as they came.
        item: (R,) the row of `numbers` that a cell belongs to.
        numbers: the items' numbers.
        digests: of each item's inputs.
        signatures: (N, S) each item's inputs pooled to a few numbers; None for ids and tables.
        names: of the items, or None.
        layer: where the features were read.
        pixels: whether cells are places of pictures.
    """

    cells: Tensor
    outputs: Tensor
    truth: Tensor
    item: Tensor
    numbers: list[int]
    digests: list[bytes]
    signatures: Tensor | None
    names: tuple[str, ...] | None
    layer: str
    pixels: bool

    @property
    def of_items(self) -> Tensor:
        """(N, D) features of the items: of places their mean."""
        if not self.pixels:
            return self.cells
        n = len(self.numbers)
        total = self.cells.new_zeros(n, self.cells.shape[1]).index_add(0, self.item, self.cells)
        return total / torch.bincount(self.item, minlength=n).clamp_min(1)[:, None]


@dataclass
class _Gathered:
    """What the pass has so far, a list entry per batch."""

    cells: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    truth: list[Tensor] = field(default_factory=list)
    item: list[Tensor] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    signatures: list[Tensor | None] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def read_features(
    batches: Iterable[ItemBatch],
    *,
    layer: Any = None,
    output: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    total: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> ItemFeatures:
    """Run every item through its model once and keep what suspects are found by.

    Args:
        batches: the items, in order.
        layer: whose output are the features, averaged over space or time: a module, its dotted name, or a `Layer`;
            None: what goes into the last linear (or convolutional) layer that the model calls.
        output: which part of the model's output is meant, as for `interp_plugins.explain`.
        kwargs: keyword arguments of the model.
        total: the number of items, where it is known: of many pictures fewer places are kept.
        seed: of a model that draws, and of the places.
        progress: None: a bar for long work.

    Raises:
        InputError: no items, labels missing, or not one per item.
        LayerError: no layer that is the last.
    """
    got, reading = _Gathered(), _Reading(layer, output, dict(kwargs or {}), seed)
    places = _PIXELS if total is None else max(_LEAST, min(_PIXELS, _CELLS // max(1, total)))
    with contextlib.closing(progress_bar(total or 0, "features", progress)) as bar:
        for batch in batches:
            _gather(got, batch, reading, places)
            bar.update(len(batch.numbers))
    if not got.numbers:
        raise InputError("The data hold no item.")
    signatures = [s for s in got.signatures if s is not None]
    same = len(signatures) == len(got.signatures) and len({s.shape[1:] for s in signatures}) == 1
    return ItemFeatures(
        torch.cat(got.cells),
        torch.cat(got.outputs),
        torch.cat(got.truth),
        torch.cat(got.item),
        got.numbers,
        got.digests,
        torch.cat(signatures) if same else None,
        tuple(got.names) if any(got.names) else None,
        reading.name,
        reading.pixels,
    )


def _gather(got: _Gathered, batch: ItemBatch, reading: _Reading, places: int) -> None:
    """Add what one batch gives."""
    n = len(batch.numbers)
    features, output = reading.of(batch)
    truth = _checked_truth(batch.truth, n)
    first = len(got.numbers)
    item = torch.arange(first, first + n)
    if output.ndim >= 4 and truth.ndim == output.ndim - 1:
        reading.pixels = True
        features, output, truth, item = _at_places(features, output, truth, item, batch.numbers, places, reading.seed)
    else:
        features = _pooled(features)
    got.cells.append(features)
    got.outputs.append(output)
    got.truth.append(truth)
    got.item.append(item)
    got.numbers += list(batch.numbers)
    got.digests += [digest([x[i] for x in batch.inputs]) for i in range(n)]
    got.signatures.append(_signature(batch.inputs))
    got.names += list(batch.names or [""] * n)


class _Reading:
    """How features are read: the layer is chosen on the first batch."""

    def __init__(self, layer: Any, output: Any, kwargs: dict[str, Any], seed: int):
        self.layer, self.output, self.kwargs, self.seed = layer, output, kwargs, seed
        self.name, self.pixels = "", False
        self._last: list[nn.Module] = []

    def of(self, batch: ItemBatch) -> tuple[Tensor, Tensor]:
        """Features and output of a batch, on the CPU in float32."""
        func = Call(batch.model, self.kwargs, self.output)
        with frozen(func, seed=self.seed), torch.no_grad(), hooked() as hooks:
            seen = _Seen()
            if self.layer is not None:
                self._watch_named(func, hooks, seen)
            else:
                self._watch_last(func, hooks, seen)
            out = func(*batch.inputs, *batch.more)
            features = self._chosen(func, seen, len(batch.numbers))
        if not out.ndim or len(out) != len(batch.numbers):
            raise InputError(
                f"The output of shape {tuple(out.shape)} has not a row for each of {len(batch.numbers)} items."
            )
        return features.detach().float().cpu(), out.detach().float().cpu()

    def _watch_named(self, func: Any, hooks: Hooks, seen: _Seen) -> None:
        found = resolve_layer(func, self.layer)
        assert isinstance(found.module, nn.Module)
        self.name = layer_name(func, found.module)
        hooks.behind(found.module, lambda m, args, out: seen.inputs.append((m, out)))

    def _watch_last(self, func: Any, hooks: Hooks, seen: _Seen) -> None:
        for module in self._last or modules_below(modules_of(func)):
            if isinstance(module, _LAST):
                hooks.before(module, lambda m, args: seen.inputs.append((m, args[0] if args else None)))
            elif isinstance(module, nn.Embedding):
                hooks.behind(module, lambda m, args, out: seen.looked_up.append((m, out)))

    def _chosen(self, func: Any, seen: _Seen, n: int) -> Tensor:
        """The features among what was seen."""
        if seen.inputs:
            module, value = seen.inputs[-1]
            if self.layer is None:
                self._last, self.name = [module], layer_name(func, module)
            value = value[0] if isinstance(value, (tuple, list)) and value else value
            found = value if isinstance(value, Tensor) else None
        elif seen.looked_up and self.layer is None:
            self._last, self.name = [m for m, _ in seen.looked_up], "embeddings"
            found = torch.cat([v.reshape(n, -1) for _, v in seen.looked_up], 1)
        else:
            found = None
        if found is None or found.ndim < 2 or len(found) != n:
            raise LayerError(
                "No features were found"
                + (f" at {self.name!r}: {describe(found)}" if found is not None else "")
                + ". Name a layer with a row per item: layer='body', layer=model.pool."
            )
        return found


class _Seen:
    """What hooks saw in one call of the model, in order."""

    def __init__(self) -> None:
        self.inputs: list[tuple[nn.Module, Any]] = []
        self.looked_up: list[tuple[nn.Module, Tensor]] = []


def _checked_truth(truth: Any, n: int) -> Tensor:
    if not isinstance(truth, Tensor) or not truth.ndim or len(truth) != n:
        raise InputError(
            f"Suspects are found among labels, and the data give none for each of {n} items (got {describe(truth)}). "
            "The data are batches (input, label), or say which part is the label: label_key=, label_fn=."
        )
    return truth.detach().as_subclass(Tensor).cpu()


def _pooled(features: Tensor) -> Tensor:
    """(N, D): mean over space (N, D, ...) or over tokens (N, T, D)."""
    if features.ndim == 2:
        return features
    return features.mean(1) if features.ndim == 3 else features.flatten(2).mean(2)


def _at_places(
    features: Tensor, output: Tensor, truth: Tensor, item: Tensor, numbers: Sequence[int], places: int, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, outputs and labels at some places of each picture; the places depend on the item and the seed."""
    if features.ndim != output.ndim:
        raise LayerError(f"The features of a segmentation are maps (N, C, H, W); got {describe(features)}. Give layer=")
    if features.shape[2:] != truth.shape[1:]:
        features = F.interpolate(features, size=truth.shape[1:], mode="nearest")
    if output.shape[2:] != truth.shape[1:]:
        output = F.interpolate(output, size=truth.shape[1:], mode="bilinear", align_corners=False)
    found: list[tuple[Tensor, ...]] = []
    for i, number in enumerate(numbers):
        flat = truth[i].flatten()
        known = ((flat >= 0) & (flat < output.shape[1])).nonzero().flatten()
        order = torch.randperm(len(known), generator=make_generator(sample_seed(seed, number)))
        at = known[order[:places]].sort().values
        found.append(
            (features[i].flatten(1)[:, at].T, output[i].flatten(1)[:, at].T, flat[at], item[i].expand(len(at)))
        )
    cells, outputs, labels, items = (torch.cat(column) for column in zip(*found, strict=True))
    return cells, outputs, labels, items


def _signature(inputs: Sequence[Tensor]) -> Tensor | None:
    """(N, S) inputs pooled to a few numbers, each item's centred and of length 1; None for ids and rows of tables."""
    parts = []
    for x in inputs:
        if not x.is_floating_point() or x.ndim < 3:
            return None
        x = x.detach().float().cpu()
        if x.ndim >= 4:
            x = F.adaptive_avg_pool2d(x.flatten(1, -3) if x.ndim > 4 else x, _SIGNATURE)
        parts.append(x.flatten(1))
    rows = torch.cat(parts, 1)
    rows = rows - rows.mean(1, keepdim=True)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
