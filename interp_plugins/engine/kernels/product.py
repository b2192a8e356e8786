"""Products with a matrix in oneDNN's own layout, which on CPUs other than Intel's takes a tenth or two less time."""

from __future__ import annotations

import torch
from torch import Tensor

from interp_plugins.engine.kernels import onednn

_ROWS = 1024  # that the layout is made for; it is the same for any number


class Product:
    """x W^T + b.

    Args:
        weight: (O, I), float32 on a CPU.
    """

    def __init__(self, weight: Tensor):
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
        self._size = len(weight)

    @staticmethod
    def suits(weight: Tensor) -> bool:
        """Whether this build of torch has it for such a weight."""
        return onednn.has(weight, "_linear_pointwise", "_reorder_linear_weight")

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(..., O) from (..., I)."""
        flat = x.reshape(-1, x.shape[-1])
        made: Tensor = torch.ops.mkldnn._linear_pointwise(flat, self._packed, bias, "none", [], "")
        return made.view(*x.shape[:-1], self._size)
