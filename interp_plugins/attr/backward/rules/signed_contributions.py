"""The positive and the negative contributions to a tensor, carried through the linear steps that made it.

DeepLIFT gives every neuron two changes (Shrikumar et al. 2017, section 3.5.1): d+, the sum of the positive
contributions to it, and d-, that of the negative ones. What a linear step does to them follows from its weights,

    y = sum_i w_i x_i + b:      d+(y) = sum_i max(w_i, 0) d+(x_i) + min(w_i, 0) d-(x_i),      d-(y) likewise,

and where no linear step came before, a tensor is one contribution, its change x - x': d+ = max(x - x', 0). So a linear
map keeps its contributions apart however many calls it is written in (a convolution and the batch norm behind it, two
branches that are added, a pooling by averages). A value that arrives over several linear paths, as in x + conv(x), is a
contribution on each.

Both are tensors of the graph, computed when a nonlinearity asks for them; their gradients are the multipliers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from interp_plugins.attr.backward.rules.call import OpCall, SavedValue, SavedValues, block_of, is_real
from interp_plugins.attr.backward.rules.names import MOVES, WEIGHTED
from interp_plugins.attr.backward.rules.relevance import Weights

Pair = tuple[Tensor, Tensor]

_SIGNED = frozenset({"add", "sub", "rsub", "neg", "positive"})
_SUMS = frozenset(
    {f"{a}avg_pool{d}d" for a in ("", "adaptive_") for d in (1, 2, 3)}
    | {"sum", "nansum", "mean", "nanmean", "cumsum", "fold", "col2im", "trace", "sum_to_size", "upsample_nearest"}
    | {"upsample_bilinear"}
)
_POSITIVE = frozenset({"nearest", "nearest-exact", "linear", "bilinear", "trilinear", "area"})  # modes of interpolation
_SCALED = frozenset({"mul", "div"})
_MATRICES = frozenset({"addmm", "matmul", "mm", "bmm"})
_NO_VALUE = frozenset({"setitem", "fill", "zero", "copy", "detach"})


class Parts(Protocol):
    """What a tensor is made of."""

    def pair(self) -> Pair:
        """d+ and d-, of the tensor's shape."""


class Unsplit:
    """A tensor that no linear step made: one contribution."""

    def __init__(self, value: Tensor, base: SavedValue):
        self.value, self.base = value, base
        self._pair: Pair | None = None

    def pair(self) -> Pair:
        """The tensor's change on the side of its sign; no change stands half on either: its multiplier is the mean."""
        if self._pair is None:
            change = self.value - self.base.value
            up = ((change.detach().sign() + 1) / 2).to(change.dtype)
            self._pair = change * up, change * (1 - up)
        return self._pair


class LinearStep:
    """A linear call; its outputs' parts come from those of its operands."""

    def __init__(self, call: OpCall, operands: Sequence[Parts], how: Callable[[OpCall, list[Pair]], list[Pair]]):
        self.call, self.operands, self.how = call, operands, how
        self._pairs: list[Pair] | None = None

    def pairs(self) -> list[Pair]:
        """The signed contributions of every output, worked out on the first call."""
        if self._pairs is None:
            self._pairs = self.how(self.call, [p.pair() for p in self.operands])
        return self._pairs


class Output:
    """One of a step's outputs."""

    def __init__(self, step: LinearStep, number: int, shape: torch.Size):
        self.step, self.number, self.shape = step, number, shape

    def pair(self) -> Pair:
        """The output's two parts, of the output's shape: constants that were added may have broadcast it."""
        plus, minus = self.step.pairs()[self.number]
        return plus.expand(self.shape), minus.expand(self.shape)


class Sources(SavedValues):
    """Kept values; and sources, whose parts are computed before somebody writes to their memory."""

    def __init__(self) -> None:
        super().__init__()
        self._sources: dict[int, list[weakref.ref[Unsplit]]] = {}

    def source(self, value: Tensor, base: SavedValue) -> Unsplit:
        """A tensor as one contribution."""
        found = Unsplit(value, base)
        self._sources.setdefault(block_of(value), []).append(weakref.ref(found))
        return found

    def about_to_write(self, value: Any) -> None:
        """Compute the parts of the sources whose memory is about to be written to."""
        if isinstance(value, Tensor):
            for ref in self._sources.pop(block_of(value), ()):
                source = ref()
                if source is not None:
                    source.pair()
        super().about_to_write(value)


def linear_step(call: OpCall) -> Callable[[OpCall, list[Pair]], list[Pair]] | None:
    """How a call carries the parts of its operands; None where it is not linear in them or its signs are not known."""
    name, args, kwargs = call.name, *call.arguments()
    if name in _NO_VALUE or ("dropout" in name and kwargs.get("training", args[2:3] != (False,)) is not False):
        return None
    if name in ("interpolate", "upsample"):
        return _summed if kwargs.get("mode", args[3] if len(args) > 3 else "nearest") in _POSITIVE else None
    if name in MOVES or name in _SUMS:
        return _summed
    if name in _SIGNED:
        return _signed
    if len(call.where) == 1:
        if name in _SCALED and len(args) == 2 and (name == "mul" or call.where == [0]):
            return _scaled
        if (name in WEIGHTED or name in _MATRICES) and Weights.of(call) is not None:
            return _weighted
        if name == "batch_norm":
            return _by_channel
    return None


def _runs(call: OpCall, values: Sequence[Tensor]) -> list[Tensor]:
    return [y for y in call.run(values) if is_real(y)]


def _summed(call: OpCall, pairs: list[Pair]) -> list[Pair]:
    """No weight is negative; what the call adds by itself (the value of a padding) is taken off again."""
    nothing = _runs(call, [torch.zeros_like(p) for p, _ in pairs])
    plus, minus = (_runs(call, [p[sign] for p in pairs]) for sign in (0, 1))
    return [(_less(p, z), _less(m, z)) for p, m, z in zip(plus, minus, nothing, strict=True)]


def _less(value: Tensor, constant: Tensor) -> Tensor:
    finite = constant.isfinite()  # a mask's -inf
    return value - constant if bool(finite.all()) else torch.where(finite, value - constant, 0)


def _signed(call: OpCall, pairs: list[Pair]) -> list[Pair]:
    """A sum of terms with a factor each."""
    device, dtype = pairs[0][0].device, pairs[0][0].dtype
    leaves = call.leaves
    call.leaves = [torch.zeros((), device=device, dtype=dtype) if is_real(v) else v for v in leaves]
    try:
        unit = torch.eye(len(pairs) + 1, device=device, dtype=dtype)[:, : len(pairs)]
        (*at, zero) = (float(call.run(list(row))[0]) for row in unit)
    finally:
        call.leaves = leaves
    plus, minus = [], []
    for (p, m), value in zip(pairs, at, strict=True):
        factor = value - zero
        plus.append(factor * (p if factor > 0 else m))
        minus.append(factor * (m if factor > 0 else p))
    return [(_total(plus), _total(minus))]


def _total(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _scaled(call: OpCall, pairs: list[Pair]) -> list[Pair]:
    """The parts of a product or quotient with constants; a negative constant exchanges them."""
    ((plus, minus),) = pairs
    args, _ = call.arguments()
    constant = args[1] if call.where == [0] else args[0]
    positive = constant > 0
    (p,), (m,) = call.run([plus]), call.run([minus])
    if isinstance(positive, bool):
        return [(p, m) if positive else (m, p)]
    return [(torch.where(positive, p, m), torch.where(positive, m, p))]


def _weighted(call: OpCall, pairs: list[Pair]) -> list[Pair]:
    """A linear layer, a convolution, a product with a constant matrix."""
    ((plus, minus),) = pairs
    linear = Weights.of(call)
    assert linear is not None
    high, low = linear.weight.clamp(min=0), linear.weight.clamp(max=0)
    return [
        (
            linear.apply(plus, high, None) + linear.apply(minus, low, None),
            linear.apply(plus, low, None) + linear.apply(minus, high, None),
        )
    ]


def _by_channel(call: OpCall, pairs: list[Pair]) -> list[Pair]:
    """Batch norm by its running statistics: a factor per channel."""
    ((plus, minus),) = pairs
    one = plus.new_ones(1, plus.shape[1], *(1,) * (plus.ndim - 2))
    factor = call.run([one])[0] - call.run([torch.zeros_like(one)])[0]
    rises = factor > 0
    return [(factor * torch.where(rises, plus, minus), factor * torch.where(rises, minus, plus))]
