"""Products with a matrix in oneDNN's own layout, which on CPUs other than Intel's takes a tenth or two less time."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 1024  # that the layout is made for; it is the same for any number


class Product:
    """x W^T + b.

    Args:
        weight: (O, I), float32 on a CPU.
    """

    def __init__(self, weight: Tensor):
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
        self._size, self.nbytes = len(weight), weight.nbytes

    @staticmethod
    def suits(weight: Tensor) -> bool:
        """Whether this build of torch has it for such a weight."""
        ops = torch.ops.mkldnn
        there = hasattr(ops, "_linear_pointwise") and hasattr(ops, "_reorder_linear_weight")
        fast = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        return fast and there

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(..., O) from (..., I)."""
        flat = x.reshape(-1, x.shape[-1])
        made: Tensor = torch.ops.mkldnn._linear_pointwise(flat, self._packed, bias, "none", [], "")
        return made.view(*x.shape[:-1], self._size)
