"""A layer of a model as a grid of places: its activations there, and what the score makes of each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp_plugins.api.prediction import default_layer
from interp_plugins.concept.factor import amounts_in_graph, amounts_of
from interp_plugins.core.batching import chunks
from interp_plugins.core.errors import LayerError
from interp_plugins.core.forward import Forward, gradients
from interp_plugins.core.grid import Grid, find_grid, trace_shapes
from interp_plugins.core.layers import AtLayer, Layer, layer_name, resolve_layer, run_and_read
from interp_plugins.core.tensors import per_sample_sum
from interp_plugins.core.wrapper import Wrapper

_NODES = 16  # of the path at a head that is not linear
_SAME = 1e-4  # relative change of the gradient along the path below which a head is called linear


@dataclass(frozen=True)
class Place:
    """A layer and how its tensor lies.

    Attributes:
        layer: with its module.
        name: dotted name.
        grid: where it has places; of kind "none" without any.
    """

    layer: Layer
    name: str
    grid: Grid

    @classmethod
    def of(cls, forward: Forward, xs: Sequence[Tensor], layer: Any) -> Place:
        """The layer that is named, or the last one with places that the score depends on.

        Args:
            forward: the model call.
            xs: checked inputs.
            layer: module, dotted name, `Layer`, or None.

        Raises:
            LayerError: there is none, or its layout cannot be told.
        """
        found = default_layer(forward, xs, None) if layer is None else resolve_layer(forward.func, layer)
        assert isinstance(found.module, nn.Module)
        at = AtLayer(forward.func, [found])
        first = torch.zeros(1, dtype=torch.long, device=xs[0].device)
        args, kwargs = forward.arguments([x[:1] for x in xs], first)
        tensors = at.encode(*args, **kwargs)
        if len(tensors) != 1:
            raise LayerError(f"The layer {found.module!r} gives {len(tensors)} tensors; choose one that gives one.")
        grid = find_grid(found.module, tuple(tensors[0].shape), xs, trace_shapes(forward, xs)[1])
        return cls(found, layer_name(forward.func, found.module), grid)

    def laid_out(self, t: Tensor) -> Tensor:
        """A tensor of the layer as (n, C, P), P places in the order of the grid."""
        return self.grid.lay_out(t).flatten(2) if t.ndim > 2 else t[:, :, None]

    @property
    def size(self) -> tuple[int, ...]:
        """How many places each axis has."""
        return tuple(self.grid.size) or (1,)

    def activations(self, forward: Forward, xs: Sequence[Tensor]) -> Tensor:
        """Of all samples (n, C, P), on the CPU, in float32 at least."""
        at, n = AtLayer(forward.func, [self.layer]), len(xs[0])

        def work(start: int, stop: int) -> Tensor:
            args, kwargs = forward.arguments([x[start:stop] for x in xs], torch.arange(start, stop))
            return _plain(self.laid_out(at.encode(*args, **kwargs)[0]))

        return torch.cat([part for *_, part in chunks(n, forward.samples_per_pass(xs), work)])

    def reading(self, forward: Forward, xs: Sequence[Tensor]) -> LayerReading:
        """Activations and what the score makes of them: gradients, in the mean over the path from 0 where they vary."""
        n = len(xs[0])
        size = forward.samples_per_pass(xs)
        parts = [got for *_, got in chunks(n, size, lambda a, b: self._reading(forward, xs, torch.arange(a, b)))]
        whole = [torch.cat([p.tensors[i] for p in parts]) for i in range(5)]
        return LayerReading((whole[0], whole[1], whole[2], whole[3], whole[4]), all(p.linear for p in parts))

    def _reading(self, forward: Forward, xs: Sequence[Tensor], rows: Tensor) -> LayerReading:
        part = forward.of_rows(rows)
        xs = [x.index_select(0, rows.to(x.device)) for x in xs]
        at = AtLayer(part.func, [self.layer])
        args, kwargs = part.arguments(xs, None)
        a = at.encode(*args, **kwargs)[0]
        behind = replace(part, func=at, args=(*xs, *part.args), samples=(a,), facts=None)
        ends = [gradients(behind, [t * a]) for t in (1.0, 0.5)]
        scale = float(ends[0].grads[0].abs().max()) or 1.0
        linear = float((ends[0].grads[0] - ends[1].grads[0]).abs().max()) <= _SAME * scale
        mean = ends[0].grads[0]
        if not linear:
            nodes, weights = np.polynomial.legendre.leggauss(_NODES)
            steps = zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True)
            mean = torch.stack([w * gradients(behind, [t * a]).grads[0] for t, w in steps]).sum(0)
        base = behind.scores([torch.zeros_like(a)])
        total = per_sample_sum([mean.double() * a.double()])
        laid = _plain(self.laid_out(a)), _plain(self.laid_out(mean))
        return LayerReading((*laid, ends[0].scores.cpu(), base.cpu(), total.cpu()), linear)


@dataclass(frozen=True)
class LayerReading:
    """A layer's activations for some samples, and what a score makes of them.

    Attributes:
        tensors: all five below.
        linear: whether the score is a linear function of this layer.
    """

    tensors: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    linear: bool

    @property
    def activations(self) -> Tensor:
        """Of the layer (n, C, P)."""
        return self.tensors[0]

    @property
    def gradients(self) -> Tensor:
        """Of the score (n, C, P); the mean over the path from 0 where they vary."""
        return self.tensors[1]

    @property
    def scores(self) -> Tensor:
        """The target's value per sample (n,)."""
        return self.tensors[2]

    @property
    def base(self) -> Tensor:
        """The score where all activations are 0 (n,)."""
        return self.tensors[3]

    @property
    def total(self) -> Tensor:
        """What all activations add (n,): `scores - base`, exactly where the head is linear."""
        return self.tensors[4]


def amounts_at(activations: Tensor, atoms: Tensor) -> Tensor:
    """How much of each concept is at every place, (n, P, K) of (n, C, P)."""
    n, c, p = activations.shape
    return amounts_of(activations.transpose(1, 2).reshape(n * p, c), atoms).reshape(n, p, -1)


def shares_of(amounts: Tensor, gradients: Tensor, atoms: Tensor) -> Tensor:
    """What each concept adds to the score, (n, K): its atom along the gradient at every place, times its amount."""
    along = torch.einsum("ncp,kc->npk", gradients.double(), atoms.double())
    return (along * amounts.double()).sum(1)


class OfConcepts(Wrapper):
    """A model whose outputs are the amounts of concepts at a layer, the mean over its places: `f(*inputs) -> (N, K)`.

    Every method explains a concept with it, as it explains a class.

    Args:
        func: the model.
        place: the layer.
        atoms: the concepts (K, C).
    """

    def __init__(self, func: Callable[..., Any], place: Place, atoms: Tensor):
        self.func, self.place, self.atoms = func, place, atoms

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The amounts per sample."""
        _, (tensors,) = run_and_read(self.func, [self.place.layer], *args, **kwargs)
        laid = self.place.laid_out(tensors[0])
        n, _, p = laid.shape
        found = amounts_in_graph(laid.transpose(1, 2).reshape(n * p, -1), self.atoms.to(laid))
        return found.reshape(n, p, -1).mean(1)


class FromAmounts(Wrapper):
    """The score's output as a function of how strongly each concept is there: `f(strengths (R, K), amounts, *inputs)`.

    Args:
        at: the model at the layer.
        place: the layer.
        atoms: the concepts (K, C).
    """

    def __init__(self, at: AtLayer, place: Place, atoms: Tensor):
        self.at, self.place, self.atoms = at, place, atoms

    def wrapped_callables(self) -> list[Any]:
        """The model at its layer, for the guard."""
        return [self.at]

    def __call__(self, strengths: Tensor, amounts: Tensor, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The model's output with the amounts (R, P, K) changed to strength times amount, in the layer's tensor."""
        change = ((strengths - 1)[:, None] * amounts) @ self.atoms.to(amounts)  # (R, P, C)
        return self.at(tensor + self._as_tensor(change.transpose(1, 2), tensor), *args, **kwargs)

    def _as_tensor(self, laid: Tensor, like: Tensor) -> Tensor:
        """(R, C, P) as the layer has it."""
        grid = self.place.grid
        if like.ndim == 2:
            return laid[:, :, 0]
        shaped = laid.reshape(len(laid), laid.shape[1], *grid.size)
        if grid.kind == "last":
            return shaped.movedim(1, -1)
        if grid.kind == "tokens":
            return torch.nn.functional.pad(laid.transpose(1, 2), (0, 0, grid.prefix, 0))
        return shaped


def _plain(t: Tensor) -> Tensor:
    t = t.detach().cpu()
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
