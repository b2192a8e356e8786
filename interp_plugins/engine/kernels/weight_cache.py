"""Weights in a form that is faster to run, kept until their model goes.

Transforming a weight takes as long as some dozen passes, so it is done once for all calls that explain a model. What
was made is found by the parameter that it was made of, and given again only where the weight is what it was, element
by element. `acceleration.max_bytes` bounds what is kept of all models together, `acceleration.clear()` frees it.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import ClassVar
from weakref import WeakSet

import torch
from torch import Tensor

from interp_plugins.core.caches import model_cache
from interp_plugins.engine.kernels.winograd import Winograd
from interp_plugins.engine.switch import acceleration, on_clear


class Kernels:
    """Of a 3 x 3 convolution: its weight transformed, when first needed: for the layer, and for its gradient.

    Args:
        weight: (K, C, 3, 3), of the layer.
        count: tiles at a time that the forms are made for.

    Attributes:
        growth: elements of a form for each of the weight.
    """

    growth: ClassVar[int] = 4

    def __init__(self, weight: Tensor, count: int):
        self.weight = weight.detach().clone()  # the one given may be the model's own, and change
        self.count = count
        self._made: dict[bool, Winograd] = {}
        self._lock = threading.Lock()

    def form(self, *, back: bool = False) -> Winograd:
        """The layer's; or its gradient's, with rotated, transposed kernels."""
        with self._lock:
            if back not in self._made:
                weight = self.weight.transpose(0, 1).flip(2, 3) if back else self.weight
                self._made[back] = Winograd(weight, self.count)
            return self._made[back]

    @property
    def nbytes(self) -> int:
        """Bytes held when both forms are made."""
        return self.held(self.weight)

    @classmethod
    def held(cls, weight: Tensor) -> int:
        """Bytes that would be held of a weight, when both forms are made."""
        return weight.nbytes * (1 + 2 * cls.growth)


_kept: WeakSet[Kernels] = WeakSet()
_caches: WeakSet[WeightCache] = WeakSet()
_lock = threading.Lock()


class WeightCache:
    """The transformed weights of one model.

    Attributes:
        rows: rows that were planned for since the weights changed.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._known: dict[Hashable, Kernels] = {}
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

    def get(self, key: Hashable, weight: Tensor, count: int) -> Kernels | None:
        """What was made under a key (which tells the parameter), unless weight or number of tiles are different now."""
        known = self._known.get(key)
        if known is not None and known.count == count and torch.equal(known.weight, weight):
            return known
        if known is not None:
            del self._known[key]
            self.rows = 0
        return None

    def add(self, key: Hashable, made: Kernels) -> Kernels:
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
        """Forget all transformed weights, and the rows counted for them."""
        self._known, self.rows = {}, 0


def _has_room(nbytes: int) -> bool:
    return nbytes + sum(one.nbytes for one in _kept) <= acceleration.max_bytes


@on_clear
def _clear() -> None:
    with _lock:
        for cache in _caches:
            cache.clear()
        _kept.clear()
