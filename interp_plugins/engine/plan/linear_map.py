"""What runs faster with its weight in another form: linear maps, in a private view, each with its derivative.

`apply` is a linear map (and a constant) whose derivative is the linear map of the other way, to any order. `faster`
chooses among the layers that could be replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor, nn

from interp_plugins.engine.kernels.weight_cache import Kernels, WeightCache
from interp_plugins.engine.kernels.winograd import WINOGRAD
from interp_plugins.engine.meter import dropped, percent
from interp_plugins.engine.plan.view import AGREE, M

_MOST_BYTES = 64 << 20  # that a plan transforms, each way, unless as much is kept already


class LinearDirection:
    """One direction of a linear map, which knows the other one.

    Attributes:
        is_back: whether it is the one that gradients take.
        trusted: whether the plain model's results were compared with; else the first call of a way back is.
    """

    name: ClassVar[str]

    def __init__(self, opposite: LinearDirection | None = None):
        self._opposite, self.is_back = opposite, opposite is not None
        self.trusted, self._refused = False, False

    @property
    def back(self) -> LinearDirection:
        """From the gradient at the output to the one at the input."""
        if self._opposite is None:
            self._opposite = self._turned()
        return self._opposite

    def trust(self, on: bool = True) -> None:
        """Both directions are compared as part of the whole model, so neither is on its own."""
        self.trusted = self.back.trusted = on

    def _turned(self) -> LinearDirection:
        raise NotImplementedError

    def __call__(self, x: Tensor, bias: bool) -> Tensor:
        """The map of x, with or without the constant."""
        raise NotImplementedError

    def direct(self, x: Tensor, bias: bool) -> Tensor:
        """The same as torch has it."""
        raise NotImplementedError

    def is_fast(self, x: Tensor) -> bool:
        """Whether a call with x would run from the packed weight."""
        return x.numel() > 0

    def of_gradient(self, x: Tensor) -> Tensor:
        """The map of a gradient; unless it is trusted, the first one is compared with torch's, which then may stay."""
        if not self.trusted and self.is_fast(x):
            self.trusted = True
            made, true = self(x, False), self.direct(x, False)
            off, scale = float((made - true).abs().max()), float(true.abs().max())
            if not off <= AGREE[x.dtype] * scale:
                self._refused = True
                dropped(self.name, f"gradients of a layer are off by {percent(off / scale if scale else math.inf)}")
            return true
        return self.direct(x, False) if self._refused else self(x, False)


class _LinearMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, direction: LinearDirection, bias: bool) -> Tensor:
        ctx.direction = direction
        return direction(x, bias) if bias or not direction.is_back else direction.of_gradient(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _LinearMap.apply(grad, ctx.direction.back, False), None, None


def apply(direction: LinearDirection, x: Tensor) -> Tensor:
    """The map of x, differentiable in x."""
    made: Tensor = _LinearMap.apply(x, direction, True)
    return made


@dataclass(frozen=True)
class Candidate(Generic[M]):
    """A layer that could run faster.

    Attributes:
        module: the layer.
        layer: what runs in its place until now (itself, or a folded one).
        stand_in: from layer and transformed weight to what runs faster.
        saved: multiplications' time saved per row.
        price: of an element of the transformed weight, in multiplications.
        how: tiles that the transform is made for.
    """

    module: nn.Module
    layer: Any
    stand_in: Callable[[Any, Kernels], M]
    saved: float
    price: float
    how: int

    @property
    def key(self) -> Hashable:
        """The parameter that the weight was made of."""
        return "planned", id(self.module.weight)

    @property
    def elements(self) -> int:
        """Elements of the transformed weight, one way."""
        return Kernels.growth * self.layer.weight.numel()

    @property
    def nbytes(self) -> int:
        """Bytes of the transformed weight, one way."""
        return self.elements * self.layer.weight.element_size()


def faster(candidates: Iterable[Candidate[M]], rows: int) -> dict[int, M]:
    """Faster stand-ins for some modules, by module id.

    Weights that are kept in another form cost nothing more. Others have to pay by all rows that were planned for until
    now (those that there is no room to keep, by the rows of this call), so they never cost more than they could have
    saved; and what is kept at most doubles in a call, to hold memory down in the first.

    Args:
        candidates: to choose from.
        rows: rows that are going to be sent through.
    """
    candidates = list(candidates)
    why = WINOGRAD.refused() if candidates else None
    if why is not None:
        dropped(WINOGRAD.name, why)
        candidates = []
    mine = WeightCache.of_model()
    known = [mine.get(one.key, one.layer.weight, one.how) for one in candidates]
    mine.rows += rows
    room = max(_MOST_BYTES, sum(one.nbytes for one, found in zip(candidates, known, strict=True) if found is not None))
    out: dict[int, M] = {}
    for one, found in sorted(zip(candidates, known, strict=True), key=lambda pair: -pair[0].saved / pair[0].elements):
        if found is None:
            stays = mine.has_room(Kernels.held(one.layer.weight))
            if one.nbytes > room or (mine.rows if stays else rows) * one.saved <= one.price * one.elements:
                continue
            room -= one.nbytes
            found = mine.add(one.key, Kernels(one.layer.weight, one.how))
        out[id(one.module)] = one.stand_in(one.layer, found)
    return out
