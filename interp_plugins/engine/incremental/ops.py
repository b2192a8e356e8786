"""How a change goes through each kind of layer: exactly, and only where it is.

Every operation can do two things: `plain` on ordinary tensors, and `change` on boxes. Linear ones (convolution, average
pooling, sums) take the change as it is; others are evaluated where the change is, with it and without.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.engine.incremental.change import Change, FeatureMap, Geometry, as_map, from_map, padded
from interp_plugins.engine.incremental.regions import AxisKernel, AxisStep, Span, steps
from interp_plugins.engine.kernels import winograd
from interp_plugins.engine.kernels.weight_cache import Kernels, WeightCache

_TILES = 64  # that Winograd's algorithm multiplies at a time: boxes have any size


class Context(Protocol):
    """What an operation sees of the rows it runs for."""

    geometry: Geometry

    def count(self, products: float) -> None:
        """Add to the number of multiplications done."""


class Op:
    """One call of the graph. `inputs` below are changes of `sources`, maps those of the unperturbed pass.

    Attributes:
        reads: the values that a change asks for beside itself: of no map, of the inputs' maps, or of the output's, too.
    """

    reads: Literal["nothing", "inputs", "all"] = "nothing"

    def plain(self, *inputs: Tensor) -> Tensor:
        """The call itself, in the model's layout."""
        raise NotImplementedError

    def change(
        self, at: Context, inputs: Sequence[Change], maps: Sequence[FeatureMap], out: FeatureMap
    ) -> Change | None:
        """The change of the output; None where only the whole map will do."""
        raise NotImplementedError

    def products(self, out: FeatureMap) -> float:
        """Multiplications per map, for counting."""
        return 0.0

    def fewest(self, out: FeatureMap) -> float:
        """Multiplications per map in a planned forward, which knows Winograd's algorithm, too."""
        return self.products(out)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


class Conv(Op):
    """Convolution, with whatever was folded into it; `source`: the parameter that its weight was made of."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        source: Tensor | None = None,
    ):
        self.source = weight if source is None else source
        self.weight = weight.detach().contiguous(memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.detach()
        self.stride, self.dilation, self.groups = _pair(stride), _pair(dilation), groups
        size = tuple(weight.shape[2:])
        if padding == "valid":
            padding = 0
        elif padding == "same":
            padding = tuple(d * (k - 1) // 2 for d, k in zip(self.dilation, size, strict=True))
        self.padding = _pair(padding)
        self.kernels = [
            AxisKernel(k, s, p, d) for k, s, p, d in zip(size, self.stride, self.padding, self.dilation, strict=True)
        ]
        plain_kernel = size == (3, 3) and self.stride == self.dilation == (1, 1) and groups == 1
        suits = plain_kernel and winograd.Winograd.suits(self.weight)
        self.can_be_fast = suits and winograd.WINOGRAD.refused() is None
        self._kernels: Kernels | None = None
        self._kept, self._lock = WeightCache.of_model(), threading.Lock()

    @property
    def fast(self) -> winograd.Winograd:
        """The convolution with fewer multiplications (Winograd); its weights are transformed when first needed."""
        with self._lock:
            if self._kernels is None:
                key = "incremental", id(self.source)
                found = self._kept.get(key, self.weight, _TILES)
                self._kernels = found or self._kept.add(key, Kernels(self.weight, _TILES))
        return self._kernels.form()

    def scaled(self, scale: Tensor, shift: Tensor) -> Conv:
        """This convolution with a channel-wise affine map behind it."""
        dtype = self.weight.dtype
        weight = self.weight.double() * scale.double().view(-1, 1, 1, 1)
        bias = shift.double() + (0 if self.bias is None else self.bias.double() * scale.double())
        options = self.stride, self.padding, self.dilation, self.groups
        return Conv(weight.to(dtype), bias.to(dtype), *options, self.source)

    def plain(self, *inputs: Tensor) -> Tensor:
        """The convolution with its bias."""
        return F.conv2d(inputs[0], self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def change(self, at: Context, inputs: Sequence[Change], maps: Sequence[FeatureMap], out: FeatureMap) -> Change:
        """Zeros around the box, no bias."""
        given = at.geometry.clean(inputs[0])
        sy, sx = steps(given.y, given.x, self.kernels, out.extents)
        given = given.moved(sy.given, sx.given)
        height, width = sy.out.size, sx.out.size
        k, c = self.weight.shape[:2]
        rows, direct = given.delta.shape[0], float(height * width * self.weight.numel())
        in_tiles = self.can_be_fast and winograd.tiles(width) <= _TILES
        if in_tiles and winograd.cost(height, width, c, k) < direct:
            at.count(rows * winograd.cost(height, width, c, k))
            delta = self.fast(given.delta, (sy.before, sx.before), (height, width))
        else:
            at.count(rows * direct)
            delta = self._direct(given.delta, sy, sx)
        return Change(delta, sy.out, sx.out, dirty=sy.out.hangs or sx.out.hangs)

    def _direct(self, delta: Tensor, sy: AxisStep, sx: AxisStep) -> Tensor:
        padding = (sy.before, sx.before)
        if sy.before != sy.after or sx.before != sx.after or min(padding) < 0:
            delta, padding = padded(delta, sy.before, sy.after, sx.before, sx.after), (0, 0)
        image = delta.permute(0, 3, 1, 2)
        made = F.conv2d(image, self.weight, None, self.stride, padding, self.dilation, self.groups)
        return made.permute(0, 2, 3, 1).contiguous()

    def products(self, out: FeatureMap) -> float:
        """Height x width x kernel."""
        return float(out.extents[0] * out.extents[1] * self.weight.numel())

    def fewest(self, out: FeatureMap) -> float:
        """Multiplications of the convolution as `engine.plan` would run it."""
        k, c = self.weight.shape[:2]
        return min(self.products(out), winograd.cost(*out.extents, c, k)) if self.can_be_fast else self.products(out)


class Dense(Op):
    """A linear layer over the channels of (N, H, W, C)."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight, self.bias = weight.detach(), bias

    def plain(self, *inputs: Tensor) -> Tensor:
        """The layer on whole maps, with its bias."""
        return F.linear(inputs[0], self.weight, self.bias)

    def change(self, at: Context, inputs: Sequence[Change], maps: Sequence[FeatureMap], out: FeatureMap) -> Change:
        """The layer on a change: the weight alone, since the bias cancels."""
        (given,) = inputs
        at.count(given.delta[..., 0].numel() * float(self.weight.numel()))
        return given.like(F.linear(given.delta, self.weight))

    def products(self, out: FeatureMap) -> float:
        """Multiplications of the layer on a whole map."""
        return float(out.extents[0] * out.extents[1] * self.weight.numel())


class Rectifier(Op):
    """ReLU: relu(p + d) - relu(p) = max(d, -p) + min(p, 0), without rounding where the unit stays on."""

    reads = "inputs"

    def plain(self, *inputs: Tensor) -> Tensor:
        """ReLU of whole maps."""
        return F.relu(inputs[0])

    def change(self, at: Context, inputs: Sequence[Change], maps: Sequence[FeatureMap], out: FeatureMap) -> Change:
        """Outside of the map the two terms cancel, so the box becomes clean."""
        (given,), (p,) = inputs, maps
        large = torch.finfo(given.delta.dtype).max / 4
        low = p.crop(at.geometry, given.y, given.x, outside=large, name="low", derive=torch.neg)
        off = p.crop(at.geometry, given.y, given.x, outside=-large, name="off", derive=_negative_part)
        return given.like(torch.maximum(given.delta, low).add_(off), dirty=False)


def _negative_part(t: Tensor) -> Tensor:
    return t.clamp_max(0)


class Pointwise(Op):
    """A function of each position alone.

    Args:
        function: on tensors in the model's layout.
        layout: that layout.
        linear: f(p + d) - f(p) as a function of d, where that needs no p.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        layout: str,
        *,
        linear: Callable[[Tensor], Tensor] | None = None,
    ):
        self.function, self.layout, self.linear = function, layout, linear
        self.affine: tuple[Tensor, Tensor] | None = None  # scale and shift per channel, where it is that
        self.reads = "all" if linear is None else "nothing"

    def plain(self, *inputs: Tensor) -> Tensor:
        """The function, applied to whole maps."""
        return self.function(inputs[0])

    def _on(self, function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
        return as_map(function(from_map(t, self.layout)), self.layout)

    def change(self, at: Context, inputs: Sequence[Change], maps: Sequence[FeatureMap], out: FeatureMap) -> Change:
        """With the change and without."""
        (given,), (p,) = inputs, maps
        if self.linear is not None:
            return given.like(self._on(self.linear, given.delta))
        new = self._on(self.function, given.delta + p.crop(at.geometry, given.y, given.x))
        return given.like(new.sub_(out.crop(at.geometry, given.y, given.x)))


class _OneCall(Op):
    """An operation that is one call of the model's own, of one map.

    Args:
        function: the call itself.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.function = function

    def plain(self, *inputs: Tensor) -> Tensor:
        """The model's own call, applied to whole maps."""
        return self.function(inputs[0])


class Same(_OneCall):
    """What leaves values as they are: dropout, another layout, a constant added."""

    def change(self, at: Context, inputs: Sequence[Change], maps: Sequence[FeatureMap], out: FeatureMap) -> Change:
        """The change as it came: these calls leave it as it is."""
        return inputs[0]


class Add(Op):
    """a + sign * b."""

    def __init__(self, sign: int = 1):
        self.sign = sign

    def plain(self, *inputs: Tensor) -> Tensor:
        """Sum or difference of two whole maps."""
        return torch.add(inputs[0], inputs[1], alpha=self.sign)

    def change(
        self, at: Context, inputs: Sequence[Change], maps: Sequence[FeatureMap], out: FeatureMap
    ) -> Change | None:
        """The sum of two changes, in a box that holds both."""
        if maps[0].data.shape != maps[1].data.shape:
            return None
        a, b = _joined(inputs)
        return a.like(torch.add(a.delta, b.delta, alpha=self.sign), dirty=a.dirty or b.dirty)


class Multiply(Op):
    """a * b: (p + d)(q + e) - p q = d (q + e) + p e."""

    reads = "inputs"

    def plain(self, *inputs: Tensor) -> Tensor:
        """Product of two whole maps."""
        return inputs[0] * inputs[1]

    def change(
        self, at: Context, inputs: Sequence[Change], maps: Sequence[FeatureMap], out: FeatureMap
    ) -> Change | None:
        """One factor may be a single position that scales the whole other map (squeeze and excitation)."""
        if maps[0].extents != maps[1].extents:
            inputs = [at.geometry.clean(c).whole() for c in inputs]
            a, b = inputs
        else:
            a, b = _joined(inputs)
        p = maps[0].crop(at.geometry, a.y, a.x)
        q = maps[1].crop(at.geometry, b.y, b.x)
        boxes = a if maps[0].extents == out.extents else b
        return boxes.like(a.delta * (b.delta + q) + p * b.delta, dirty=a.dirty or b.dirty)


def _joined(inputs: Sequence[Change]) -> list[Change]:
    y, x = inputs[0].y, inputs[0].x
    for other in inputs[1:]:
        y, x = y.join(other.y), x.join(other.x)
    return [c.moved(y, x) for c in inputs]


class Concat(Op):
    """Channels of several maps side by side."""

    def __init__(self, dim: int):
        self.dim = dim

    def plain(self, *inputs: Tensor) -> Tensor:
        """Whole maps side by side along the channels."""
        return torch.cat(inputs, self.dim)

    def change(self, at: Context, inputs: Sequence[Change], maps: Sequence[FeatureMap], out: FeatureMap) -> Change:
        """Changes side by side, in a box that holds all of them."""
        many = _joined(inputs)
        return many[0].like(torch.cat([c.delta for c in many], 3), dirty=any(c.dirty for c in many))


class MaxPool(Op):
    """Evaluated on the box with its surroundings."""

    reads = "all"

    def __init__(self, size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool):
        self.size, self.padding, self.dilation, self.ceil_mode = _pair(size), _pair(padding), _pair(dilation), ceil_mode
        self.stride = self.size if stride is None or stride == [] else _pair(stride)
        self.kernels = [AxisKernel(*v) for v in zip(self.size, self.stride, self.padding, self.dilation, strict=True)]

    def plain(self, *inputs: Tensor) -> Tensor:
        """Max pooling of whole maps."""
        return F.max_pool2d(inputs[0], self.size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def change(self, at: Context, inputs: Sequence[Change], maps: Sequence[FeatureMap], out: FeatureMap) -> Change:
        """Minus infinity outside, as PyTorch pads."""
        given = at.geometry.clean(inputs[0])
        sy, sx = steps(given.y, given.x, self.kernels, out.extents)
        given = given.moved(sy.given, sx.given)
        read_y, read_x = _read(sy), _read(sx)
        crop = maps[0].crop(at.geometry, read_y, read_x, outside=float("-inf"))
        patch = padded(given.delta, sy.before, sy.after, sx.before, sx.after)
        pooled = F.max_pool2d((patch + crop).permute(0, 3, 1, 2), self.size, self.stride, 0, self.dilation)
        delta = pooled.permute(0, 2, 3, 1) - out.crop(at.geometry, sy.out, sx.out)
        return Change(delta, sy.out, sx.out, dirty=sy.out.hangs or sx.out.hangs)


def _read(s: AxisStep) -> Span:
    """The input positions that a step reads."""
    return Span(s.given.start - s.before, s.before + s.given.size + s.after, s.given.extent)


class AvgPool(Op):
    """Sums of the change; the divisor at each output is that of the plain pooling."""

    def __init__(self, size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool, divisor: Any):
        self.size, self.padding = _pair(size), _pair(padding)
        self.stride = self.size if stride is None or stride == [] else _pair(stride)
        self.rest = (ceil_mode, count_include_pad, divisor)
        self.kernels = [AxisKernel(*v) for v in zip(self.size, self.stride, self.padding, strict=True)]
        self.factors: FeatureMap | None = None

    def plain(self, *inputs: Tensor) -> Tensor:
        """Average pooling of whole maps."""
        return F.avg_pool2d(inputs[0], self.size, self.stride, self.padding, *self.rest)

    def change(self, at: Context, inputs: Sequence[Change], maps: Sequence[FeatureMap], out: FeatureMap) -> Change:
        """The change summed over each window, times the factor of the output."""
        given = at.geometry.clean(inputs[0])
        sy, sx = steps(given.y, given.x, self.kernels, out.extents)
        given = given.moved(sy.given, sx.given)
        image = padded(given.delta, sy.before, sy.after, sx.before, sx.after).permute(0, 3, 1, 2)
        sums = F.avg_pool2d(image, self.size, self.stride, divisor_override=1).permute(0, 2, 3, 1)
        factors = self._factors(maps[0]).crop(at.geometry, sy.out, sx.out)
        return Change(sums * factors, sy.out, sx.out, dirty=sy.out.hangs or sx.out.hangs)

    def _factors(self, p: FeatureMap) -> FeatureMap:
        """Average over sum, for one map of ones with one corner of a kernel always inside."""
        if self.factors is None or self.factors.data.device != p.data.device:
            ones = p.data.new_ones(1, 1, *p.extents)
            average = self.plain(ones)
            full = [(n - 1) * k.stride + k.size for n, k in zip(average.shape[2:], self.kernels, strict=True)]
            wide = F.pad(
                ones,
                (
                    self.padding[1],
                    max(0, full[1] - self.padding[1] - p.extents[1]),
                    self.padding[0],
                    max(0, full[0] - self.padding[0] - p.extents[0]),
                ),
            )
            total = F.avg_pool2d(wide, self.size, self.stride, divisor_override=1)
            total = total[:, :, : average.shape[2], : average.shape[3]]
            self.factors = FeatureMap((average / total)[0].permute(1, 2, 0))
        return self.factors


class GlobalMean(_OneCall):
    """The mean over all positions; the call gives (N, C, 1, 1) or (N, 1, 1, C)."""

    def change(self, at: Context, inputs: Sequence[Change], maps: Sequence[FeatureMap], out: FeatureMap) -> Change:
        """The change's sum over the number of positions."""
        given = at.geometry.clean(inputs[0])
        height, width = maps[0].extents
        one = Span(np.zeros_like(given.y.start), 1, 1)
        return Change(given.delta.sum((1, 2), keepdim=True) / (height * width), one, one)
