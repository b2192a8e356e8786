"""Starting at a layer: the plain method, at a layer's activations instead of the inputs.

`start_at_layer` re-parametrises the model (`core.layers.AtLayer`), encodes inputs and baselines into activations, and
hands over to the plain method; the original inputs ride along as additional arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.shared.base import (
    LayerAttribution,
)
from interp_plugins.core.baseline import as_baselines, widened
from interp_plugins.core.batching import check_chunk, chunks
from interp_plugins.core.fixed import marked
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.layer_rows import folded
from interp_plugins.core.layers import AtLayer, Layer
from interp_plugins.core.tensors import (
    as_tuple,
    check_inputs,
    own_tree,
)


@dataclass(frozen=True)
class AtLayerProblem:
    """A plain method at a layer: run `method.attribute(inputs, **kwargs)` and format the result."""

    method: Any
    inputs: tuple[Tensor, ...]
    kwargs: dict[str, Any]
    formatted: Callable[[Any], Any]

    def solve(self) -> Any:
        """Run the plain method at the layer and format its maps."""
        return self.formatted(self.method.attribute(self.inputs, **self.kwargs))


def encode_rows(
    at: AtLayer, inputs: tuple[Tensor, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any], size: int | None
) -> tuple[Tensor, ...]:
    """The layers' tensors for a batch, in chunks of samples; a wrapper that knows them is asked, not the model."""
    known = getattr(at.func, "layer_values", None)
    values: tuple[Tensor, ...] | None = known(at, inputs) if known is not None else None
    if values is not None:
        return values
    n, device = inputs[0].shape[0], inputs[0].device

    forward = Forward(at.func, n, args=args, kwargs=kwargs, marks=marked((args, dict(kwargs))), samples=inputs)

    def encoded(rows: Tensor) -> tuple[Tensor, ...]:
        where = None if len(rows) == n else rows.to(device)
        given = inputs if where is None else [x.index_select(0, where) for x in inputs]
        positional, named = forward.arguments(given, where)
        return at.encode(*positional, **named)

    def work(start: int, stop: int) -> tuple[Tensor, ...]:
        rows = torch.arange(start, stop)
        return folded(at, lambda who: encoded(who + start), [x[start:stop] for x in inputs], encoded(rows))

    parts = [part for _, _, part in chunks(n, forward.samples_per_pass(inputs, size), work)]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(column) for column in zip(*parts, strict=True))


def start_at_layer(
    owner: LayerAttribution,
    plain: Callable[[Any], Any],
    inputs: Any,
    args: Any,
    to_input: bool,
    kwargs: dict[str, Any],
    input_baselines: Any = ...,
) -> AtLayerProblem:
    """Encode inputs (and a baseline in input space, unless left out) and build the problem at the layer."""
    kwargs = dict(kwargs)
    func = owner.forward_func
    bound = func if isinstance(func, Call) else Call(func)
    layers = owner.resolved_layers(to_input)
    at = AtLayer(bound.func, layers)
    extra = () if args is None else own_tree(as_tuple(args))
    with frozen(func):
        xs = check_inputs(inputs)
        for name in ("internal_batch_size", "batch_size"):
            check_chunk(name, kwargs.get(name))
        size = kwargs.get("internal_batch_size") or kwargs.get("batch_size")
        acts = encode_rows(at, xs, extra, bound.kwargs, size)
        if input_baselines is not ...:
            bs = as_baselines(input_baselines, xs, template=inputs)
            widened(xs, bs, lambda some: encode_rows(at, some, extra, bound.kwargs, size))
            kwargs["baselines"] = encode_rows(at, bs, extra, bound.kwargs, size)

    def formatted(result: Any) -> Any:
        if kwargs.get("return_convergence_delta"):
            return owner.formatted(result[0], at.counts), result[1]
        return owner.formatted(result, at.counts)

    method = plain(Call(at, bound.kwargs, bound.output))
    return AtLayerProblem(method, acts, {**kwargs, "additional_forward_args": (*xs, *extra)}, formatted)


class BetweenActivations(LayerAttribution):
    """A layer method that is the plain one, from the activation of the baseline to that of the input."""

    def plain(self, func: Any) -> Any:
        """The plain method of a function of the layer's activations."""
        raise NotImplementedError

    def at_layer(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Any = None,
        **kwargs: Any,
    ) -> AtLayerProblem:
        """The plain problem at the layer (also used by `NoiseTunnel(noise_at="layer")`)."""
        more = {"target": target, **kwargs}
        return start_at_layer(
            self, self.plain, inputs, additional_forward_args, attribute_to_layer_input, more, input_baselines=baselines
        )


def layer_tensors(
    forward: Forward, at: Sequence[Tensor], rows: Tensor | None, layers: Sequence[Layer]
) -> tuple[Tensor, ...]:
    """The tensors of some layers for some rows, without gradient, flat over all layers."""
    with torch.no_grad():
        forward.passes["forward"] += at[0].shape[0]
        _, found = forward.read(at, rows, layers)
    return tuple(t for tensors in found for t in tensors)
