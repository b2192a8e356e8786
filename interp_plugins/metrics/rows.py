"""Maps of any layout as one row of numbers per sample, and sums over rows that do not feel how many rows there are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError, unknown
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.tensors import Maps, as_tuple, describe, widest

Judged = Maps | Explanation  # what a metric is of: maps, or an explanation, whose attributions they are

SIGNS = ("positive", "absolute", "negative")
REDUCTIONS = ("sum", "abs_sum", "max_abs", "l2")
_BLOCK = 1024


def maps_of(given: Judged) -> Maps:
    """The maps of an explanation, or the maps themselves."""
    return given.attributions if isinstance(given, Explanation) else given


def checked(maps: Judged, name: str = "attributions") -> tuple[Tensor, ...]:
    """The tensors of maps, found to be real, with the samples first and numbers in them.

    Args:
        maps: tensor or tuple of tensors (one per input), batch first, real; or an `Explanation`.
        name: the argument's name, for errors.

    Raises:
        InputTypeError: anything but real tensors.
        InputError: no batch dimension, batch sizes that differ, or nothing in a row.
    """
    many = as_tuple(maps_of(maps))
    for one in many:
        if not isinstance(one, Tensor) or one.is_complex():
            raise InputTypeError(f"{name} must be a real tensor or a tuple of them, got {describe(one)}.")
        if one.ndim == 0 or one.shape[0] != many[0].shape[0]:
            raise InputError(
                f"{name} must have the samples as first dimension, equally many in all tensors; got shapes "
                f"{[tuple(m.shape) for m in many]}."
            )
    if sum(one.numel() for one in many) == 0:
        raise InputError(f"{name} holds no numbers: shapes {[tuple(m.shape) for m in many]}.")
    return many


def as_rows(maps: Judged, name: str = "attributions") -> Tensor:
    """All elements of all tensors of a sample in one row, detached: (N, D), float64, or float32 on MPS; to read only.

    Args:
        maps: as for `checked`.
        name: the argument's name, for errors.
    """
    many = checked(maps, name)
    flat = [one.detach().as_subclass(Tensor).reshape(one.shape[0], -1).to(widest(one.device)) for one in many]
    return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)


def as_row_pair(a: Judged, b: Judged, names: tuple[str, str] = ("a", "b")) -> tuple[Tensor, Tensor]:
    """Two maps of the same layout as rows.

    Args:
        a: maps or an explanation.
        b: maps or an explanation of the same shapes.
        names: the arguments' names, for errors.

    Raises:
        InputError: layouts that differ.
    """
    shapes = [[tuple(x.shape) for x in as_tuple(maps_of(m)) if isinstance(x, Tensor)] for m in (a, b)]
    left, right = as_rows(a, names[0]), as_rows(b, names[1])
    if shapes[0] != shapes[1]:
        raise InputError(
            f"Two maps are compared element by element and must have the same shapes; got {shapes[0]} and {shapes[1]}."
        )
    return left, right.to(left.dtype).to(left.device)


def wide(values: Tensor) -> Tensor:
    """Numbers in the widest dtype that their device has."""
    return values.to(widest(values.device))


def row_sum(rows: Tensor) -> Tensor:
    """Sums of the rows of (N, D): to the bit the same for a row alone and among others, on any number of threads.

    PyTorch shares one long sum out over threads, but several sums one by one; so a long row is summed in blocks first.
    """
    n, d = rows.shape
    whole = d // _BLOCK * _BLOCK
    if whole == 0:
        return rows.sum(1)
    sums = rows[:, :whole].reshape(n, -1, _BLOCK).sum(2)
    found = row_sum(sums)
    return found if whole == d else found + rows[:, whole:].sum(1)


def row_norm(rows: Tensor) -> Tensor:
    """Euclidean norms of the rows of (N, D), as exactly repeatable as `row_sum`."""
    return row_sum(rows * rows).sqrt()


def ascending(rows: Tensor) -> Tensor:
    """The numbers of each row of (N, D) from the smallest, without their places: numpy sorts them many times faster."""
    if rows.device.type != "cpu":
        return rows.sort(dim=1).values
    return torch.from_numpy(np.sort(rows.numpy(), axis=1))


def in_order(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of each row of (N, D) from the smallest, and where each stood; equal ones in any order."""
    if rows.device.type != "cpu":
        return rows.sort(dim=1)
    order = np.argsort(rows.numpy(), axis=1)
    return torch.from_numpy(np.take_along_axis(rows.numpy(), order, 1)), torch.from_numpy(order)


def unit_scale(rows: Tensor) -> Tensor:
    """Rows divided by their largest size: squares and sums neither overflow nor vanish. Zero rows become NaN."""
    return rows / rows.abs().amax(1, keepdim=True)


def mass(rows: Tensor, sign: str) -> Tensor:
    """What of the values counts as mass: the positive part, the sizes, or the negative part turned positive.

    Args:
        rows: values of any shape.
        sign: "positive", "absolute" or "negative".

    Raises:
        UnknownNameError: another word.
    """
    if sign == "positive":
        return rows.clamp_min(0)
    if sign == "absolute":
        return rows.abs()
    if sign == "negative":
        return (-rows).clamp_min(0)
    raise unknown("sign", sign, SIGNS)


def reduced(values: Tensor, axes: tuple[int, ...], reduce: str) -> Tensor:
    """Values (N, ...) with some axes made one number per place; these axes are gone.

    Args:
        values: real numbers.
        axes: which axes; none: the values as they are, or their sizes.
        reduce: "sum", "abs_sum", "max_abs" or "l2".

    Raises:
        UnknownNameError: another word.
    """
    if reduce not in REDUCTIONS:
        raise unknown("reduce", reduce, REDUCTIONS, "None judges element by element.")
    if reduce != "sum":
        values = values.abs()
    if not axes:
        return values
    last = values.movedim(axes, tuple(range(-len(axes), 0))).flatten(-len(axes))
    if reduce == "max_abs":
        return last.amax(-1)
    if reduce == "l2":
        last = last * last
    flat = last.reshape(-1, last.shape[-1])
    if flat.shape[1] > 16:
        total = row_sum(flat.contiguous())
    else:  # few channels are added one after the other: no copy, and one order whatever the batch
        total = flat[:, 0].clone()
        for k in range(1, flat.shape[1]):
            total += flat[:, k]
    total = total.reshape(last.shape[:-1])
    return total.sqrt() if reduce == "l2" else total


def element_rows(given: Judged, reduce: str | None, name: str = "attributions") -> Tensor:
    """Rows (N, D) of all elements, or with `reduce` of all places: channels of a picture or series become one number.

    The channels are axis 1 of maps with three axes or more; of an `Explanation` they stand where its input has them.
    """
    if reduce is None:
        return as_rows(given, name)
    parts = []
    for k, one in enumerate(checked(given, name)):
        axes = () if one.ndim < 3 else (_channels(given, k, one),)
        values = wide(one.detach().as_subclass(Tensor))
        parts.append(reduced(values, axes, reduce).reshape(one.shape[0], -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _channels(given: Judged, k: int, one: Tensor) -> int:
    """The axis of the channels of the map of input k."""
    if not isinstance(given, Explanation):
        return 1
    x = as_tuple(given.inputs)[k]
    spec = given.spec.of_input(k, x)
    axis = spec.within_place(one.ndim)
    if axis is None or spec.kind == "text":
        return axis or 1
    sizes = list(zip(one.shape, x.shape)) if one.ndim == x.ndim else [(0, 1)]
    mine = all(a == b or (i == axis and a == 1) for i, (a, b) in enumerate(sizes))
    return axis if mine else 1  # maps of layers, and those of one channel, have it behind the batch
