"""Weights in a form that is faster to run, kept until their model goes.

Transforming a weight takes as long as some dozen passes, so it is done once for all calls that explain a model. What
was made is found by the parameter that it was made of, and given again only where the weight is what it was, element
by element. `acceleration.max_bytes` bounds what is kept of all models together, `acceleration.clear()` frees it.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import ClassVar, Generic, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

from interp_plugins.core.caches import model_cache
from interp_plugins.engine.kernels.guest import Guest
from interp_plugins.engine.kernels.product import PACKED, Product
from interp_plugins.engine.kernels.winograd import WINOGRAD, Winograd
from interp_plugins.engine.switch import acceleration, on_clear

F = TypeVar("F", Winograd, Product)


class PackedWeight(Generic[F]):
    """A weight and its forms, made when first needed: for the layer, and for its gradient.

    Args:
        weight: of the layer.
        how: whatever else the forms depend on.

    Attributes:
        growth: elements of a form for each of the weight.
        guest: the kernel that runs from the forms.
    """

    growth: ClassVar[int]
    guest: ClassVar[Guest]

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
        return self.held(self.weight)

    @classmethod
    def held(cls, weight: Tensor) -> int:
        """Bytes that would be held of a weight, when both forms are made."""
        return weight.nbytes * (1 + 2 * cls.growth)


class Kernels(PackedWeight[Winograd]):
    """Of a 3 x 3 convolution (K, C, 3, 3), for `how` tiles at a time; back with rotated, transposed kernels."""

    growth = 4
    guest = WINOGRAD

    def __init__(self, weight: Tensor, how: int):
        super().__init__(weight, how)
        self.count = how

    def _make(self, back: bool) -> Winograd:
        return Winograd(self.weight.transpose(0, 1).flip(2, 3) if back else self.weight, self.count)


class Matrix(PackedWeight[Product]):
    """Of a linear layer (O, I); back transposed."""

    growth = 1
    guest = PACKED

    def _make(self, back: bool) -> Product:
        return Product(self.weight.t() if back else self.weight)


_kept: WeakSet[PackedWeight[Winograd] | PackedWeight[Product]] = WeakSet()
_caches: WeakSet[WeightCache] = WeakSet()
_lock = threading.Lock()
T = TypeVar("T", Kernels, Matrix)


class WeightCache:
    """The packed weights of one model.

    Attributes:
        rows: rows that were planned for since the weights changed.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._known: dict[Hashable, Kernels | Matrix] = {}
        with _lock:
            _caches.add(self)

    @staticmethod
    def of_model() -> WeightCache:
        """The cache of the model that is being explained."""
        memory = model_cache()
        if "weights" not in memory:
            memory["weights"] = WeightCache()
        found: WeightCache = memory["weights"]
        return found

    def get(self, kind: type[T], key: Hashable, weight: Tensor, how: Hashable = None) -> T | None:
        """What was made under a key (which tells the parameter), unless weight or circumstances are different now."""
        known = self._known.get(key)
        if isinstance(known, kind) and known.how == how and torch.equal(known.weight, weight):
            return known
        if known is not None:
            del self._known[key]
            self.rows = 0
        return None

    def add(self, key: Hashable, made: T) -> T:
        """Keep something under a key if there is room among that of all models; it is given back."""
        with _lock:
            if _has_room(made.nbytes):
                _kept.add(made)
                self._known[key] = made
        return made

    @staticmethod
    def has_room(nbytes: int) -> bool:
        """Whether so much more would be kept."""
        with _lock:
            return _has_room(nbytes)

    def clear(self) -> None:
        """Forget all packed weights, and the rows counted for them."""
        self._known, self.rows = {}, 0


def _has_room(nbytes: int) -> bool:
    return nbytes + sum(one.nbytes for one in _kept) <= acceleration.max_bytes


@on_clear
def _clear() -> None:
    with _lock:
        for cache in _caches:
            cache.clear()
        _kept.clear()
