"""`Taps`: writes down every call of a function that uses one of some weights, so that gradients can be made of it.

It sees functions, not modules: `F.linear(x, self.w)`, a layer used twice, tied weights and the packed projection of
`nn.MultiheadAttention` are calls like any other. Kept are the input and the place of the output in the graph, which
stays right where the output is overwritten later.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from interp_plugins.core.factors import Formed, LookedUp, Outer, Part

_ASKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
_CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_TRANSPOSED = {torch.conv_transpose1d: 1, torch.conv_transpose2d: 2, torch.conv_transpose3d: 3}
_NORM_ARGUMENTS = ("input", "shape", "weight", "bias")


@dataclass
class Tap:
    """One call: what its parts are made of once the gradient at its output is known.

    Attributes:
        edge: of the output, in the graph as it was made.
        names: parameters that it uses.
        parts: (gradient at the output, where samples are) -> a part per parameter.
        inputs: tensors that are read again, with their versions.
        shape: of the output.
    """

    edge: GradientEdge
    names: tuple[str, ...]
    parts: Callable[[Tensor, SampleAxis], dict[str, Part]]
    inputs: tuple[tuple[Tensor, int], ...]
    shape: torch.Size

    def unchanged(self) -> bool:
        """Whether nothing was written into what is read again."""
        return all(x._version == version for x, version in self.inputs)


class Taps(TorchFunctionMode):
    """The mode under which the model runs.

    Args:
        names: of the weights, by their id.
    """

    def __init__(self, names: Mapping[int, str]):
        super().__init__()
        self.names, self.taps = names, list[Tap]()
        self._twins: dict[Any, Any] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types_: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the call, and write it down if it uses one of the weights."""
        kwargs = kwargs or {}
        if isinstance(func, types.FunctionType) and func.__globals__ is vars(functional):
            with self:
                return self._twin(func)(*args, **kwargs)
        out = func(*args, **kwargs)
        make = _MAKERS.get(func)
        if make is not None and isinstance(out, Tensor) and out.requires_grad:
            make(self, func, args, kwargs, out)
        return out

    def _twin(self, func: types.FunctionType) -> Any:
        """A function of torch's, the calls inside which are seen: it does not ask who sees itself."""
        if func not in self._twins:
            known = dict.fromkeys(set(_ASKS) & set(func.__globals__), lambda *args: False)
            twin = types.FunctionType(
                func.__code__, {**func.__globals__, **known}, func.__name__, func.__defaults__, func.__closure__
            )
            twin.__kwdefaults__ = func.__kwdefaults__
            self._twins[func] = twin
        return self._twins[func]

    def name(self, value: Any) -> str | None:
        """The name of a weight, None for other values."""
        return self.names.get(id(value)) if isinstance(value, Tensor) else None

    def write(
        self,
        out: Tensor,
        names: tuple[str | None, ...],
        inputs: tuple[Tensor, ...],
        parts: Callable[[Tensor, SampleAxis], dict[str, Part]],
    ) -> None:
        """Remember a call that uses weights."""
        held = tuple((x, x._version) for x in inputs)
        known = tuple(n for n in names if n is not None)
        self.taps.append(Tap(get_gradient_edge(out), known, parts, held, out.shape))


@dataclass(frozen=True)
class SampleAxis:
    """Where the samples lie in tensors.

    Attributes:
        n: how many there are.
        second: whether they come behind another axis where both could be.
    """

    n: int
    second: bool = False

    def first(self, x: Tensor) -> Tensor:
        """A tensor with the samples first, (n, T, ...), where they are second or folded with others.

        Raises:
            ValueError: no axis holds samples.
        """
        n = self.n
        ahead = x.ndim > 2 and x.shape[1] == n
        if ahead and (self.second or x.shape[0] != n):
            return x.transpose(0, 1)
        if x.shape[0] == n:
            return x[:, None] if x.ndim == 2 else x
        if n == 0 or x.shape[0] % n:
            raise ValueError
        if self.second:
            return x.reshape(x.shape[0] // n, n, *x.shape[1:]).transpose(0, 1)
        return x.reshape(n, x.shape[0] // n, *x.shape[1:])


def _linear(taps: Taps, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    x, w, b = _named(args, kwargs, ("input", "weight", "bias"))
    weight, bias = taps.name(w), taps.name(b)
    if weight is None and bias is None:
        return
    read = x.detach()

    def parts(d: Tensor, axis: SampleAxis) -> dict[str, Part]:
        n = axis.n
        d = axis.first(d).reshape(n, 1, -1, d.shape[-1])
        found: dict[str, Part] = {}
        if weight is not None:
            found[weight] = Outer(axis.first(read).reshape(n, 1, -1, read.shape[-1]), d, w.shape, bias)
        if bias is not None:
            found[bias] = Formed(d.sum((1, 2)))
        return found

    taps.write(out, (weight, bias), (read,), parts)


def _convolution(taps: Taps, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    x, w, b, stride, padding, dilation, groups = _named(args, kwargs, names, (None, None, None, 1, 0, 1, 1))
    weight, bias = taps.name(w), taps.name(b)
    if (weight is None and bias is None) or x.ndim != _CONVOLUTIONS[func] + 2:
        return
    dims, read = _CONVOLUTIONS[func], x.detach()
    kernel = tuple(w.shape[2:])

    def parts(d: Tensor, axis: SampleAxis) -> dict[str, Part]:
        n = axis.n
        if len(d) != n:
            raise ValueError
        flat = d.reshape(n, groups, d.shape[1] // groups, -1).transpose(-1, -2)
        found: dict[str, Part] = {}
        if weight is not None:
            padded = _padded(read, kernel, _times(stride, dims), padding, _times(dilation, dims))
            a = windows(padded, kernel, _times(stride, dims), _times(dilation, dims), groups, tuple(d.shape[2:]))
            found[weight] = Outer(a, flat, w.shape, bias)
        if bias is not None:
            found[bias] = Formed(d.flatten(2).sum(2))
        return found

    taps.write(out, (weight, bias), (read,), parts)


def _transposed(taps: Taps, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    x, w, b, stride, padding, _, groups, dilation = _named(args, kwargs, names, (None, None, None, 1, 0, 0, 1, 1))
    weight, bias = taps.name(w), taps.name(b)
    if (weight is None and bias is None) or x.ndim != _TRANSPOSED[func] + 2:
        return
    dims, read = _TRANSPOSED[func], x.detach()
    kernel = tuple(w.shape[2:])

    def parts(d: Tensor, axis: SampleAxis) -> dict[str, Part]:
        n = axis.n
        if len(d) != n:
            raise ValueError
        found: dict[str, Part] = {}
        if weight is not None:  # the roles of input and output are exchanged
            wide = _padded(d, kernel, _times(stride, dims), padding, _times(dilation, dims))
            a = windows(wide, kernel, _times(stride, dims), _times(dilation, dims), groups, tuple(read.shape[2:]))
            rows = read.reshape(n, groups, read.shape[1] // groups, -1).transpose(-1, -2)
            found[weight] = Outer(a, rows, w.shape)
        if bias is not None:
            found[bias] = Formed(d.flatten(2).sum(2))
        return found

    taps.write(out, (weight, bias), (read,), parts)


def _embedding(taps: Taps, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    w, ids, padding = _named(args, kwargs, ("weight", "indices", "padding_idx"), (None, None, -1))
    weight = taps.name(w)
    if weight is None:
        return

    def parts(d: Tensor, axis: SampleAxis) -> dict[str, Part]:
        n = axis.n
        rows = axis.first(ids).reshape(n, -1)
        d = d.reshape(n, rows.shape[1], w.shape[1])
        if padding is not None and padding >= 0:
            d = d * (rows != padding)[..., None]
        return {weight: LookedUp(rows, d, w.shape)}

    taps.write(out, (weight,), (ids,), parts)


def _norm(taps: Taps, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """Layer, group, batch, instance and RMS normalisation: y = x_hat * weight + bias."""
    where = _NORMS[func]
    given = list(args) + [None] * max(0, max(where) + 1 - len(args))
    w = given[where[0]] if given[where[0]] is not None else kwargs.get("weight")
    b = (given[where[1]] if given[where[1]] is not None else kwargs.get("bias")) if len(where) > 1 else None
    weight, bias = taps.name(w), taps.name(b)
    if weight is None and bias is None:
        return
    plain = list(args)
    for i in where:
        if i < len(plain):
            plain[i] = None
    without = {k: v for k, v in kwargs.items() if k not in ("weight", "bias")}
    with torch.no_grad():
        hat = func(*plain, **without)
    last = func in (torch.layer_norm, getattr(torch, "rms_norm", None))

    def parts(d: Tensor, axis: SampleAxis) -> dict[str, Part]:
        n = axis.n
        found: dict[str, Part] = {}
        for name, values, like in ((weight, d * hat, w), (bias, d, b)):
            if name is None or like is None:
                continue
            v = values if values.shape[0] == n else axis.first(values)
            if last:
                v = v.reshape(n, -1, *like.shape).sum(1)
            elif values.shape[0] != n:
                raise ValueError
            else:
                v = v.reshape(n, v.shape[1], -1).sum(2)
            found[name] = Formed(v)
        return found

    taps.write(out, (weight, bias), (), parts)


def _named(args: Any, kwargs: Any, names: tuple[str, ...], defaults: tuple[Any, ...] = (None,) * 8) -> list[Any]:
    """Arguments by position or name."""
    return [args[i] if i < len(args) else kwargs.get(name, defaults[i]) for i, name in enumerate(names)]


def _times(value: Any, dims: int) -> tuple[int, ...]:
    one = (value,) if isinstance(value, int) else tuple(value)
    return one * dims if len(one) == 1 else one


def _padded(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Tensor:
    """With the zeros around that a convolution pads."""
    dims = len(kernel)
    if padding == "valid":
        return x
    if padding == "same":
        totals = [dilation[i] * (kernel[i] - 1) for i in range(dims)]
        sides = [(t // 2, t - t // 2) for t in totals]
    else:
        sides = [(p, p) for p in _times(padding, dims)]
    return functional.pad(x, [v for pair in reversed(sides) for v in pair])


def windows(x: Tensor, kernel: Any, stride: Any, dilation: Any, groups: int, out: tuple[int, ...]) -> Tensor:
    """The windows that a convolution sees, (B, G, T, C / G * kernel), of a padded input (B, C, ...)."""
    n, c, dims = x.shape[0], x.shape[1], len(kernel)
    need = [(out[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 for i in range(dims)]
    more = [max(0, need[i] - x.shape[2 + i]) for i in range(dims)]
    if any(more):
        x = functional.pad(x, [v for m in reversed(more) for v in (0, m)])
    x = x.contiguous()
    steps = x.stride()
    sizes = (n, groups, *out, c // groups, *kernel)
    strides = (
        steps[0],
        c // groups * steps[1],
        *(steps[2 + i] * stride[i] for i in range(dims)),
        steps[1],
        *(steps[2 + i] * dilation[i] for i in range(dims)),
    )
    seen = x.as_strided(sizes, strides, x.storage_offset())
    t = 1
    for size in out:
        t *= size
    return seen.reshape(n, groups, t, -1)


_NORMS: dict[Any, tuple[int, ...]] = {
    torch.layer_norm: (2, 3),
    torch.group_norm: (2, 3),
    torch.batch_norm: (1, 2),
    torch.instance_norm: (1, 2),
}
if hasattr(torch, "rms_norm"):
    _NORMS[torch.rms_norm] = (2,)
_MAKERS: dict[Any, Callable[[Taps, Any, Any, Any, Tensor], None]] = {
    functional.linear: _linear,
    torch.embedding: _embedding,
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    **dict.fromkeys(_TRANSPOSED, _transposed),
    **dict.fromkeys(_NORMS, _norm),
}
