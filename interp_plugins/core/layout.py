"""Channels first for every method, whatever the model takes: inputs moved there, maps moved back.

Methods know one layout, (N, C, *places). A model of pictures (N, H, W, C) or of clips (N, T, C, H, W) is wrapped in a
function that takes its input with the channels first; what the user gave of the input's shape goes the same way, and
maps of the input's shape come back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from interp_plugins.core.baseline import Sample, call_baseline
from interp_plugins.core.registry import per_dimension
from interp_plugins.core.spec import InputSpec, guess_aloud
from interp_plugins.core.tensors import as_tuple, like
from interp_plugins.core.wrapper import Wrapper

_PICTURES = ("image", "volume", "clip")  # series and sequences have kinds of their own for the two layouts


class WithChannelsFirst(Wrapper):
    """A model whose inputs have their channels elsewhere, called with the channels first.

    Args:
        func: model or callable.
        axes: per input where its channels belong, or None for an input that stays as it is.
    """

    def __init__(self, func: Callable[..., Any], axes: tuple[int | None, ...]):
        self.func, self.axes = func, axes
        self.__name__ = getattr(func, "__name__", type(func).__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model; further arguments go along as they are."""
        moved = [_to(x, axis).contiguous() for x, axis in zip(args, self.axes)]  # the model may ask for a view
        return self.func(*moved, *args[len(self.axes) :], **kwargs)


def _to(x: Any, axis: int | None) -> Any:
    return x if axis is None else x.movedim(1, axis)


@dataclass(frozen=True)
class ChannelLayout:
    """Where the channels of each input stand, where that is not behind the batch.

    Attributes:
        axes: per input the axis, or None for an input that is not moved.
        told: what the user said of the inputs, or what was guessed.
    """

    axes: tuple[int | None, ...]
    told: InputSpec

    @property
    def spec(self) -> InputSpec:
        """The same facts about the inputs with their channels first."""
        return channels_first(self.told)

    def around(self, func: Callable[..., Any]) -> WithChannelsFirst:
        """The model as a function of inputs with their channels first."""
        return WithChannelsFirst(func, self.axes)

    def first(self, values: Any, inputs: Any) -> Any:
        """Tensors of the inputs' shapes with their channels first; a function is asked in the user's layout."""
        if values is None or isinstance(values, (str, int, float)):
            return values
        if callable(values) and not isinstance(values, Tensor):
            return _Asked(values, self, inputs)
        many = as_tuple(values)
        if len(many) != len(self.axes):
            return values  # refused, with the reason, by whoever reads it
        moved = [_first(v, axis, x) for v, axis, x in zip(many, self.axes, as_tuple(inputs), strict=True)]
        return tuple(moved) if isinstance(values, tuple) else moved[0]

    def methods(self, methods: Any) -> Any:
        """Methods with parameters of their own, those reordered as `sizes` does."""
        if not isinstance(methods, Mapping):
            return methods
        return {k: self.sizes(v) if isinstance(v, Mapping) else v for k, v in methods.items()}

    def sizes(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of methods, those with a number per dimension of the input reordered."""
        return {k: self._sizes(v, _channels_first) if k in per_dimension() else v for k, v in params.items()}

    def _sizes(self, value: Any, order: Callable[[Any, int], Any]) -> Any:
        """A tuple of sizes, or one per input, in another order."""
        many = value if isinstance(value, tuple) and any(isinstance(v, tuple) for v in value) else (value,)
        found = [
            order(v, axis) if axis is not None and isinstance(v, tuple) and len(v) >= axis else v
            for v, axis in zip(many, self.axes)
        ]
        return (*found, *many[len(self.axes) :]) if many is value else found[0]

    def back(self, exp: Any) -> Any:
        """An explanation in the user's layout; maps without the input's channels stay as they are."""
        told = replace(exp.spec, layout=self.told.layout, others=self.told.others)
        params = {k: self._sizes(v, _channels_at) if k in per_dimension() else v for k, v in exp.params.items()}
        return replace(self._moved(exp, _to), spec=told, params=params)

    def drawn(self, exp: Any) -> Any:
        """An explanation in the user's layout with its channels first, as pictures are made."""
        return replace(self._moved(exp, lambda x, axis: _first(x, axis, x)), spec=self.spec)

    def _moved(self, exp: Any, move: Callable[[Tensor, int | None], Tensor]) -> Any:
        """With inputs, and what has their shapes, moved."""
        xs = as_tuple(exp.inputs)

        def each(values: Any) -> Any:
            many = as_tuple(values)
            if values is None or len(many) != len(xs):
                return values
            found = [move(v, a) if v.shape == x.shape else v for v, x, a in zip(many, xs, self.axes, strict=True)]
            return tuple(found) if isinstance(values, tuple) else found[0]

        names = ("inputs", "baselines", "attributions")
        return replace(exp, **{name: each(getattr(exp, name)) for name in names})


def drawn(exp: Any) -> Any:
    """An explanation with the channels first, as pictures are made of it; itself where they are."""
    xs = as_tuple(exp.inputs)
    axes = _axes(exp.spec, xs)
    return ChannelLayout(axes, exp.spec).drawn(exp) if any(axes) else exp


def _axes(spec: InputSpec, xs: tuple[Tensor, ...]) -> tuple[int | None, ...]:
    """Per input the axis of its channels where it has to be moved."""
    if max(x.ndim for x in xs) < 4:
        return (None,) * len(xs)
    found = []
    for i, x in enumerate(xs):
        one = spec.of_input(i, x)
        axis = one.channel_axis(x.ndim) if one.kind in _PICTURES and x.ndim > 3 else None
        found.append(None if axis == 1 else axis)
    return tuple(found)


def _first(value: Any, axis: int | None, x: Tensor) -> Any:
    """A tensor of the input's number of axes with its channels first; anything else as it is."""
    if axis is None:
        return value
    if isinstance(value, Sample):
        return Sample(_first(value.rows, axis, x))
    return value.movedim(axis, 1) if isinstance(value, Tensor) and value.ndim == x.ndim else value


def _channels_first(sizes: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    return (sizes[axis - 1], *sizes[: axis - 1], *sizes[axis:])


def _channels_at(sizes: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    return (*sizes[1:axis], sizes[0], *sizes[axis:])


class _Asked:
    """A function of the inputs that makes baselines, asked in the user's layout."""

    def __init__(self, function: Callable[..., Any], layout: ChannelLayout, like_inputs: Any):
        self.function, self.layout, self.inputs = function, layout, like_inputs

    def __call__(self, inputs: Any) -> Any:
        many = [_to(x, axis) for x, axis in zip(as_tuple(inputs), self.layout.axes)]
        return self.layout.first(call_baseline(self.function, like(inputs, many)), self.inputs)


def layout_of(inputs: Any, spec: InputSpec | None, methods: Any) -> tuple[ChannelLayout | None, InputSpec | None]:
    """Which inputs are moved, None for none, and what is then known of them; a guess that may be wrong is said.

    Method objects have a model of their own, which takes the user's layout: then nothing is moved.

    Args:
        inputs: as the user gave them.
        spec: what the user said of the inputs; None: the kind is guessed.
        methods: the methods as the user named them.
    """
    many = as_tuple(inputs)
    if not many or not all(isinstance(x, Tensor) and x.ndim for x in many) or max(x.ndim for x in many) < 4:
        return None, spec
    if spec is not None and not isinstance(spec, InputSpec):
        return None, spec  # refused later, as what is no tensor
    known = guess_aloud(many[0]) if spec is None else spec
    axes = _axes(known, many)
    objects = hasattr(methods, "attribute") or (
        isinstance(methods, (list, tuple)) and any(hasattr(m, "attribute") for m in methods)
    )
    return (ChannelLayout(axes, known) if any(axes) and not objects else None), known if spec is None else spec


def channels_first(spec: InputSpec) -> InputSpec:
    """The same facts about inputs whose channels were moved to the first place."""
    layout = "first" if spec.kind in _PICTURES else spec.layout
    return replace(spec, layout=layout, others=tuple(channels_first(one) for one in spec.others))
