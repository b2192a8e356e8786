"""An error that a model raises, introduced by what was called with what, or by the batch axis that is missing."""

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
from interp_plugins.core.tensors import describe, is_float


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
            f"{_dtype_hint(func, inputs)}"
        ) from error


def _dtype_hint(func: Any, inputs: Sequence[Tensor]) -> str:
    """What to do where the model's weights have another floating-point type than the inputs; else ""."""
    weights = next(func.parameters(), None) if isinstance(func, nn.Module) else None
    if weights is None or not weights.is_floating_point():
        return ""
    wanted = str(weights.dtype).removeprefix("torch.")
    for x in inputs:
        if x.dtype == torch.uint8 and x.ndim > 2:
            return (
                f". The weights are {wanted}, and the input holds bytes: encode it as in training, say "
                f"x.to(torch.{wanted}) / 255 and then the normalisation; or give it to explain with preprocess=."
            )
        if is_float(x) and x.dtype != weights.dtype:
            came = str(x.dtype).removeprefix("torch.")
            return f". The weights are {wanted}, and the input is {came}: x.to(torch.{wanted})."
    return ""


@contextlib.contextmanager
def batch_axis_told(inputs: Sequence[Tensor], flat: bool = True) -> Iterator[None]:
    """Name the batch axis where a model fails on what looks like one picture.

    Args:
        inputs: the samples.
        flat: whether (H, W) may be a picture as well; else only (C, H, W), since a table looks like it.

    Raises:
        ModelError: the model failed, on an input (C, H, W) of one to four channels or (H, W).
    """
    try:
        yield
    except (InterpError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        colours = [x for x in inputs if _is_picture(x) and x.ndim == 3 and x.shape[0] in (1, 3, 4)]
        odd = [x for x in inputs if is_float(x) and x.ndim == 2 and flat] or colours
        if is_out_of_memory(error) or not odd:
            raise
        shape = tuple(odd[0].shape)
        kind: Any = type(error)
        raise _model_error(kind)(
            f"The model fails on an input of shape {shape}, which was taken for a batch of {shape[0]} samples of shape "
            f"{shape[1:]}: the first dimension is the batch. One picture needs it as well: x[None], of shape "
            f"{(1, *shape)}. The model said: {error}"
        ) from error


def _is_picture(x: Tensor) -> bool:
    """Whether a tensor may hold pixels by its type."""
    return is_float(x) or x.dtype == torch.uint8


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
