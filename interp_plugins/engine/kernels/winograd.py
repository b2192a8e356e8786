"""3 x 3 convolution with 36 multiplications per 4 x 4 outputs instead of 144 (Lavin and Gray 2016, arXiv:1509.09308).

F(4 x 4, 3 x 3): tiles of 6 x 6 inputs and the kernels go through small fixed transforms, are multiplied position by
position, and come back as 4 x 4 outputs. Here all three steps are matrix products: both axes of a transform are one
36 x 36 (16 x 36) matrix over the channels of a tile, and the 36 products over the channels are one batched product. So
the interpolation points cost nothing, and they are such that there is little rounding (Barabasz et al. 2020,
arXiv:1803.10986): twice that of the direct sum, where small integers have five times.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.engine.kernels.guest import Guest, numbers, takes

TILE = 4
MIN_CHANNELS = 32
_POINTS = ((0, 1), (0.75, 1), (-0.75, 1), (1.5, 1), (-1.5, 1), (1, 0))  # a / b
_AT_ONCE = 1 << 14  # elements of inputs (36 times as many transformed) that are best worked on at a time
_MOST, _MOST_NARROW = 128, 256  # tiles in a product; the larger number where channels are few
_ENOUGH = 96  # tiles from which on a product runs at full speed


@lru_cache
def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Toom and Cook's A^T (16, 36), B^T (36, 36) and G (36, 9) for both axes: y = A^T ((G g) * (B^T d)), in float64."""
    a, b = np.array(_POINTS).T

    def powers(count: int) -> np.ndarray:
        return np.stack([a**i * b ** (count - 1 - i) for i in range(count)], 1)

    size = len(_POINTS)
    one_axis = powers(TILE).T, np.linalg.inv(powers(size)).T, powers(size - TILE + 1)
    out, into, kernel = (torch.from_numpy(np.kron(m, m)) for m in one_axis)
    return out, into, kernel


def tiles(size: int) -> int:
    """Tiles along an axis with so many outputs."""
    return -(-size // TILE)


def cost(height: int, width: int, channels: int, out_channels: int) -> float:
    """What an output map costs, in multiplications of oneDNN's direct sum; as measured on AVX-512."""
    per_product = 1.3 + 75 / channels + 120 / out_channels
    return 36 * tiles(height) * tiles(width) * channels * out_channels * per_product


def at_once(rows: int, height: int, width: int, channels: int) -> int:
    """Tiles that are best multiplied at a time for so many output maps: whole maps or lines of tiles, few left over."""
    most = min(max(_AT_ONCE // channels, _MOST), _MOST_NARROW)
    unit, units = tiles(height) * tiles(width), rows
    if unit > most:
        unit, units = tiles(width), tiles(height)
    sizes = [n for n in range(1, units + 1) if n * unit <= most] or [1]
    enough = [n for n in sizes if n * unit >= _ENOUGH] or sizes[-1:]
    return unit * min(enough, key=lambda n: (-(-units // n) * n, -n))


class Winograd:
    """A 3 x 3 convolution, stride 1, one group, on channels-last maps.

    A tile's outputs do not depend on other tiles, but infinity or NaN anywhere in a tile reaches all of its outputs.

    Args:
        weight: (K, C, 3, 3), float32 or float64.
        count: tiles that are multiplied at a time, at least those of a line. oneDNN lays kernels out for a number of
            positions and, for some other numbers, anew in every call, which takes 20 to 100 times as long as the
            product; which numbers depends on channels and processor. So it is always this one.
    """

    def __init__(self, weight: Tensor, count: int):
        self.count = count
        self.out_channels, self.channels = weight.shape[:2]
        out, into, kernel = _matrices()
        self._in, self._out = into.to(weight), out.to(weight)
        flat = weight.detach().permute(2, 3, 0, 1).reshape(9, -1)
        u = (kernel.to(weight) @ flat).view(36, self.out_channels, self.channels)
        self._products = _Packed(u, count) if _can_pack(weight) else _Batched(u.transpose(1, 2))

    @staticmethod
    def suits(weight: Tensor) -> bool:
        """Whether it can pay: some channels, in float32, on a CPU (and `WINOGRAD` is not refused)."""
        return takes(weight) and min(weight.shape[:2]) >= MIN_CHANNELS

    def __call__(self, x: Tensor, pads: Sequence[int], out: tuple[int, int]) -> Tensor:
        """Outputs (R, *out, K) from x (R, h, w, C) with (top, left) zeros before it and as many after it as needed."""
        y = x.new_empty(len(x), *out, self.out_channels)
        self.into(y, x, pads)
        return y

    def into(self, y: Tensor, x: Tensor, pads: Sequence[int], bias: Tensor | None = None) -> None:
        """The convolution, and a bias (K,), written into y. Negative pads cut off."""
        if not y.numel():
            return
        ty, tx = tiles(y.shape[1]), tiles(y.shape[2])
        lines = max(1, self.count // tx)
        for rows, patches in self._patches(x, pads, ty, tx):
            for part in _parts(ty, lines):
                self._tiles_into(y[rows, part.start * TILE : part.stop * TILE], patches[:, part], bias)

    def _patches(self, x: Tensor, pads: Sequence[int], ty: int, tx: int) -> Iterator[tuple[slice, Tensor]]:
        """Some rows at a time, and views (r, ty, tx, 6, 6, C) of what each tile reads, zeros included."""
        height, width = TILE * ty + 2, TILE * tx + 2
        blocks = _parts(len(x), max(1, self.count // (ty * tx)))
        room = None
        if pads[0] or pads[1] or x.shape[1] < height or x.shape[2] < width:
            (from_y, to_y), (from_x, to_x) = map(_placed, x.shape[1:3], pads, (height, width))
            room = x.new_zeros(blocks[0].stop, height, width, x.shape[3])
        for rows in blocks:
            given = x[rows]
            if room is not None:
                room[: len(given), to_y, to_x] = given[:, from_y, from_x]
                given = room[: len(given)]
            given = given[:, :height, :width]
            yield rows, given.unfold(1, 6, TILE).unfold(2, 6, TILE).permute(0, 1, 2, 4, 5, 3)

    def _tiles_into(self, y: Tensor, patches: Tensor, bias: Tensor | None) -> None:
        """The outputs (r, h, w, K) of some tiles, written into y."""
        rows, ty, tx = patches.shape[:3]
        count = rows * ty * tx
        v = torch.bmm(self._in.expand(count, 36, 36), patches.reshape(count, 36, -1))
        z = torch.bmm(self._out.expand(count, TILE**2, 36), self._products(v))
        z = z.view(rows, ty, tx, TILE, TILE, -1).transpose(2, 3)
        height, width = y.shape[1:3]
        for there_y, in_y, high in _edges(height):
            for there_x, in_x, wide in _edges(width):
                part = y[:, there_y, there_x].unflatten(2, (-1, wide)).unflatten(1, (-1, high))
                made = z[:, in_y, :high, in_x, :wide]
                if bias is None:
                    part.copy_(made)
                else:
                    torch.add(made, bias, out=part)


class _Batched:
    """(T, 36, C) to (T, 36, K), position by position, by kernels (36, C, K)."""

    def __init__(self, u: Tensor):
        self.u = u

    def __call__(self, v: Tensor) -> Tensor:
        """Multiply transformed tiles by the kernels: (T, 36, C) to (T, 36, K)."""
        made = v.new_empty(len(v), 36, self.u.shape[2])
        torch.bmm(v.transpose(0, 1), self.u, out=made.transpose(0, 1))
        return made


class _Packed:
    """What `_Batched` does, as one grouped 1 x 1 convolution by kernels (36, K, C) that oneDNN laid out for T tiles.

    On processors without AVX-512 the layout is also one for a number of threads; another number would have the kernels
    laid out anew in every call. So a thread pool of another size has them laid out again, once.
    """

    def __init__(self, u: Tensor, count: int):
        self.count, self._channels = count, u.shape[2]
        self._lock = threading.Lock()
        self._laid = self._lay(u.reshape(-1, u.shape[2], 1, 1))

    def _lay(self, u: Tensor) -> tuple[int, Tensor]:
        """The threads of a call from here, and kernels (36 K, C, 1, 1) laid out for them."""
        image = [1, 36 * self._channels, 1, self.count]
        laid = torch.ops.mkldnn._reorder_convolution_weight(u, [0, 0], [1, 1], [1, 1], 36, image)
        return torch.get_num_threads(), laid

    def _kernels(self) -> Tensor:
        threads, laid = self._laid
        if threads == torch.get_num_threads():
            return laid
        with self._lock:
            if self._laid[0] != torch.get_num_threads():
                self._laid = self._lay(self._laid[1].to_dense())
            return self._laid[1]

    def __call__(self, v: Tensor) -> Tensor:
        """Multiply T tiles or fewer."""
        count = len(v)
        if count < self.count:
            v = torch.cat([v, v.new_zeros(self.count - count, *v.shape[1:])])
        image = v.view(1, 1, len(v), -1).permute(0, 3, 1, 2)
        made: Tensor = torch.ops.mkldnn._convolution_pointwise(
            image, self._kernels(), None, [0, 0], [1, 1], [1, 1], 36, "none", [], ""
        )
        return made.permute(0, 2, 3, 1).reshape(len(v), 36, -1)[:count]


def _can_pack(weight: Tensor) -> bool:
    return takes(weight) and WINOGRAD.exists()


def _trial() -> list[tuple[Tensor, Tensor]]:
    x, weight = numbers(2, MIN_CHANNELS, 7, 8), numbers(MIN_CHANNELS, MIN_CHANNELS, 3, 3)

    def made(weight: Tensor) -> Tensor:
        return Winograd(weight, 5)(x.permute(0, 2, 3, 1), (1, 1), (7, 8)).permute(0, 3, 1, 2)

    back = made(weight.transpose(0, 1).flip(2, 3))
    return [(made(weight), F.conv2d(x, weight, padding=1)), (back, F.conv_transpose2d(x, weight, padding=1))]


WINOGRAD = Guest("winograd", ("_convolution_pointwise", "_reorder_convolution_weight"), _trial)


def _parts(count: int, most: int) -> list[slice]:
    """Slices of so many, and a shorter last one."""
    return [slice(start, min(count, start + most)) for start in range(0, count, most)]


def _placed(size: int, before: int, room: int) -> tuple[slice, slice]:
    """From where in an axis to where in a room that starts so many positions before it."""
    start = max(0, -before)
    length = min(size - start, room - max(0, before))
    return slice(start, start + length), slice(max(0, before), max(0, before) + length)


def _edges(size: int) -> Iterator[tuple[slice, slice, int]]:
    """Positions of an axis that fill whole tiles, their tiles, and the tile; and the same for what is left."""
    whole, left = divmod(size, TILE)
    if whole:
        yield slice(0, whole * TILE), slice(0, whole), TILE
    if left:
        yield slice(whole * TILE, size), slice(whole, whole + 1), left
