"""From a call of the graph to the operation that knows how changes go through it; None for every other call."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from interp_plugins.engine.incremental.change import FIRST, FLAT, LAST
from interp_plugins.engine.incremental.ops import (
    Add,
    AvgPool,
    Concat,
    Conv,
    Dense,
    GlobalMean,
    MaxPool,
    Multiply,
    Op,
    Pointwise,
    Rectifier,
    Same,
)

_POINTWISE_MODULES = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid,
    nn.Mish, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink,
    nn.Threshold,
)  # fmt: skip
_POINTWISE_NAMES = {
    "abs", "celu", "clamp", "clamp_max", "clamp_min", "clip", "elu", "exp", "gelu", "hardsigmoid", "hardswish",
    "hardtanh", "leaky_relu", "log1p", "mish", "neg", "relu6", "selu", "sigmoid", "silu", "softplus", "softsign",
    "sqrt", "square", "tanh",
}  # fmt: skip
_SAME_NAMES = {"alpha_dropout", "clone", "contiguous", "detach", "dropout", "dropout2d", "feature_dropout"}
_BINARY_NAMES = {
    "add": "add", "iadd": "add", "sub": "sub", "isub": "sub", "mul": "mul", "imul": "mul", "multiply": "mul",
    "truediv": "div", "itruediv": "div", "div": "div", "true_divide": "div",
}  # fmt: skip
_FUNCTION_HOMES = ("torch", "_operator", "builtins")


@dataclass
class GraphCall:
    """A call with what is known of its arguments from the unperturbed pass.

    Attributes:
        node: the call.
        module: the module called, if one is.
        value: the unperturbed value of a node.
        layouts: the layouts of those that are maps.
    """

    node: fx.Node
    module: nn.Module | None
    value: Callable[[Any], Any]
    layouts: Mapping[fx.Node, str]

    @property
    def name(self) -> str:
        """The name of the function or method, without the underscore of in-place methods."""
        target = self.node.target
        if self.node.op == "call_method":
            return str(target).rstrip("_")
        home = (getattr(target, "__module__", None) or "torch").partition(".")[0]
        name = getattr(target, "__name__", "")
        if name == "stochastic_depth" and home == "torchvision":
            return "stochastic_depth" if not self.argument(3, "training", True) else ""
        return name.rstrip("_") if home in _FUNCTION_HOMES else ""

    @property
    def first(self) -> str | None:
        """The layout of the first argument."""
        source = self.node.args[0] if self.node.args else None
        return self.layouts.get(source) if isinstance(source, fx.Node) else None

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """The value of an argument; a node's is its unperturbed value."""
        found = self.node.args[position] if len(self.node.args) > position else self.node.kwargs.get(name, default)
        return fx.node.map_arg(found, self.value)

    def function(self) -> Callable[[Tensor], Tensor]:
        """The call as a function of its first argument, never in place."""
        if self.module is not None:
            return self.module
        args = fx.node.map_arg(tuple(self.node.args[1:]), self.value)
        kwargs = {k: fx.node.map_arg(v, self.value) for k, v in self.node.kwargs.items() if k != "inplace"}
        target: Any = self.node.target
        if self.node.op == "call_method":
            method = str(target).rstrip("_")
            return lambda t: getattr(t, method)(*args, **kwargs)
        target = {operator.iadd: operator.add, operator.imul: operator.mul}.get(target, target)
        return lambda t: target(t, *args, **kwargs)


@dataclass
class Matched:
    """An operation, the nodes whose maps it reads, and the layout of its output."""

    op: Op
    sources: list[fx.Node]
    layout: str


def match(call: GraphCall) -> Matched | None:
    """The operation behind a call, if it is one that changes are known to go through."""
    found = _module(call) if call.node.op == "call_module" else _function(call)
    if found is None:
        return None
    op, layout = found
    args: Any = call.node.args
    candidates = args[0] if isinstance(op, Concat) else args[:2] if isinstance(op, (Add, Multiply)) else args
    sources = [a for a in candidates if isinstance(a, fx.Node) and a in call.layouts]
    return Matched(op, sources, layout)


def is_a(module: nn.Module | None, *kinds: type[nn.Module]) -> bool:
    """Whether a module does what one of these does: the class itself, or a subclass with its forward."""
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def _module(call: GraphCall) -> tuple[Op, str] | None:
    m: Any = call.module
    layout = call.first
    if m is None or layout is None or len(call.node.args) != 1 or call.node.kwargs:
        return None
    if is_a(m, nn.ReLU):
        return Rectifier(), layout
    if is_a(m, *_POINTWISE_MODULES):
        return Pointwise(m, layout), layout
    if is_a(m, nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout):
        return Same(m), layout
    if is_a(m, nn.Linear) and layout in (LAST, FLAT):
        return Dense(m.weight, m.bias), layout
    if is_a(m, nn.LayerNorm) and layout in (LAST, FLAT) and len(m.normalized_shape) == 1:
        return Pointwise(m, layout), layout
    if is_a(m, nn.Flatten) and m.start_dim == 1 and m.end_dim == -1:
        return _flatten(call, m)
    if layout != FIRST:
        return None
    if is_a(m, nn.Conv2d) and (m.padding_mode == "zeros" or not any(_numbers(m.padding))) and _same_is_even(m):
        return Conv(m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups), FIRST
    if is_a(m, nn.BatchNorm2d) and m.running_mean is not None:
        return affine(*scale_and_shift(m.running_mean, m.running_var, m.weight, m.bias, m.eps)), FIRST
    if is_a(m, nn.MaxPool2d) and not m.return_indices:
        return MaxPool(m.kernel_size, m.stride, m.padding, m.dilation, bool(m.ceil_mode)), FIRST
    if is_a(m, nn.AvgPool2d):
        rest = bool(m.ceil_mode), bool(m.count_include_pad), m.divisor_override
        return AvgPool(m.kernel_size, m.stride, m.padding, *rest), FIRST
    if is_a(m, nn.AdaptiveAvgPool2d):
        return _adaptive(call, m, m.output_size)
    return None


def _numbers(padding: Any) -> tuple[int, ...]:
    return (0,) if isinstance(padding, str) and padding == "valid" else padding if isinstance(padding, tuple) else (1,)


def _same_is_even(m: Any) -> bool:
    """Padding "same" with an even reach pads one more on one side: left to the plain call."""
    if m.padding != "same":
        return True
    return all(d * (k - 1) % 2 == 0 for d, k in zip(m.dilation, m.kernel_size, strict=True))


def scale_and_shift(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Evaluated batch normalisation as x * scale + shift, in float64."""
    scale = (var.double() + eps).rsqrt() * (1 if weight is None else weight.double())
    return scale, -mean.double() * scale + (0 if bias is None else bias.double())


def affine(scale: Tensor, shift: Tensor) -> Pointwise:
    """A channel-wise affine map, foldable into a convolution."""

    def column(t: Tensor, like: Tensor) -> Tensor:
        return t.to(like.dtype).view(-1, 1, 1)

    op = Pointwise(lambda x: x * column(scale, x) + column(shift, x), FIRST, linear=lambda x: x * column(scale, x))
    op.affine = (scale.detach(), shift.detach())
    return op


def _flatten(call: GraphCall, function: Callable[[Tensor], Tensor]) -> tuple[Op, str] | None:
    if call.first == FLAT:
        return Same(function), FLAT
    value = call.argument(0, "input")
    single = call.first == FIRST and value.shape[2:].numel() == 1
    return (Same(function), FLAT) if single else None


def _adaptive(call: GraphCall, function: Callable[[Tensor], Tensor], size: Any) -> tuple[Op, str] | None:
    value = call.argument(0, "input")
    size = (size, size) if size is None or isinstance(size, int) else tuple(size)
    wanted = tuple(have if want is None else want for want, have in zip(size, value.shape[2:], strict=True))
    if wanted == tuple(value.shape[2:]):
        return Same(function), FIRST
    return (GlobalMean(function), FIRST) if wanted == (1, 1) else None


def _function(call: GraphCall) -> tuple[Op, str] | None:
    name, layout = call.name, call.first
    if name in _BINARY_NAMES:
        return _binary(call, _BINARY_NAMES[name])
    if name in ("cat", "concat", "concatenate"):
        return _concat(call)
    others = [n for n in call.node.all_input_nodes[1:] if n in call.layouts]
    if layout is None or others:
        return None
    if name == "relu":
        return Rectifier(), layout
    if name in _POINTWISE_NAMES and not _takes_tensors(call):
        return Pointwise(call.function(), layout), layout
    if name == "stochastic_depth" or (name in _SAME_NAMES and not _training(call)):
        return Same(call.function()), layout
    if name == "flatten" and call.argument(1, "start_dim", 0) == 1 and call.argument(2, "end_dim", -1) == -1:
        return _flatten(call, call.function())
    if name == "permute":
        dims = call.node.args[1:] or (call.node.kwargs.get("dims"),)
        order: Any = tuple(dims[0]) if isinstance(dims[0], (tuple, list)) else dims
        turned = {(FIRST, (0, 2, 3, 1)): LAST, (LAST, (0, 3, 1, 2)): FIRST}.get((layout, order))
        return None if turned is None else (Same(call.function()), turned)
    if name == "layer_norm" and layout in (LAST, FLAT) and len(call.argument(1, "normalized_shape")) == 1:
        return Pointwise(call.function(), layout), layout
    if name == "linear" and layout in (LAST, FLAT):
        return Dense(call.argument(1, "weight"), call.argument(2, "bias")), layout
    return _spatial(call, name) if layout == FIRST else None


def _training(call: GraphCall) -> bool:
    return call.name.endswith("dropout") and bool(call.argument(2, "training", call.name == "dropout"))


def _takes_tensors(call: GraphCall) -> bool:
    """Whether tensors stand among the further arguments: they might differ from position to position."""
    return any(isinstance(call.value(n), Tensor) for n in call.node.all_input_nodes[1:])


def _spatial(call: GraphCall, name: str) -> tuple[Op, str] | None:
    get = call.argument
    if name == "conv2d":
        padding = get(4, "padding", 0)
        if padding == "same":
            return None
        options = get(3, "stride", 1), padding, get(5, "dilation", 1), get(6, "groups", 1)
        return Conv(get(1, "weight"), get(2, "bias"), *options), FIRST
    if name == "batch_norm" and not get(5, "training", False) and get(1, "running_mean") is not None:
        mean, var, weight, bias = (
            get(i, n) for i, n in enumerate(("running_mean", "running_var", "weight", "bias"), 1)
        )
        return affine(*scale_and_shift(mean, var, weight, bias, get(7, "eps", 1e-5))), FIRST
    if name in ("max_pool2d", "boolean_dispatch", "fn") and _is_max_pool(call):
        size, stride = get(1, "kernel_size"), get(2, "stride")
        return MaxPool(size, stride, get(3, "padding", 0), get(4, "dilation", 1), get(5, "ceil_mode", False)), FIRST
    if name == "avg_pool2d":
        rest = get(4, "ceil_mode", False), get(5, "count_include_pad", True), get(6, "divisor_override")
        return AvgPool(get(1, "kernel_size"), get(2, "stride"), get(3, "padding", 0), *rest), FIRST
    if name == "adaptive_avg_pool2d":
        return _adaptive(call, call.function(), get(1, "output_size"))
    if name == "mean":
        dims, keep = get(1, "dim"), get(2, "keepdim", False)
        if isinstance(dims, (tuple, list)) and {d % 4 for d in dims} == {2, 3} and "dtype" not in call.node.kwargs:
            return GlobalMean(call.function()), FIRST if keep else FLAT
    return None


def _is_max_pool(call: GraphCall) -> bool:
    return call.node.target in (F.max_pool2d, torch.max_pool2d) and not call.argument(6, "return_indices", False)


def _binary(call: GraphCall, kind: str) -> tuple[Op, str] | None:
    if len(call.node.args) != 2 or any(k != "alpha" for k in call.node.kwargs):
        return None
    left, right = call.node.args
    layouts = [call.layouts.get(a) if isinstance(a, fx.Node) else None for a in (left, right)]
    alpha = call.node.kwargs.get("alpha", 1)
    if None not in layouts:
        if layouts[0] != layouts[1] or alpha != 1 or kind == "div":
            return None
        return (Multiply() if kind == "mul" else Add(-1 if kind == "sub" else 1)), str(layouts[0])
    layout = layouts[0] or layouts[1]
    constant = call.argument(1, "other") if layouts[0] else call.argument(0, "input")
    if layout is None or not _channelwise(constant, layout):
        return None
    mapped = call.value(left if layouts[0] else right)
    if isinstance(constant, Tensor) and constant.dtype != mapped.dtype:
        return None
    run: Any = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div}[kind]
    if kind in ("add", "sub"):
        if layouts[0]:
            return Same(lambda x: run(x, constant, alpha=alpha)), layout
        if alpha != 1:
            return None
        if kind == "add":
            return Same(lambda x: constant + x), layout
        return Pointwise(lambda x: constant - x, layout, linear=torch.neg), layout
    if layouts[0]:
        return Pointwise(lambda x: run(x, constant), layout, linear=lambda x: run(x, constant)), layout
    if kind == "mul":
        return Pointwise(lambda x: constant * x, layout, linear=lambda x: constant * x), layout
    return Pointwise(lambda x: constant / x, layout), layout


def _channelwise(constant: Any, layout: str) -> bool:
    """Whether a constant is the same at each position of the map."""
    if isinstance(constant, (int, float)):
        return True
    if not isinstance(constant, Tensor) or constant.ndim > 4:
        return False
    shape = (1,) * (4 - constant.ndim) + tuple(constant.shape)
    if layout == FLAT:
        return constant.ndim <= 2 and shape[:3] == (1, 1, 1)
    return shape[0] == 1 and (shape[2:] == (1, 1) if layout == FIRST else shape[1:3] == (1, 1))


def _concat(call: GraphCall) -> tuple[Op, str] | None:
    parts = call.node.args[0] if call.node.args else None
    dim = call.argument(1, "dim", 0)
    if not isinstance(parts, (list, tuple)) or not all(isinstance(p, fx.Node) for p in parts):
        return None
    layouts = {call.layouts.get(p) for p in parts}
    if len(layouts) != 1 or None in layouts:
        return None
    (layout,) = layouts
    rank, channels = {FIRST: (4, 1), LAST: (4, 3), FLAT: (2, 1)}[str(layout)]
    return (Concat(dim), str(layout)) if dim % rank == channels else None
