"""What `explain` refuses: arguments of the wrong kind, numbers out of range, maps of nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError, InputTypeError, LayerError
from interp_plugins.core.random import check_seed
from interp_plugins.core.tensors import as_tuple, describe


def check_options(
    layer: Any, threshold: Any, activation: Any, forward_kwargs: Any, body: Any, seed: Any, batch_size: Any
) -> None:
    """Arguments of `explain` that are handed on and used later.

    Raises:
        InputTypeError, InputError: one that means nothing there.
    """
    if (isinstance(layer, (str, list, tuple)) and not layer) or (isinstance(layer, list) and "" in layer):
        raise InputError(f"layer={layer!r} names no layer; give a module, its dotted name, or None.")
    check_threshold(threshold)
    check_chunk("batch_size", batch_size)
    if activation is not None and (isinstance(activation, type) or not callable(activation)):
        raise InputTypeError(f"activation must be a function output -> probabilities, got {describe(activation)}.")
    if forward_kwargs is not None and not isinstance(forward_kwargs, Mapping):
        raise InputTypeError(f"forward_kwargs must be a mapping name -> argument, got {describe(forward_kwargs)}.")
    if body is not None and not isinstance(body, nn.Module):
        raise InputTypeError(f"body must be a module of the model, got {describe(body)}.")
    check_seed(seed)


def check_threshold(threshold: Any) -> None:
    """A probability from 0 to 1, or None."""
    if threshold is None:
        return
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise InputError(f"threshold must be a probability between 0 and 1, or None, got {threshold!r}.")


def check_found(method: str, maps: Any, inputs: Sequence[Tensor]) -> None:
    """What a method gave.

    Raises:
        LayerError: an empty map of an input that is not (GuidedGradCam, where the layer's map cannot be enlarged).
    """
    found = as_tuple(maps)
    if len(found) == len(inputs):
        for i, (m, x) in enumerate(zip(found, inputs, strict=True)):
            if isinstance(m, Tensor) and x.numel() and not m.numel():
                raise LayerError(
                    f"{method} gave an empty map for inputs[{i}] of shape {tuple(x.shape)}: the layer's map cannot be "
                    "enlarged to it. Choose a layer whose tensor is laid out like the input."
                )
