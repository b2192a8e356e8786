"""What is drawn around a sample: the size of the noise, the distribution of baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.baseline import call_baseline, check_finite
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.tensors import as_tuple, check_readable, describe, is_float, own

_SPREAD = 0.15  # of the input's range, the noise where none is named


def as_stdevs(stdevs: Any, inputs: tuple[Tensor, ...]) -> tuple[float, ...]:
    """One standard deviation per input; None = 15 % of that input's range.

    Raises:
        InputTypeError, InputError: no numbers, negative or infinite ones, or not one per input.
    """
    many = stdevs if isinstance(stdevs, tuple) else (stdevs,) * len(inputs)
    if len(many) != len(inputs):
        raise InputError(
            f"The number of input tensors in {len(inputs)} must be equal to the number of stdevs values {len(many)}."
        )
    many = tuple(_SPREAD * _range(x) if s is None else s for s, x in zip(many, inputs, strict=True))
    for s in many:
        if isinstance(s, bool) or not isinstance(s, (int, float)):
            raise InputTypeError(f"stdevs must be type float (or a tuple, one per input). Given: {describe(s)}")
        if not 0 <= s < float("inf"):
            raise InputError(f"stdevs are standard deviations, finite and not negative. Given: {s}")
    return tuple(float(s) for s in many)


def _range(x: Tensor) -> float:
    x = torch.view_as_real(x) if x.is_complex() else x
    return float(x.max() - x.min()) if is_float(x) and x.numel() else 0.0


def baseline_pool(baselines: Any, inputs: Any, xs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The distribution to draw baselines from: (n_baselines, ...) per input, the rows of all inputs paired.

    Raises:
        InputTypeError, InputError: no tensors, other shapes than the inputs', different numbers of rows, or NaN.
    """
    if callable(baselines) and not isinstance(baselines, Tensor):
        baselines = call_baseline(baselines, inputs)
    many = as_tuple(baselines)
    if len(many) != len(xs):
        raise InputError(f"baselines has {len(many)} tensors for {len(xs)} inputs; give one per input.")
    pool = []
    for i, (b, x) in enumerate(zip(many, xs, strict=True)):
        if not isinstance(b, Tensor):
            raise InputTypeError(
                f"Baselines distribution has to be provided in a form of a torch.Tensor: baselines[{i}] is "
                f"{describe(b)}. "
                "Give a tensor (n_baselines, ...) such as a batch of training data, or a function that returns one."
            )
        check_readable(b, f"baselines[{i}]")
        b = own(b).to(x)
        if b.ndim != x.ndim or b.shape[1:] != x.shape[1:] or b.shape[0] == 0:
            raise InputError(
                f"baselines[{i}] has shape {tuple(b.shape)}; expected "
                f"(n_baselines, {', '.join(map(str, x.shape[1:]))})."
            )
        pool.append(b)
    if len({b.shape[0] for b in pool}) > 1:
        raise InputError(
            f"The baselines have {[b.shape[0] for b in pool]} rows; row i of all inputs belongs together, so the "
            "numbers must be equal."
        )
    check_finite(pool)
    return tuple(pool)
