"""An error that a model raises, introduced by what was called with what."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.batching import is_out_of_memory
from interp_plugins.core.errors import InterpError, ModelError
from interp_plugins.core.forward import Forward
from interp_plugins.core.tensors import describe


@contextlib.contextmanager
def introduced(forward: Forward, inputs: Sequence[Tensor]) -> Iterator[None]:
    """An error that the model raises is introduced by what was called with what; its type can be caught as before.

    Args:
        forward: the model call.
        inputs: what it is called with, one or more rows of it at a time.
    """
    try:
        yield
    except (InterpError, torch.OutOfMemoryError):
        raise
    except _MODEL_ERRORS as error:
        if is_out_of_memory(error):
            raise
        args, kwargs = forward.arguments(inputs, None)
        given = [describe(v) for v in args] + [f"{name}={describe(v)}" for name, v in kwargs.items()]
        func = forward.func
        name = type(func).__name__ if isinstance(func, nn.Module) else getattr(func, "__name__", type(func).__name__)
        text = " ".join(str(error).split())
        kind: Any = type(error)
        raise _model_error(kind)(
            f"{name} was called with ({', '.join(given)}), or rows of these, and raised {type(error).__name__}: {text}"
        ) from error


_MODEL_ERRORS = (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError, AssertionError)


@functools.cache
def _model_error(kind: Any) -> type[ModelError]:
    """A `ModelError` that is an error of that kind as well."""
    if issubclass(ModelError, kind):
        return ModelError
    try:
        return type(f"Model{kind.__name__}", (ModelError, kind), {})
    except TypeError:  # layouts that do not go together
        return ModelError
