"""Several perturbed batches in one pass of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.tensors import as_tuple, describe


def check_passes(value: Any) -> int:
    """How many perturbed batches go through together, as Captum names it: a positive int."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"perturbations_per_eval must be a positive int, got {value!r}.")
    return value


def evaluated(forward_func: Callable[..., Any], batches: Sequence[Any], args: tuple[Any, ...]) -> list[Any]:
    """The model's output for each batch; several batches, of tensors, go through together.

    Args:
        forward_func: the model.
        batches: what it gets, one after the other; a single one may be anything.
        args: further arguments; tensors with a row per sample are repeated.

    Raises:
        InputTypeError: several batches that are no tensors.
    """
    if len(batches) == 1:
        return [_called(forward_func, batches[0], args)]
    many = [as_tuple(b) for b in batches]
    for batch in many:
        if not all(isinstance(x, Tensor) for x in batch):
            raise InputTypeError(
                f"perturbations_per_eval above 1 joins batches of tensors, and the model gets {describe(batches[0])} "
                "here; leave it at 1."
            )
    counts = [len(batch[0]) for batch in many]
    joined = tuple(torch.cat(column) for column in zip(*many, strict=True))
    repeated = tuple(
        torch.cat([a] * len(batches)) if isinstance(a, Tensor) and a.ndim and len(a) == counts[0] else a for a in args
    )
    output = _called(forward_func, joined if isinstance(batches[0], tuple) else joined[0], repeated)
    return list(output.split(counts))


def _called(forward_func: Callable[..., Any], batch: Any, args: tuple[Any, ...]) -> Any:
    return forward_func(*batch, *args) if isinstance(batch, tuple) else forward_func(batch, *args)
