"""The loss of each sample: by the user's function, by the module's own, or by the cross entropy of class indices."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.loss import _Loss

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.tensors import accumulation_dtype, describe, is_float

_HOW = "Give loss_fn=, a loss of torch.nn or a function (output, label) -> (N,), a loss per sample."


def find_loss(module: nn.Module, given: Any) -> tuple[Callable[..., Any] | None, str]:
    """The loss function and its name: the one given, else the only loss among the module's parts, else None.

    Raises:
        InputError: the module has several.
        InputTypeError: what was given cannot be called.
    """
    if given is not None:
        if not callable(given):
            raise InputTypeError(f"loss_fn is a {describe(given)}. {_HOW}")
        return given, getattr(given, "__name__", type(given).__name__)
    own = {name: part for name, part in module.named_modules() if isinstance(part, _Loss)}
    if len(own) > 1:
        listed = ", ".join(f"{name} ({type(part).__name__})" for name, part in own.items())
        raise InputError(f"{type(module).__name__} has several losses, {listed}: it is not clear which counts. {_HOW}")
    for name, part in own.items():
        return part, f"{type(part).__name__} ({name} of the module)"
    return None, "cross entropy"


def labelled_rows(output: Tensor, truth: Any) -> list[int]:
    """The samples with a label: of class indices (N,) for scores (N, C) those among the classes, else all."""
    n = len(output)
    if (
        not isinstance(truth, Tensor)
        or is_float(truth)
        or truth.shape != (n,)
        or output.ndim < 2
        or output.shape[1] < 2
    ):
        return list(range(n))
    return ((truth >= 0) & (truth < output.shape[1])).nonzero().flatten().tolist()


def losses_of(loss_fn: Callable[..., Any] | None, output: Tensor, truth: Any) -> Tensor:
    """The loss of each sample (N,), float64 on the CPU.

    A loss with `reduction` is asked for single values, whose mean over pixels or outputs is the sample's; a function
    that gives one number for all is called sample by sample.

    Args:
        loss_fn: (output, label) -> loss; None: cross entropy.
        output: the model's, (N, ...).
        truth: the labels, as the batch has them.

    Raises:
        InputError: no loss per sample comes of these, or no cross entropy.
    """
    if loss_fn is None:
        return _cross_entropy(output, truth)
    output, truth = _alike(output, truth)
    n, single = len(output), _unreduced(loss_fn)
    try:
        found = single(output, truth)
        if isinstance(found, Tensor) and found.numel() == 1 < n:
            found = torch.stack([single(output[i : i + 1], _row(truth, i, n)).reshape(()) for i in range(n)])
    except Exception as error:  # the user's function, on labels of the user's, may raise anything
        raise InputError(
            f"The loss failed on an output of shape {tuple(output.shape)} and the label, a {describe(truth)}: "
            f"{type(error).__name__}: {error} {_HOW}"
        ) from error
    if not isinstance(found, Tensor) or found.numel() % n or (found.ndim and found.shape[0] != n):
        raise InputError(f"The loss of {n} samples is a {describe(found)}; expected one per sample, ({n},). {_HOW}")
    return found.detach().cpu().double().reshape(n, -1).mean(1)


def _cross_entropy(output: Tensor, truth: Any) -> Tensor:
    """-log p of class indices, of scores or of rows that are probabilities already."""
    n = len(output)
    indices = isinstance(truth, Tensor) and not is_float(truth) and truth.numel() == n and truth.dtype != torch.bool
    if output.ndim != 2 or output.shape[1] < 2 or not indices:
        raise InputError(
            f"The loss is only guessed where class indices ({n},) stand beside scores ({n}, C); the output has shape "
            f"{tuple(output.shape)} and the label is a {describe(truth)}. {_HOW}"
        )
    wide = output.to(accumulation_dtype(output.dtype))
    already = bool((wide >= 0).all()) and bool(((wide.sum(1) - 1).abs() < 1e-3).all())
    return cross_entropy(wide.log() if already else wide, truth.reshape(n).long(), reduction="none").cpu().double()


def _unreduced(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """The loss without the mean or sum over its values, where it says how to leave that out."""
    if isinstance(loss_fn, nn.Module):
        if not isinstance(getattr(loss_fn, "reduction", None), str):
            return loss_fn
        alone = copy.copy(loss_fn)
        alone.reduction = "none"  # type: ignore[assignment]
        return alone
    try:
        takes = "reduction" in inspect.signature(loss_fn).parameters
    except (TypeError, ValueError):
        takes = False
    return functools.partial(loss_fn, reduction="none") if takes else loss_fn


def _alike(output: Tensor, truth: Any) -> tuple[Tensor, Any]:
    """One number per sample on both sides in one shape, as (N, 1) and (N,) make (N, N); then also of one type."""
    if not isinstance(truth, Tensor):
        return output, truth
    if output.numel() == truth.numel() == len(output):
        output = output.reshape(truth.shape)
    if output.shape == truth.shape and is_float(output):
        truth = truth.to(output.dtype)
    return output, truth


def _row(truth: Any, i: int, n: int) -> Any:
    batched = isinstance(truth, (Tensor, list, tuple)) and len(truth) == n
    return truth[i : i + 1] if batched else truth
