"""3 x 3 convolutions by Winograd's algorithm, forward and backward, where that takes less time on a CPU.

The gradient at the input of such a convolution with padding p is again one: of the gradient at the output, with the
rotated, transposed kernels and padding 2 - p. So both ways run the same code (`engine.kernels.winograd`), to any
order. The way back is prepared when it is first gone: perturbation methods never do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_plugins.engine.kernels.weight_cache import Kernels
from interp_plugins.engine.kernels.winograd import Winograd, at_once, cost, tiles
from interp_plugins.engine.plan.linear_map import Candidate, LinearDirection, apply
from interp_plugins.engine.plan.tracer import Tracer, is_plain
from interp_plugins.engine.plan.view import with_class

_PREPARED = 250  # multiplications that take as long as transforming one element of the kernels
_FEWEST = 16  # tiles in a product: with fewer it takes as long as reading the kernels does


class _ConvDirection(LinearDirection):
    """(N, C, H, W) to (N, K, H', W'), channels-last.

    Attributes:
        fewest: tiles below which the direct sum is faster.
    """

    name = "winograd"

    def __init__(
        self,
        kernels: Kernels,
        bias: Tensor | None,
        padding: tuple[int, int],
        fewest: int,
        opposite: _ConvDirection | None = None,
    ):
        super().__init__(opposite)
        self.bias, self.padding, self.fewest, self._kernels = bias, padding, fewest, kernels

    @property
    def weight(self) -> Tensor:
        """The kernels as they were before they were transformed."""
        return self._kernels.weight

    def _turned(self) -> _ConvDirection:
        py, px = self.padding
        return _ConvDirection(self._kernels, None, (2 - py, 2 - px), self.fewest, self)

    def __call__(self, x: Tensor, bias: bool) -> Tensor:
        """With or without the bias."""
        height, width = self._out(x)
        if not self.is_fast(x):
            return self.direct(x, bias)
        given = self.bias if bias else None
        winograd = self._kernels.form(back=self.is_back)
        shape = (len(x), winograd.out_channels, height, width)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        winograd.into(y.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1), self.padding, given)
        return y

    def is_fast(self, x: Tensor) -> bool:
        """Whether there are enough tiles."""
        height, width = self._out(x)
        return len(x) * tiles(height) * tiles(width) >= self.fewest

    def _out(self, x: Tensor) -> tuple[int, int]:
        height, width = (n + 2 * p - 2 for n, p in zip(x.shape[2:], self.padding, strict=True))
        return height, width

    def enable_small_batches(self) -> None:
        """Let calls with less than half of the tiles run directly."""
        self.fewest = self._kernels.count // 2
        if isinstance(self.back, _ConvDirection):
            self.back.fewest = self.fewest

    def direct(self, x: Tensor, bias: bool) -> Tensor:
        """The sum as torch has it."""
        weight, given = self._kernels.weight, self.bias if bias else None
        if self.is_back:
            y = F.conv_transpose2d(x, weight, given, padding=[2 - p for p in self.padding])
        else:
            y = F.conv2d(x, weight, given, padding=self.padding)
        return y.contiguous(memory_format=torch.channels_last)


class WinogradConv2d(nn.Conv2d):
    """Stands in for a convolution in a private view. It holds the transformed kernels only: its weight is NaN."""

    direction: _ConvDirection

    @classmethod
    def of(cls, conv: nn.Conv2d, kernels: Kernels) -> WinogradConv2d:
        """A stand-in that runs the convolution by its transformed kernels."""
        mine = with_class(cls, conv)
        mine.direction = _ConvDirection(
            kernels, None if conv.bias is None else conv.bias.detach(), _padding(conv), fewest=0
        )
        unread = conv.weight.new_full((), torch.nan).expand(conv.weight.shape)
        mine._parameters["weight"] = nn.Parameter(unread, requires_grad=False)
        return mine

    def enable_small_batches(self) -> None:
        """From now on (it was checked), let calls with few rows run directly."""
        self.direction.enable_small_batches()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve pictures (N, C, H, W) or one picture (C, H, W)."""
        if x.ndim == 3:
            return self.forward(x[None])[0]
        return apply(self.direction, x)


def winograd_candidates(
    probe: Tracer, stand_ins: Mapping[int, nn.Module], rows: int
) -> Iterator[Candidate[WinogradConv2d]]:
    """Convolutions among the stand-ins that could run faster.

    Args:
        probe: the watched pass, which tells the maps' sizes.
        stand_ins: what stands in for the probed modules, channels-last.
        rows: at a time.
    """
    for module in dict.fromkeys(visit.module for visit in probe.visits):
        conv = stand_ins.get(id(module))
        if not isinstance(conv, nn.Conv2d) or not is_plain(conv, (nn.Conv2d,)) or not _suits(conv):
            continue
        k, c = conv.weight.shape[:2]
        sizes = [v.gave[0].shape[2:] for v in probe.calls(module)]
        saved = sum(9.0 * h * w * k * c - cost(h, w, c, k) for h, w in sizes)
        count = max(at_once(rows, h, w, c) for h, w in sizes)
        if saved > 0 and count >= _FEWEST:
            yield Candidate(module, conv, WinogradConv2d.of, saved, _PREPARED, count)


def _suits(conv: nn.Conv2d) -> bool:
    plain = conv.stride == conv.dilation == (1, 1) and conv.groups == 1 and conv.padding_mode == "zeros"
    return plain and conv.kernel_size == (3, 3) and Winograd.suits(conv.weight)


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    if isinstance(conv.padding, str):
        return (1, 1) if conv.padding == "same" else (0, 0)
    return conv.padding[0], conv.padding[1]
