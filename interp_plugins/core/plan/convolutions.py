"""3 x 3 convolutions by Winograd's algorithm, forward and backward, where that takes less time on a CPU.

The gradient at the input of such a convolution with padding p is again one: of the gradient at the output, with the
rotated, transposed kernels and padding 2 - p. So both ways run the same code (`core.winograd`), to any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..winograd import Winograd, cost
from .probe import Probe, is_plain
from .view import shallow

_PREPARED = 200  # multiplications that take as long as transforming one element of the kernels
_MOST_BYTES = 96 << 20  # of transformed kernels: memory is to be bounded by the chunk


class _Way:
    """One direction, (N, C, H, W) to (N, K, H', W'), channels-last."""

    def __init__(self, winograd: Winograd, bias: Tensor | None, padding: tuple[int, int]):
        self.winograd, self.bias, self.padding = winograd, bias, padding

    def __call__(self, x: Tensor, bias: bool) -> Tensor:
        """With or without the bias."""
        sizes = [n + 2 * p - 2 for n, p in zip(x.shape[2:], self.padding, strict=True)]
        shape = (len(x), self.winograd.out_channels, *sizes)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        into, given = y.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)
        self.winograd.into(into, given, self.padding, self.bias if bias else None)
        return y


class _Convolution(torch.autograd.Function):
    """A linear map (and a constant) whose derivative goes the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: _Way, back: _Way, bias: bool) -> Tensor:
        ctx.ways = there, back
        return there(x, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        there, back = ctx.ways
        return _Convolution.apply(grad, back, there, False), None, None, None


class WinogradConv2d(nn.Conv2d):
    """Stands in for a convolution in a private view. It holds the transformed kernels only: its weight is NaN."""

    ways: tuple[_Way, _Way]

    @classmethod
    def of(cls, conv: nn.Conv2d) -> WinogradConv2d:
        """The same convolution."""
        mine = shallow(conv)
        mine.__class__ = cls
        assert isinstance(mine, WinogradConv2d)
        there, (py, px) = Winograd(conv.weight), _padding(conv)
        bias = None if conv.bias is None else conv.bias.detach()
        mine.ways = _Way(there, bias, (py, px)), _Way(there.adjoint(), None, (2 - py, 2 - px))
        unread = conv.weight.new_full((), torch.nan).expand(conv.weight.shape)
        mine._parameters["weight"] = nn.Parameter(unread, requires_grad=False)
        return mine

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if x.ndim == 3:
            return self.forward(x[None])[0]
        made: Tensor = _Convolution.apply(x, *self.ways, True)
        return made


def fast(probe: Probe, stand_ins: Mapping[int, nn.Module], rows: int) -> dict[int, nn.Module]:
    """Faster stand-ins for some stand-ins of convolutions, by module id.

    Args:
        probe: the watched pass of few rows, which tells the maps' sizes.
        stand_ins: what stands in for the probed modules; others are left alone.
        rows: rows that are going to be sent through: transforming the kernels has to pay.
    """
    saved: dict[int, float] = {}  # per element of the transformed kernels
    for visit in probe.visits:
        key = id(visit.module)
        conv = stand_ins.get(key)
        if not isinstance(conv, nn.Conv2d) or not is_plain(conv, (nn.Conv2d,)) or not _suits(conv):
            continue
        k, c = conv.weight.shape[:2]
        sizes = [v.gave[0].shape[2:] for v in probe.calls(visit.module)]
        gain = sum(9.0 * h * w * k * c - cost(h, w, c, k) for h, w in sizes)
        saved[key] = rows * gain / (36 * k * c) - _PREPARED
    size, out = 0, dict[int, nn.Module]()
    for key in sorted(saved, key=saved.__getitem__, reverse=True):
        conv = stand_ins[key]
        assert isinstance(conv, nn.Conv2d)
        size += 4 * conv.weight.numel() * conv.weight.element_size()
        if saved[key] <= 0 or size > _MOST_BYTES:
            break
        out[key] = WinogradConv2d.of(conv)
    return out


def _suits(conv: nn.Conv2d) -> bool:
    plain = conv.stride == conv.dilation == (1, 1) and conv.groups == 1 and conv.padding_mode == "zeros"
    return plain and conv.kernel_size == (3, 3) and Winograd.suits(conv.weight)


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    if isinstance(conv.padding, str):
        return (1, 1) if conv.padding == "same" else (0, 0)
    return conv.padding[0], conv.padding[1]
