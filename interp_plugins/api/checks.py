"""What `explain` refuses before anything runs: arguments of the wrong kind, numbers out of range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.random import check_seed
from interp_plugins.core.tensors import describe


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
