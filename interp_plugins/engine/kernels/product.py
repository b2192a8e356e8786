"""Products with a matrix in oneDNN's own layout, which on CPUs other than Intel's takes a tenth or two less time."""

from __future__ import annotations

import torch
from torch import Tensor

from interp_plugins.engine.kernels.guest import Guest, numbers

_ROWS = 1024  # that the layout is made for; it is the same for any number


class Product:
    """x W^T + b.

    Args:
        weight: (O, I), float32 on a CPU.
    """

    def __init__(self, weight: Tensor):
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
        self._size = len(weight)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(..., O) from (..., I)."""
        flat = x.reshape(-1, x.shape[-1])
        made: Tensor = torch.ops.mkldnn._linear_pointwise(flat, self._packed, bias, "none", [], "")
        return made.view(*x.shape[:-1], self._size)


def _trial() -> list[tuple[Tensor, Tensor]]:
    x, weight, bias = numbers(5, 24), numbers(16, 24), numbers(16)
    back = Product(weight.t())(x[:, :16], None)
    return [(Product(weight)(x, bias), x @ weight.t() + bias), (back, x[:, :16] @ weight)]


PACKED = Guest("packed linear", ("_linear_pointwise", "_reorder_linear_weight"), _trial)
