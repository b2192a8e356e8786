"""Kernels are guests: they stand on private operators of torch, which may change or go with any release.

Each is tried once, when it is first in question: its operators have to be there, and to give on a small product what
torch gives, forward and backward. Else it is left out, and the meter says why.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from interp_plugins.engine.meter import EXPECTED, percent, reason
from interp_plugins.engine.switch import kernels_enabled

_AGREES = 1e-3  # of the largest element: a wrong layout is off by its whole size

GUESTS: list[Guest] = []


class Guest:
    """A kind of kernel.

    Args:
        name: as the meter calls it.
        operators: names in `torch.ops.mkldnn`.
        trial: gives (made, expected) for small products, forward and backward.
    """

    def __init__(self, name: str, operators: Sequence[str], trial: Callable[[], Sequence[tuple[Tensor, Tensor]]]):
        self.name, self._operators, self._trial = name, operators, trial
        self._lock = threading.Lock()
        self._tried = False
        self._why: str | None = None
        GUESTS.append(self)

    def refused(self) -> str | None:
        """Why the kernel may not be used here; None where it may."""
        if not kernels_enabled():
            return "kernels are switched off"
        if not self._tried:
            with self._lock:
                if not self._tried:
                    self._why, self._tried = self._tried_out(), True
        return self._why

    def refuse(self, why: str | None) -> None:
        """Leave it out for this reason from now on; None: try it again when it is next in question."""
        self._why, self._tried = why, why is not None

    def exists(self) -> bool:
        """Whether this build of torch has the operators."""
        return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, n) for n in self._operators)

    def _tried_out(self) -> str | None:
        if not self.exists():
            names = ", ".join(f"mkldnn.{n}" for n in self._operators)
            return f"this build of torch has not {names}"
        try:
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                pairs = self._trial()
        except Exception as error:
            return f"a small product raised {reason(error, self.name, (*EXPECTED, NotImplementedError))}"
        off = max(float((made - true).abs().max() / true.abs().max()) for made, true in pairs)
        return None if off <= _AGREES else f"a small product is off by {percent(off)}"


def takes(weight: Tensor) -> bool:
    """Whether kernels are made for such a weight: float32 on a CPU."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def numbers(*shape: int) -> Tensor:
    """Some numbers between -1 and 1 to try a kernel on, without drawing any."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).mul_(0.7).sin_().view(shape)
