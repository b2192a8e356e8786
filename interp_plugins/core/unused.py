"""Layers that the score does not use: zeros, with a warning, where other values in the layer leave the score as it is.

Autograd alone cannot tell a layer that does not matter from one behind which the model detaches or rounds.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from interp_plugins.core.differentiate import UnconnectedError
from interp_plugins.core.errors import InterpWarning, ModelError
from interp_plugins.core.layers import AtLayer, Layer, layer_name

Function = TypeVar("Function", bound=Callable[..., Any])


def zeros_where_unused(result: Callable[..., Any]) -> Callable[[Function], Function]:
    """For the function that differentiates at layers: zeros of a layer that the score does not use.

    Args:
        result: makes what the function returns: (scores, gradients, activations, tensors per layer).
    """

    def around(compute: Function) -> Function:
        @functools.wraps(compute)
        def run(forward: Any, inputs: Sequence[Tensor], rows: Tensor | None = None, *, wrt: Any = None) -> Any:
            try:
                return compute(forward, inputs, rows, wrt=wrt)
            except UnconnectedError:
                starts_there = wrt is None and isinstance(forward.func, AtLayer)
                if wrt is None and not starts_there:
                    raise
                found = _at(forward, inputs, rows) if starts_there else _read(forward, inputs, rows, wrt)
                if found is None:
                    raise
            _tell(forward.func, forward.func.layers if starts_there else wrt)
            return result(*found)

        return run  # type: ignore[return-value]

    return around


def _tell(func: Any, layers: Sequence[Layer]) -> None:
    modules = [layer.module for layer in layers]
    names = ", ".join(repr(m if isinstance(m, str) else layer_name(func, m)) for m in modules)
    warnings.warn(
        f"The score does not use the layer {names}: other values there do not change it, so its attributions are zero. "
        "Check which layer and target are explained.",
        InterpWarning,
        stacklevel=5,
    )


def _other(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [0.5 * t + 1 for t in tensors]


def _zeros(forward: Any, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(t).repeat_interleave(forward.target.count, 0) for t in tensors)


def zeros_at_start(
    forward: Any, activations: Sequence[Tensor], rows: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """Scores, and zeros as gradients, where the activations that a pass starts at do not matter, with a warning."""
    found = _at(forward, activations, rows) if isinstance(forward.func, AtLayer) else None
    if found is None:
        return None
    _tell(forward.func.func, forward.func.layers)
    return found[0], found[1]


def _at(forward: Any, activations: Sequence[Tensor], rows: Tensor | None) -> tuple[Any, ...] | None:
    """What there is to return where the activations, which are the inputs, do not matter; else None."""
    scores = forward.scores(activations, rows)
    try:
        same = torch.equal(forward.scores(_other(activations), rows), scores)
    except ModelError:  # such values make no sense there, so they matter
        return None
    return (scores, _zeros(forward, activations), (), ()) if same else None


@torch.no_grad()
def _read(
    forward: Any, inputs: Sequence[Tensor], rows: Tensor | None, layers: Sequence[Layer]
) -> tuple[Any, ...] | None:
    """The same for layers that are read while the inputs go through."""
    scores = forward.scores(inputs, rows)
    _, found = forward.read(inputs, rows, layers)
    tensors = [t.detach() for tensors in found for t in tensors]
    at = AtLayer(forward.func, layers)
    positional, named = forward.arguments(inputs, rows)
    at.encode(*positional, **named)
    try:
        output = forward.readable(at(*_other(tensors), *positional, **named))
        same = torch.equal(forward.target.at(rows)(output).reshape(-1), scores.reshape(-1))
    except ModelError:
        return None
    return (scores, _zeros(forward, tensors), tuple(tensors), tuple(len(t) for t in found)) if same else None
