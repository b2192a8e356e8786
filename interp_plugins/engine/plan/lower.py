"""Lower precision where it is asked for: what a view runs in, and the way back through its layers.

A loop that goes backward keeps its forward pass: rounded, it puts units on the other side of their kinks, and a map of
a trained ReLU net is off by 5 to 45 % in bfloat16. The way back is linear, and its rounding costs 0.2 to 1.2 %. So
gradients alone go through convolutions and linear layers in lower precision there; a loop of forward passes is lowered
as a whole (`engine.plan.lowered`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_plugins.engine.meter import dropped, used
from interp_plugins.engine.meter import read as read_meter
from interp_plugins.engine.plan.convolutions import WinogradConv2d
from interp_plugins.engine.plan.tracer import Tracer, is_plain
from interp_plugins.engine.plan.view import shallow
from interp_plugins.engine.switch import PRECISIONS, asked_precision

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
IN_BOTH = 4  # samples of a loop whose gradients run in both precisions, some of their rows
NOTHING_FASTER = "float32 is the fastest here (a CPU needs AMX or AVX-512 BF16 for bfloat16 to be faster)"
_CHANGES = ("incremental", "walker")  # what `used` begins with where scores are computed from what changed
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def lower_dtype(device: torch.device) -> torch.dtype | None:
    """What loops on a device run in below float32, as it was asked for; None: nothing lower.

    "auto" takes what the device computes faster: bfloat16 on CPUs with AMX or AVX-512 BF16, and on GPUs that have it,
    float16 on others.
    """
    asked = asked_precision()
    if asked != "auto":
        return DTYPES.get(asked)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type != "cpu":
        return None
    has = [getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    return torch.bfloat16 if any(one is not None and one() for one in has) else None


class Lower:
    """The precision of one view, which can be switched off for rows that run in float32 as well.

    Args:
        dtype: the lower one.

    Attributes:
        on: whether it is used.
        left: samples that may still be run in both precisions.
        settled: whether it was decided that it stays as it is.
        worst: the largest error found so far.
        rows: rows that ran in both.
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype, self.on = dtype, True
        self.left, self.settled = IN_BOTH, False
        self.worst, self.rows = 0.0, 0

    def begin(self) -> Lower:
        """Before a loop: its rows may be run in both precisions again."""
        self.left = self.left or IN_BOTH
        return self

    @property
    def name(self) -> str:
        """As torch calls it."""
        return str(self.dtype).removeprefix("torch.")

    def leave(self, why: str) -> None:
        """Go on in float32, and say why."""
        self.on = False
        dropped(self.name, why)

    def take(self, what: str) -> None:
        """Say what runs in it."""
        used(self.name, what)

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """The same view in float32 for the length of a `with` block."""
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before

    def rounded(self, g: Tensor, through: Callable[[Tensor], Tensor]) -> Tensor:
        """A linear map of g in lower precision, back in g's; where exponents are few, of g scaled to one."""
        if self.dtype != torch.float16:
            return through(g.to(self.dtype)).to(g.dtype)
        scale = g.detach().abs().amax() if g.numel() else g.new_ones(())
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return through((g / scale).to(self.dtype)).to(g.dtype) * scale


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: LowerWayBack) -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        return layer.there(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.back(g, ctx.shape), None


class LowerWayBack(nn.Module):
    """Stands in for a convolution or linear layer: the same forward pass, and a gradient in lower precision.

    Args:
        layer: the layer, or what stands in for it.
        lower: the precision, and whether it is on.
    """

    def __init__(self, layer: nn.Module, weight: Tensor, lower: Lower):
        super().__init__()
        self.layer, self.lower = layer, lower
        self.weight, self.low = nn.Parameter(weight, requires_grad=False), weight.detach().to(lower.dtype)
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        """The output of the layer, whatever stands in for it."""
        made: Tensor = _Through.apply(x, self)
        return made

    def there(self, x: Tensor) -> Tensor:
        """The output of the layer, as it always was."""
        made: Tensor = self.layer(x)
        return made

    def back(self, g: Tensor, shape: torch.Size) -> Tensor:
        """The gradient at the input of this shape for the one at the output."""
        if self.lower.on:
            return self.lower.rounded(g, lambda low: self._back(low, self.low, shape))
        if isinstance(self.layer, WinogradConv2d) and g.ndim == 4:
            return self.layer.direction.back(g, False)
        return self._back(g, self.weight, shape)

    def _back(self, g: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        layer: Any = self.layer
        if isinstance(layer, nn.Linear):
            return g @ weight
        dims = weight.ndim - 2
        inner = zip(shape[-dims:], g.shape[-dims:], _padding(layer), layer.kernel_size, layer.stride, layer.dilation)
        rest = [n - (m - 1) * s + 2 * p - d * (k - 1) - 1 for n, m, p, k, s, d in inner]
        turned = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        return turned(g, weight, None, layer.stride, _padding(layer), rest, 1, layer.dilation)


def precision_of(report: Any) -> dict[str, Any] | None:
    """In what loops ran, or why in float32; None where nothing else was asked for."""
    said: dict[str, Any] | None = report.get("precision")
    if said is not None or asked_precision() == "float32":
        return said
    told = read_meter(report)
    names = ("lower precision", *PRECISIONS)
    why = [text.partition(": ")[2] for text in told["dropped"] if text.partition(": ")[0] in names]
    if any(text.startswith(_CHANGES) for text in told["used"]):
        why = ["scores are computed from what changed, in float32"]
    return {"ran": "float32", "why": "; ".join(why) or "this method has no loop of passes that runs in it"}


def lower_ways_back(
    probe: Tracer, stand_ins: Mapping[int, nn.Module], lower: Lower, without: Container[int]
) -> dict[int, nn.Module]:
    """Stand-ins, by module id, for what gradients go through in lower precision.

    Args:
        probe: the watched pass.
        stand_ins: what stands in for its modules by now.
        lower: the precision.
        without: ids of modules to leave alone.
    """
    out: dict[int, nn.Module] = {}
    for module in dict.fromkeys(visit.module for visit in probe.visits):
        layer = stand_ins.get(id(module), module)
        if id(module) in without or not is_plain(module, (*CONVOLUTIONS, nn.Linear)) or not _suits(module):
            continue
        weight = layer.direction.weight if isinstance(layer, WinogradConv2d) else layer.weight
        assert isinstance(weight, Tensor)
        out[id(module)] = LowerWayBack(layer, weight.detach(), lower)
    return out


def lower_weights(probe: Tracer, stand_ins: dict[int, nn.Module], lower: Lower) -> int:
    """Give convolutions and linear layers stand-ins with weights in lower precision; how many there are."""
    count = 0
    for module in dict.fromkeys(visit.module for visit in probe.visits):
        if not is_plain(module, (*CONVOLUTIONS, nn.Linear)):
            continue
        mine = stand_ins[id(module)] = shallow(stand_ins.get(id(module), module))
        for name, value in mine._parameters.items():
            if value is not None and value.dtype == torch.float32:
                mine._parameters[name] = nn.Parameter(value.detach().to(lower.dtype), requires_grad=False)
        count += 1
    return count


def _suits(module: Any) -> bool:
    if isinstance(module, nn.Linear):
        return module.weight.dtype == torch.float32
    known = not isinstance(module.padding, str) or module.padding == "valid"
    plain = module.groups == 1 and module.padding_mode == "zeros"
    return known and plain and module.weight.dtype == torch.float32


def _padding(layer: Any) -> tuple[int, ...]:
    return (0,) * (layer.weight.ndim - 2) if isinstance(layer.padding, str) else layer.padding
