"""Transformed kernels of convolutions (`core.winograd`), kept until their model goes.

Transforming them takes as long as some dozen passes, so it is done once for all calls that explain a model. They are
found by the parameter that they were made of, and given again only where the weight is, bit by bit, what it was.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from weakref import WeakSet

import torch
from torch import Tensor

from .scope import kept
from .winograd import Winograd

_MOST_BYTES = 1 << 30  # that are kept of all models
_kept: WeakSet[Kernels] = WeakSet()
_lock = threading.Lock()


class Kernels:
    """A weight (K, C, 3, 3) and its transforms, made when first needed, for so many tiles at a time."""

    def __init__(self, weight: Tensor, count: int):
        self.weight = weight.detach().clone()  # the one given may be the model's own, and change
        self.count = count
        self._made: dict[bool, Winograd] = {}
        self._lock = threading.Lock()

    def winograd(self, *, back: bool = False) -> Winograd:
        """The convolution, or that of its gradient: with rotated, transposed kernels."""
        with self._lock:
            if back not in self._made:
                weight = self.weight.transpose(0, 1).flip(2, 3) if back else self.weight
                self._made[back] = Winograd(weight, self.count)
            return self._made[back]

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self.weight.nbytes + sum(made.nbytes for made in list(self._made.values()))


class OfModel:
    """The kernels of the model that is being explained.

    Attributes:
        rows: rows that were planned for since the weights changed.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._known: dict[Hashable, Kernels] = {}

    @staticmethod
    def here() -> OfModel:
        """Those kept, or none yet."""
        found: OfModel = kept().setdefault("kernels", OfModel())
        return found

    def find(self, key: Hashable, weight: Tensor, count: int) -> Kernels | None:
        """The kernels made under a key (which tells the parameter), unless weight or count are different now."""
        known = self._known.get(key)
        if known is not None and (known.count != count or not torch.equal(known.weight, weight)):
            del self._known[key]
            self.rows, known = 0, None
        return known

    def make(self, key: Hashable, weight: Tensor, count: int) -> Kernels:
        """New ones, to be kept if there is room."""
        made = Kernels(weight, count)
        with _lock:
            if sum(one.nbytes for one in _kept) < _MOST_BYTES:
                _kept.add(made)
                self._known[key] = made
        return made
