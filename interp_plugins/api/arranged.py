"""What the user gave of the inputs, as methods take it: tensors by position, channels first, a number in every gap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from interp_plugins.api.named_inputs import by_name, goes_along, in_order
from interp_plugins.api.preprocess import encoded
from interp_plugins.core.forward import Call
from interp_plugins.core.layout import ChannelLayout, layout_of
from interp_plugins.core.missing import Gaps, gaps_of
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple, is_float


@dataclass(frozen=True)
class Arranged:
    """The problem as methods take it.

    Attributes:
        func: the model as a function of `inputs` by position.
        inputs: a tensor, or a tuple for several.
        names: the inputs' names, where the user gave a dict; else None.
        methods: as for `interp_plugins.explain`.
        params: the methods' parameters.
        spec: what is known of the inputs; None: it is guessed.
        baselines: as for `interp_plugins.explain`.
        feature_mask: groups of elements that are changed together; None: each by itself.
        layout: how results go back to where the user has the channels; None: they are first.
        gaps: where values are missing; None: nowhere.
        samples: the samples' names, where the inputs came from files; else None.
    """

    func: Callable[..., Any]
    inputs: Any
    names: tuple[str, ...] | None
    methods: Any
    params: Mapping[str, Any]
    spec: InputSpec | None
    baselines: Any
    feature_mask: Any
    layout: ChannelLayout | None
    gaps: Gaps | None = None
    samples: tuple[str, ...] | None = None

    def back(self, exp: Any) -> Any:
        """An explanation as the user has the inputs: with its gaps, its channels where they were."""
        exp = exp if self.samples is None else replace(exp, names=self.samples)
        exp = exp if self.gaps is None else self.gaps.back(exp)
        return exp if self.layout is None else self.layout.back(exp)


def arranged(
    model: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor],
    methods: Any,
    params: Mapping[str, Any],
    spec: InputSpec | None,
    baselines: Any,
    feature_mask: Any,
    forward_kwargs: Mapping[str, Any] | None,
    output: Any,
    preprocess: Any = None,
) -> Arranged:
    """Arrange what `interp_plugins.explain` was given; its arguments."""
    inputs, spec, samples = encoded(model, inputs, preprocess, spec)
    func, names, xs, forward_kwargs = positional(model, inputs, forward_kwargs)
    if names is not None:
        baselines = in_order(baselines, names, "baselines")
        feature_mask = in_order(feature_mask, names, "feature_mask")
    layout, spec = layout_of(xs, spec, methods)
    if layout is not None:
        func, first, spec = layout.around(func), layout.first(xs, xs), layout.spec
        methods, params = layout.methods(methods), layout.sizes(params)
        baselines, feature_mask = layout.first(baselines, xs), layout.first(feature_mask, xs)
        xs = first
    func = Call(func, forward_kwargs, output) if forward_kwargs or output is not None else func
    return Arranged(func, xs, names, methods, params, spec, baselines, feature_mask, layout, None, samples)


def positional(
    model: Callable[..., Any], inputs: Any, forward_kwargs: Mapping[str, Any] | None
) -> tuple[Callable[..., Any], tuple[str, ...] | None, Any, Mapping[str, Any] | None]:
    """The model as a function of inputs by position, their names, the inputs, and keyword arguments of every call.

    Args:
        model: any callable.
        inputs: a tensor or a tuple, which stay; or a dict by name, of which masks and ids of places go along.
        forward_kwargs: further keyword arguments.
    """
    if not isinstance(inputs, Mapping):
        return model, None, inputs, forward_kwargs
    along = {n: v for n, v in inputs.items() if isinstance(v, Tensor) and not is_float(v) and goes_along(n, v)}
    along = along if len(along) < len(inputs) else {}  # a mask alone is what is meant
    named = {n: v for n, v in inputs.items() if n not in along}
    func = by_name(model, named, tuple(along))
    return func, tuple(named), tuple(named.values()), {**along, **(forward_kwargs or {})}


def without_gaps(given: Arranged, args: Any) -> tuple[Arranged, Any]:
    """The problem with a number in every gap, and the additional arguments, of which masks of the gaps are the first.

    Args:
        given: inputs that may have NaN for missing values, where its spec says so.
        args: additional positional arguments.
    """
    gaps = gaps_of(given.inputs, given.spec, given.methods)
    if gaps is None:
        return given, args
    filled = replace(
        given,
        func=gaps.around(given.func),
        inputs=gaps.filled(given.inputs),
        baselines=gaps.filled(given.baselines),
        gaps=gaps,
    )
    return filled, (*gaps.masks, *(() if args is None else as_tuple(args)))
