"""Maps of any layout as one row of numbers per sample."""

from __future__ import annotations

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.tensors import as_tuple, describe, widest

Maps = Tensor | tuple[Tensor, ...]


def as_rows(maps: Maps, name: str = "attributions") -> Tensor:
    """All elements of all tensors of a sample in one row, detached: (N, D), float64, or float32 on MPS. The maps stay.

    Args:
        maps: tensor or tuple of tensors (one per input), batch first, real.
        name: the argument's name, for errors.

    Raises:
        InputTypeError: anything but real tensors.
        InputError: no batch dimension, batch sizes that differ, or nothing in a row.
    """
    many = as_tuple(maps)
    for one in many:
        if not isinstance(one, Tensor) or one.is_complex():
            raise InputTypeError(f"{name} must be a real tensor or a tuple of them, got {describe(one)}.")
        if one.ndim == 0 or one.shape[0] != many[0].shape[0]:
            raise InputError(
                f"{name} must have the samples as first dimension, equally many in all tensors; got shapes "
                f"{[tuple(m.shape) for m in many]}."
            )
    if sum(one[:1].numel() for one in many) == 0:
        raise InputError(f"{name} holds no numbers: shapes {[tuple(m.shape) for m in many]}.")
    flat = [one.detach().as_subclass(Tensor).reshape(one.shape[0], -1).to(widest(one.device)) for one in many]
    return torch.cat(flat, dim=1)


def as_row_pair(a: Maps, b: Maps) -> tuple[Tensor, Tensor]:
    """Two maps of the same layout as rows.

    Raises:
        InputError: layouts that differ.
    """
    shapes = [[tuple(x.shape) for x in as_tuple(m) if isinstance(x, Tensor)] for m in (a, b)]
    left, right = as_rows(a, "a"), as_rows(b, "b")
    if shapes[0] != shapes[1]:
        raise InputError(
            f"Two maps are compared element by element and must have the same shapes; got {shapes[0]} and {shapes[1]}."
        )
    return left, right.to(left.device)
