"""3 x 3 convolution with 36 multiplications per 4 x 4 outputs instead of 144 (Lavin and Gray 2016, arXiv:1509.09308).

F(4 x 4, 3 x 3): tiles of 6 x 6 inputs and the kernels go through small fixed transforms, are multiplied position by
position (36 matrix products over the channels, here one grouped 1 x 1 convolution), and come back as 4 x 4 outputs.
Rounding is about seven times that of the direct sum; applied to a *change*, it is relative to the change, not to the
activation.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .change import padded

TILE = 4
MIN_CHANNELS = 96
_BLOCK = 1 << 20  # elements of transformed inputs that are best worked on at a time: they stay in the cache
_GROUP = 32  # tiles multiplied together: one shape for all calls, since oneDNN lays weights out for a shape
_KERNEL = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)


def tiles(size: int) -> int:
    """Tiles along an axis with so many outputs."""
    return -(-size // TILE)


def cost(height: int, width: int, channels: int, out_channels: int) -> float:
    """What an output map costs, in multiplications of the direct sum; the transforms as measured on AVX-512."""
    per_product = 1.2 + 80 / channels + 80 / out_channels
    return 36 * tiles(height) * tiles(width) * channels * out_channels * per_product


def _rows_per_block(rows: int, tiles_per_row: int, elements_per_tile: int) -> int:
    """Rows worked on together: few tiles in groups that are not full, then near to the best size."""

    def lost(block: int) -> int:
        full, rest = divmod(rows, block)
        return full * (-block * tiles_per_row % _GROUP) + (-rest * tiles_per_row % _GROUP)

    elements = tiles_per_row * elements_per_tile
    fitting = [block for block in range(1, rows + 1) if block == 1 or block * elements <= 2 * _BLOCK]
    return min(fitting, key=lambda block: (lost(block), abs(block * elements - _BLOCK)))


class Winograd:
    """A 3 x 3 convolution, stride 1, one group, without bias, on channels-last maps.

    Args:
        weight: (K, C, 3, 3).
    """

    def __init__(self, weight: Tensor):
        self.out_channels, self.channels = weight.shape[:2]
        both = torch.kron(_KERNEL, _KERNEL).to(weight)  # (36, 9)
        u = both @ weight.reshape(-1, 9).T
        self._u: Tensor = u.view(36 * self.out_channels, self.channels, 1, 1)
        self._packed = False
        self._lock = threading.Lock()

    @staticmethod
    def suits(weight: Tensor) -> bool:
        """Whether it can pay: many channels, in float32, on a CPU with oneDNN."""
        fast = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        return fast and min(weight.shape[:2]) >= MIN_CHANNELS and _pointwise() is not None

    def __call__(self, x: Tensor, pads: Sequence[int], out: tuple[int, int]) -> Tensor:
        """Outputs (R, *out, K) from x (R, h, w, C) with (top, left) zeros before it and as many after it as needed."""
        ty, tx = tiles(out[0]), tiles(out[1])
        rows, h, w, _ = x.shape
        x = padded(x, pads[0], TILE * ty + 2 - h - pads[0], pads[1], TILE * tx + 2 - w - pads[1])
        block = _rows_per_block(rows, ty * tx, 36 * self.channels)
        parts = [self._block(x[r : r + block], ty, tx) for r in range(0, rows, block)]
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return y[:, : out[0], : out[1]]

    def _block(self, x: Tensor, ty: int, tx: int) -> Tensor:
        rows, width, c, k = x.shape[0], x.shape[2], self.channels, self.out_channels
        z = x.new_empty(rows, ty, 6, width, c)
        _forward([x[:, i : i + TILE * ty - 3 : TILE] for i in range(6)], [z[:, :, i] for i in range(6)])
        count = rows * ty * tx
        padding = -count % _GROUP
        flat = x.new_empty(count + padding, 36 * c)
        flat[count:] = 0
        v = flat[:count].view(rows, ty, tx, 6, 6, c)
        columns = [z[:, :, :, i : i + TILE * tx - 3 : TILE].transpose(2, 3) for i in range(6)]
        _forward(columns, [v[:, :, :, :, i] for i in range(6)])
        products = [self._products(flat[i : i + _GROUP]) for i in range(0, len(flat), _GROUP)]
        m = (products[0] if len(products) == 1 else torch.cat(products))[:count].view(rows, ty, tx, 6, 6, k)
        z = x.new_empty(rows, ty, tx, 6, TILE, k)
        _inverse([m[..., i, :] for i in range(6)], [z[..., i, :] for i in range(TILE)])
        y = x.new_empty(rows, ty, TILE, tx, TILE, k)
        _inverse([z[:, :, :, i] for i in range(6)], [y[:, :, i] for i in range(TILE)])
        return y.view(rows, TILE * ty, TILE * tx, k)

    def _products(self, v: Tensor) -> Tensor:
        """(G, 36 * C) to (G, 36 * K): one grouped 1 x 1 convolution over G positions."""
        image = v.view(1, 1, *v.shape).permute(0, 3, 1, 2)
        pointwise = _pointwise() if v.dtype == torch.float32 and v.device.type == "cpu" else None
        if pointwise is None:
            made = F.conv2d(image, self._u, groups=36)
        else:
            if not self._packed:
                self._pack(list(image.shape))
            made = pointwise(image, self._u, None, [0, 0], [1, 1], [1, 1], 36, "none", [], "")
        return made.permute(0, 2, 3, 1).reshape(v.shape[0], -1)

    def _pack(self, shape: list[int]) -> None:
        """Lay the kernels out for oneDNN. The layout depends on the shape; another one costs a copy in each call."""
        with self._lock:
            if not self._packed:
                pack = torch.ops.mkldnn._reorder_convolution_weight
                self._u = pack(self._u, [0, 0], [1, 1], [1, 1], 36, shape)
                self._packed = True


def _pointwise() -> Callable[..., Tensor] | None:
    """OneDNN's convolution with weights in its own layout, where this build of torch has it."""
    ops = torch.ops.mkldnn
    if hasattr(ops, "_convolution_pointwise") and hasattr(ops, "_reorder_convolution_weight"):
        return ops._convolution_pointwise
    return None


def _forward(d: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """B^T d along one axis."""
    d0, d1, d2, d3, d4, d5 = d
    a, b = torch.add(d4, d2, alpha=-4), torch.add(d3, d1, alpha=-4)
    torch.add(a, b, out=out[1])
    torch.sub(a, b, out=out[2])
    torch.add(a.sub_(d2), d0, alpha=4, out=out[0])
    torch.add(d5, d3, alpha=-5, out=b)
    torch.add(b, d1, alpha=4, out=out[5])
    torch.sub(d4, d2, out=a)
    torch.sub(d3, d1, out=b)
    torch.add(a, b, alpha=2, out=out[3])
    torch.add(a, b, alpha=-2, out=out[4])


def _inverse(m: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """A^T m along one axis."""
    m0, m1, m2, m3, m4, m5 = m
    even, odd = m1 + m2, m1 - m2
    even4, odd2 = m3 + m4, m3 - m4
    torch.add(even, even4, alpha=4, out=out[2])
    torch.add(odd, odd2, alpha=2, out=out[1])
    torch.add(even.add_(even4), m0, out=out[0])
    torch.add(odd.add_(odd2, alpha=8), m5, out=out[3])
