"""Weights in a form that is faster to run, kept until their model goes.

Transforming a weight takes as long as some dozen passes, so it is done once for all calls that explain a model. What
was made is found by the parameter that it was made of, and given again only where the weight is what it was, element
by element.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import ClassVar, Generic, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

from interp_plugins.core.caches import model_cache
from interp_plugins.engine.kernels.product import Product
from interp_plugins.engine.kernels.winograd import Winograd

_MOST_BYTES = 1 << 30  # that are kept of all models


F = TypeVar("F", Winograd, Product)


class PackedWeight(Generic[F]):
    """A weight and its forms, made when first needed: for the layer, and for its gradient.

    Args:
        weight: of the layer.
        how: whatever else the forms depend on.

    Attributes:
        growth: elements of a form for each of the weight.
    """

    growth: ClassVar[int]

    def __init__(self, weight: Tensor, how: Hashable = None):
        self.weight = weight.detach().clone()  # the one given may be the model's own, and change
        self.how = how
        self._made: dict[bool, F] = {}
        self._lock = threading.Lock()

    def form(self, *, back: bool = False) -> F:
        """The layer's, or its gradient's."""
        with self._lock:
            if back not in self._made:
                self._made[back] = self._make(back)
            return self._made[back]

    def _make(self, back: bool) -> F:
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes held when both forms are made."""
        return self.weight.nbytes * (1 + 2 * self.growth)


class Kernels(PackedWeight[Winograd]):
    """Winograd's weight of a 3 x 3 convolution (K, C, 3, 3), for `how` tiles at a time; back by rotated kernels."""

    growth = 4

    def __init__(self, weight: Tensor, how: int):
        super().__init__(weight, how)
        self.count = how

    def _make(self, back: bool) -> Winograd:
        return Winograd(self.weight.transpose(0, 1).flip(2, 3) if back else self.weight, self.count)


class Matrix(PackedWeight[Product]):
    """The packed weight of a linear layer (O, I); on the way back its transpose."""

    growth = 1

    def _make(self, back: bool) -> Product:
        return Product(self.weight.t() if back else self.weight)


_kept: WeakSet[PackedWeight[Winograd] | PackedWeight[Product]] = WeakSet()
_lock = threading.Lock()
T = TypeVar("T", Kernels, Matrix)


class WeightCache:
    """What there is of the model that is being explained.

    Attributes:
        rows: rows that were planned for since the weights changed.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._known: dict[Hashable, Kernels | Matrix] = {}

    @staticmethod
    def here() -> WeightCache:
        """What is kept, or nothing yet."""
        found: WeightCache = model_cache().setdefault("transformed", WeightCache())
        return found

    def find(self, kind: type[T], key: Hashable, weight: Tensor, how: Hashable = None) -> T | None:
        """What was made under a key (which tells the parameter), unless weight or circumstances are different now."""
        known = self._known.get(key)
        if isinstance(known, kind) and known.how == how and torch.equal(known.weight, weight):
            return known
        if known is not None:
            del self._known[key]
            self.rows = 0
        return None

    def keep(self, key: Hashable, made: T) -> T:
        """Keep something under a key if there is room; it is given back."""
        with _lock:
            if made.nbytes + sum(one.nbytes for one in _kept) <= _MOST_BYTES:
                _kept.add(made)
                self._known[key] = made
        return made
