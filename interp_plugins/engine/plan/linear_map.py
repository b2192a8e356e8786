"""What runs faster with its weight in another form: linear maps, in a private view, each with its derivative.

`apply` is a linear map (and a constant) whose derivative is the linear map of the other way, to any order. `faster`
chooses among the layers that could be replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from interp_plugins.engine.kernels.weight_cache import Kernels, Matrix, WeightCache
from interp_plugins.engine.plan.view import M

_MOST_BYTES = 64 << 20  # that a plan transforms, each way, unless as much is kept already


class LinearDirection:
    """One direction of a linear map, which knows the other one."""

    def __init__(self, opposite: LinearDirection | None = None):
        self._opposite, self.is_back = opposite, opposite is not None

    @property
    def back(self) -> LinearDirection:
        """From the gradient at the output to the one at the input."""
        if self._opposite is None:
            self._opposite = self._turned()
        return self._opposite

    def _turned(self) -> LinearDirection:
        raise NotImplementedError

    def __call__(self, x: Tensor, bias: bool) -> Tensor:
        """The map of x, with or without the constant."""
        raise NotImplementedError


class _LinearMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, way: LinearDirection, bias: bool) -> Tensor:
        ctx.way = way
        return way(x, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _LinearMap.apply(grad, ctx.way.back, False), None, None


def apply(way: LinearDirection, x: Tensor) -> Tensor:
    """The map of x, differentiable in x."""
    made: Tensor = _LinearMap.apply(x, way, True)
    return made


T = TypeVar("T", Kernels, Matrix)


@dataclass(frozen=True)
class Candidate(Generic[T, M]):
    """A layer that could run faster.

    Attributes:
        module: the layer.
        layer: what runs in its place until now (itself, or a folded one).
        kind: of its transformed weight.
        stand_in: from layer and transformed weight to what runs faster.
        saved: multiplications' time saved per row.
        price: of an element of the transformed weight, in multiplications.
        how: what the transform depends on.
    """

    module: nn.Module
    layer: Any
    kind: type[T]
    stand_in: Callable[[Any, T], M]
    saved: float
    price: float
    how: Hashable = None

    @property
    def key(self) -> Hashable:
        """The parameter that the weight was made of."""
        return "planned", id(self.module.weight)

    @property
    def elements(self) -> int:
        """Elements of the transformed weight, one way."""
        return self.kind.growth * self.layer.weight.numel()

    @property
    def nbytes(self) -> int:
        """Bytes of the transformed weight, one way."""
        return self.elements * self.layer.weight.element_size()


def faster(candidates: Sequence[Candidate[Any, Any]], rows: int) -> dict[int, nn.Module]:
    """Faster stand-ins for some modules, by module id.

    Weights that are kept in another form cost nothing more. Others have to pay by all rows that were planned for until
    now, so they never cost more than they could have saved; and what is kept at most doubles in a call, to hold memory
    down in the first.

    Args:
        candidates: to choose from.
        rows: rows that are going to be sent through.
    """
    mine = WeightCache.here()
    known = [mine.find(one.kind, one.key, one.layer.weight, one.how) for one in candidates]
    mine.rows += rows
    room = max(_MOST_BYTES, sum(one.nbytes for one, found in zip(candidates, known, strict=True) if found is not None))
    out: dict[int, nn.Module] = {}
    for one, found in sorted(zip(candidates, known, strict=True), key=lambda pair: -pair[0].saved / pair[0].elements):
        if found is None:
            if one.nbytes > room or mine.rows * one.saved <= one.price * one.elements:
                continue
            room -= one.nbytes
            found = mine.keep(one.key, one.kind(one.layer.weight, one.how))
        out[id(one.module)] = one.stand_in(one.layer, found)
    return out
