"""3 x 3 convolutions by Winograd's algorithm, forward and backward, where that takes less time on a CPU.

The gradient at the input of such a convolution with padding p is again one: of the gradient at the output, with the
rotated, transposed kernels and padding 2 - p. So both ways run the same code (`core.winograd`), to any order. The way
back is prepared when it is first gone: perturbation methods never do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..winograd import Winograd, cost
from .probe import Probe, is_plain
from .view import shallow

_PREPARED = 250  # multiplications that take as long as transforming one element of the kernels
_MOST_BYTES = 64 << 20  # of transformed kernels, for each way: memory is to be bounded by the chunk


class _Way:
    """One direction, (N, C, H, W) to (N, K, H', W'), channels-last, and the other one."""

    def __init__(self, weight: Tensor, bias: Tensor | None, padding: tuple[int, int], back: _Way | None = None):
        self.winograd, self.bias, self.padding, self._back = Winograd(weight), bias, padding, back
        self._weight = weight if back is None else None

    @property
    def back(self) -> _Way:
        """From the gradient at the output to the one at the input."""
        if self._weight is not None:
            turned, (py, px) = self._weight.transpose(0, 1).flip(2, 3), self.padding
            self._back, self._weight = _Way(turned, None, (2 - py, 2 - px), self), None
        assert self._back is not None
        return self._back

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
    def forward(ctx: Any, x: Tensor, way: _Way, bias: bool) -> Tensor:
        ctx.way = way
        return way(x, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Convolution.apply(grad, ctx.way.back, False), None, None


class WinogradConv2d(nn.Conv2d):
    """Stands in for a convolution in a private view. It holds the transformed kernels only: its weight is NaN."""

    way: _Way

    @classmethod
    def of(cls, conv: nn.Conv2d) -> WinogradConv2d:
        """The same convolution."""
        mine = shallow(conv)
        mine.__class__ = cls
        assert isinstance(mine, WinogradConv2d)
        mine.way = _Way(conv.weight.detach(), None if conv.bias is None else conv.bias.detach(), _padding(conv))
        unread = conv.weight.new_full((), torch.nan).expand(conv.weight.shape)
        mine._parameters["weight"] = nn.Parameter(unread, requires_grad=False)
        return mine

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if x.ndim == 3:
            return self.forward(x[None])[0]
        made: Tensor = _Convolution.apply(x, self.way, True)
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
