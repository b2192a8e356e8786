"""Indices of an output, by Captum's rules: an int, a tuple, a list or tensor with one per sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.errors import TargetError
from interp_plugins.core.tensors import describe

_TWO = (
    " If the model ends with squeeze(), that also takes away a batch of one: write squeeze(-1)."
    " If it is the logit of one of two classes, say so to explain(): input_spec=InputSpec(vocab=[two names]) or "
    "activation=torch.sigmoid; then 1 is the class that it speaks for, and 0 the other."
)
IndexTuple = tuple[int | slice, ...]  # one entry per dimension of the output after the batch


def as_indices(target: Any, n: int) -> IndexTuple | list[IndexTuple] | None:
    """The index for all samples, or a list of one per sample; None for what is no index.

    Raises:
        TargetError: indices that are no whole numbers, or another number of them than n.
    """
    if is_int(target):
        return (int(target),)
    if isinstance(target, tuple):
        return _as_index(target)
    if isinstance(target, (Tensor, np.ndarray)):
        return _of_numbers(torch.as_tensor(target).as_subclass(Tensor), n)
    return _of_list(target, n) if isinstance(target, list) else None


def check_index(output: Tensor, index: IndexTuple) -> None:
    """Refuse an index that the output (R, ...) does not have."""
    shape = tuple(output.shape)
    if len(index) > output.ndim - 1:
        raise TargetError(
            f"Cannot choose target column with output shape {shape}: the target {index} has {len(index)} indices, "
            f"the output has {output.ndim - 1} dimension(s) after the batch. "
            + (
                f"Use target=None for one scalar per example.{_TWO}"
                if output.ndim == 1
                else "Give one index per dimension."
            )
        )
    for d, i in enumerate(index, start=1):
        if isinstance(i, int) and not -shape[d] <= i < shape[d]:
            raise TargetError(
                f"Target index {i} is out of range: the model's output has shape {shape}, so dimension {d} takes "
                f"0 to {shape[d] - 1}.{_TWO if d == 1 and shape[d] == 1 else ''}"
            )


def is_int(v: Any) -> bool:
    """Whether a value is a whole number, Python's or NumPy's, and no bool."""
    return isinstance(v, (int, np.integer)) and not isinstance(v, (bool, np.bool_))


def _as_index(value: Any) -> IndexTuple:
    bad = [v for v in value if not (is_int(v) or isinstance(v, slice))]
    if bad:
        raise TargetError(f"Target type {type(bad[0])} inside the tuple {value!r} is not valid; use ints (or slices).")
    return tuple(v if isinstance(v, slice) else int(v) for v in value)


def _of_numbers(values: Tensor, n: int) -> IndexTuple | list[IndexTuple]:
    """One index for all, or n of them."""
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TargetError(f"A target tensor must hold integer indices, got {describe(values)}.")
    if values.numel() == 1 and (values.ndim == 0 or n == 1 or values.ndim == 1):
        return (int(values.reshape(()).item()),)
    if values.ndim == 1 and values.numel() == n:
        return [(int(v),) for v in values.tolist()]
    raise TargetError(
        f"Tensor target dimension {tuple(values.shape)} is not valid for a batch of {n}. Give a 0-d tensor or a "
        f"1-D tensor of {n} indices."
    )


def _of_list(target: list[Any], n: int) -> list[IndexTuple]:
    """One index or tuple per sample."""
    if len(target) != n:
        raise TargetError(
            f"Target list length does not match output! {len(target)} targets came for {n} samples; give one "
            "per sample, or a single int or tuple for all."
        )
    if all(is_int(t) for t in target):
        return [(int(t),) for t in target]
    if all(isinstance(t, tuple) for t in target):
        return [_as_index(t) for t in target]
    raise TargetError(f"Target element type {type(target[0])} in list is not valid; use ints or tuples of ints.")
