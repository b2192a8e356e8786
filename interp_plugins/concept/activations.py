"""A layer's activations for batches of examples, as rows of numbers: flattened, or pooled over places."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from interp_plugins.api.arranged import positional
from interp_plugins.core.batching import chunks
from interp_plugins.core.errors import InputError, InterpWarning, LayerError
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.grid import ModuleOutput, find_grid, trace_shapes
from interp_plugins.core.guard import frozen, modules_of
from interp_plugins.core.layers import AtLayer, Layer
from interp_plugins.core.placement import beside_weights
from interp_plugins.core.report import note
from interp_plugins.core.tensors import accumulation_dtype, as_tuple, check_inputs

LARGE = 50_000  # numbers of an example beyond which a layer with places is pooled unless it is asked not to be
POOLS = ("mean", "max", "none")


@dataclass(frozen=True)
class LayerSide:
    """A layer with its name in results."""

    layer: Layer
    name: str


@dataclass
class ActivationReader:
    """A model and layers of it, read as rows (n, D) per layer.

    Attributes:
        model: an `nn.Module` or any callable around one.
        sides: the layers.
        pool: "mean" or "max" over places, "none", or None: flattened unless a layer is large or examples differ in
            size, which is said.
        pools: what was decided per layer name.
    """

    model: Callable[..., Any]
    sides: Sequence[LayerSide]
    pool: str | None = None
    pools: dict[str, str] = field(default_factory=dict)
    _axes: dict[tuple[str, int], int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pool is not None and self.pool not in POOLS:
            raise InputError(f"pool must be 'mean', 'max', 'none' or None (chosen by size), got {self.pool!r}.")

    def rows(self, sources: Sequence[Iterable[Any]], sides: Sequence[LayerSide] | None = None) -> list[list[Tensor]]:
        """Activations per source of batches and layer, [source][layer] (n, D).

        Args:
            sources: batches each; read again where a layer turns out to need pooling.
            sides: some of the layers; None: all.
        """
        sides = self.sides if sides is None else sides
        with frozen(self.model):
            while True:
                try:
                    return [self._of_source(batches, sides) for batches in sources]
                except _Ragged as ragged:
                    self._decide(ragged.name, "mean", "examples differ in size")

    def _of_source(self, batches: Iterable[Any], sides: Sequence[LayerSide]) -> list[Tensor]:
        found: list[list[Tensor]] = [[] for _ in sides]
        for batch in batches:
            for parts, side, rows in zip(found, sides, self._of_batch(batch, sides), strict=True):
                if parts and parts[0].shape[1] != rows.shape[1]:
                    raise _Ragged(side.name)
                parts.append(rows)
        return [torch.cat(parts) for parts in found]

    def _of_batch(self, batch: Any, sides: Sequence[LayerSide]) -> Iterator[Tensor]:
        xs, forward = call_of(self.model, batch)
        at = AtLayer(forward.func, [side.layer for side in sides])

        def work(start: int, stop: int) -> list[Tensor]:
            index = torch.arange(start, stop)
            args, kwargs = forward.arguments([x[start:stop] for x in xs], index)
            tensors, flat = at.encode(*args, **kwargs), []
            for side, count in zip(sides, at.counts, strict=True):
                mine, tensors = tensors[:count], tensors[count:]
                flat.append(self.flat(side, mine, forward, xs, torch.mean).cpu())
            return flat

        n = len(xs[0])
        parts = [got for *_, got in chunks(n, forward.samples_per_pass(xs), work)]
        yield from (torch.cat(column) for column in zip(*parts, strict=True))

    def flat(
        self, side: LayerSide, tensors: Sequence[Tensor], forward: Forward, xs: Sequence[Tensor], mean: Any
    ) -> Tensor:
        """A layer's tensors as rows (n, D), pooled where that was decided.

        Args:
            side: the layer.
            tensors: of it (n, ...).
            forward: the call that gave them.
            xs: the inputs.
            mean: how places are put together where they are pooled by their mean: `torch.mean`, or `torch.sum` for
                gradients, so that a step along a vector is one of all places.
        """
        tensors = [t if t.dtype == accumulation_dtype(t.dtype) else t.float() for t in tensors]
        size = sum(t[0].numel() for t in tensors)
        if side.name not in self.pools:
            self._choose(side, tensors, size, forward, xs)
        pool = self.pools[side.name]
        if pool == "none":
            return torch.cat([t.flatten(1) for t in tensors], 1)
        return torch.cat([self._pooled(side, t, pool, forward, xs, mean) for t in tensors], 1)

    def _choose(
        self, side: LayerSide, tensors: Sequence[Tensor], size: int, forward: Forward, xs: Sequence[Tensor]
    ) -> None:
        if self.pool is not None:
            self.pools[side.name] = self.pool
            return
        places = size > LARGE and any(self._channels(side, t, forward, xs, False) is not None for t in tensors)
        if places:
            self._decide(side.name, "mean", f"it has {size:,} numbers per example, more than {LARGE:,}")
        else:
            self.pools[side.name] = "none"

    def _decide(self, name: str, pool: str, why: str) -> None:
        if self.pool == "none":
            raise InputError(
                f"The examples' activations at {name!r} differ in size, and pool='none' asks for all of them. Give "
                "pool='mean' or 'max', or examples of one size."
            )
        self.pools[name] = pool
        note(concept_pool=f"{name}: {pool}")
        warnings.warn(
            f"The layer {name!r} is pooled by its mean over places, since {why}. pool='mean' says so without this "
            "warning, pool='none' keeps every place.",
            InterpWarning,
            stacklevel=2,
        )

    def _pooled(
        self, side: LayerSide, t: Tensor, pool: str, forward: Forward, xs: Sequence[Tensor], mean: Any
    ) -> Tensor:
        axis = self._channels(side, t, forward, xs, True)
        if axis is None:
            return t.flatten(1)
        rest = tuple(a for a in range(1, t.ndim) if a != axis)
        if mean is torch.sum:  # a step along a vector of pooled channels is that step at every place
            return t.sum(rest)
        return t.mean(rest) if pool == "mean" else t.amax(rest)

    def _channels(self, side: LayerSide, t: Tensor, forward: Forward, xs: Sequence[Tensor], needed: bool) -> int | None:
        """Which axis holds the channels; None where there are no places."""
        if t.ndim < 3:
            return None
        known = (side.name, t.ndim)
        if known not in self._axes:
            assert isinstance(side.layer.module, nn.Module)
            seen: list[ModuleOutput] = trace_shapes(forward, xs)[1]
            try:
                grid = find_grid(side.layer.module, tuple(t.shape), xs, seen)
            except LayerError as err:
                if not needed:
                    return None
                raise LayerError(f"{err} Or give pool='none', which keeps every number.") from err
            self._axes[known] = {"first": 1, "last": t.ndim - 1, "tokens": 2}.get(grid.kind)
        return self._axes[known]


class _Ragged(Exception):
    """Examples whose activations at a layer differ in size."""

    def __init__(self, name: str):
        self.name = name


def call_of(model: Callable[..., Any], batch: Any, more: Any = None) -> tuple[tuple[Tensor, ...], Forward]:
    """Checked inputs of a batch (tensor, tuple, dict by name) beside the weights, and the call of the model on them.

    Args:
        model: an `nn.Module` or any callable.
        batch: the inputs.
        more: additional positional arguments.
    """
    func, _, inputs, kwargs = positional(model, batch, None)
    xs = check_inputs(beside_weights(tuple(inputs) if isinstance(inputs, list) else inputs, model))
    kwargs = beside_weights(dict(kwargs), model) if kwargs else None
    forward = Forward.of(Call(func, kwargs) if kwargs else func, len(xs[0]), None, more)
    forward.samples = xs
    return xs, forward


def digest_of_weights(model: Callable[..., Any]) -> str:
    """A digest of all weights and buffers, of every bit in its place: two models of one digest are the same."""
    made = hashlib.blake2b(digest_size=16)
    for root in modules_of(model):
        for name, t in (*root.named_parameters(), *root.named_buffers()):
            made.update(f"{name}{tuple(t.shape)}{t.dtype}".encode())
            made.update(bits_of(t))
    return made.hexdigest()


def digest_of_batches(batches: Iterable[Any]) -> str:
    """A digest of examples, however they are cut into batches of their order."""
    made: dict[int, Any] = {}
    for batch in batches:
        many = list(batch.values()) if isinstance(batch, Mapping) else list(as_tuple(batch))
        for i, leaf in enumerate(pytree.tree_leaves(many)):
            new = i not in made
            own = made.setdefault(i, hashlib.blake2b(digest_size=16))
            if isinstance(leaf, Tensor):
                own.update(f"{tuple(leaf.shape[1:])}{leaf.dtype}".encode() if new else b"")
                own.update(bits_of(leaf))
            else:
                own.update(repr(leaf).encode())
    return "".join(own.hexdigest() for own in made.values())


def bits_of(t: Tensor) -> Any:
    """A tensor's bytes in the order of its elements, on the CPU."""
    t = t.detach()
    t = t.to_dense() if t.layout is not torch.strided else t
    t = t.int_repr() if t.is_quantized else t
    flat = t.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    bits: Any = flat.view(torch.uint8).numpy()
    return memoryview(bits) if flat.numel() else b""


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., D) of length one; those of length zero stay."""
    length = vectors.norm(dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, torch.ones_like(length))
