"""What is differentiated: the loss of every training sample, and of a query its loss or how clearly it is a class."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from interp_plugins.core.errors import InputError, InputTypeError, ModelError
from interp_plugins.core.forward import select_output
from interp_plugins.core.tensors import describe, is_float, take_rows

_HOW = "Give loss=, a loss of torch.nn or a function (output, labels) -> (N,), a loss per sample."


class SampleLoss:
    """(output, labels) -> a loss per sample (B,), of any loss.

    A loss with `reduction` is asked for single values, whose mean over pixels or outputs is the sample's (with "sum"
    their sum); a function that gives one number for all is called sample by sample, so it may be a sum or a mean.

    Args:
        loss: a loss of torch.nn, a function, or None: cross entropy of class indices, binary cross entropy of 0 and 1
            beside one number or several, squared error of other numbers.
        output: which part of the model's output it is of, as for `explain`.

    Raises:
        InputTypeError: what cannot be called.
    """

    def __init__(self, loss: Any = None, output: Any = None):
        if loss is not None and not callable(loss):
            raise InputTypeError(f"The loss is a {describe(loss)}, which cannot be called. {_HOW}")
        self.loss, self.output = loss, output
        self._single = guessed_loss if loss is None else _unreduced(loss)
        self._sums = getattr(loss, "reduction", "mean") == "sum"

    def __call__(self, output: Any, labels: Any) -> Tensor:
        """The losses (B,), still in the graph."""
        output = select_output(output, self.output)
        n = len(output)
        found = self._single(output, labels)
        if isinstance(found, Tensor) and found.numel() == 1 < n:
            rows = [torch.tensor([i]) for i in range(n)]
            found = torch.stack([self._single(take_rows(output, r, n), take_rows(labels, r, n)).sum() for r in rows])
        flat = isinstance(found, Tensor) and found.ndim == 1  # fastai's losses lay all places side by side
        if not isinstance(found, Tensor) or found.numel() % max(1, n) or not (flat or len(found) == n):
            raise ModelError(f"The loss of {n} samples is a {describe(found)}; expected one per sample, ({n},). {_HOW}")
        each = found.reshape(n, -1)
        return each.sum(1) if self._sums else each.mean(1)


def guessed_loss(output: Tensor, labels: Any) -> Tensor:
    """The loss that labels of this kind are trained with, for each value.

    Raises:
        InputError: none is known for these.
    """
    n = len(output)
    if isinstance(labels, Tensor):
        if not is_float(labels) and labels.dtype != torch.bool and output.ndim > 1 and output.shape[1] > 1:
            classes = labels.long()
            if classes.numel() * output.shape[1] == output.numel():
                return cross_entropy(output, classes.reshape(n, *output.shape[2:]), reduction="none")
        if labels.numel() == output.numel():
            same = labels.reshape(output.shape).to(output.dtype)
            zero_one = not is_float(labels) or (output.ndim > 1 and output.shape[1] > 1)
            if zero_one and bool(((same == 0) | (same == 1)).all()):
                return binary_cross_entropy_with_logits(output, same, reduction="none")
            return mse_loss(output, same, reduction="none")
    raise InputError(
        f"No loss is known for an output of shape {tuple(output.shape)} and a {describe(labels)} as labels. {_HOW}"
    )


def _unreduced(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The loss without the mean or sum over its values, where it says how to leave that out."""
    if isinstance(getattr(loss, "reduction", None), str):
        alone = copy.deepcopy(loss)  # fastai's keep the reduction in a loss inside
        alone.reduction = "none"  # type: ignore[attr-defined]
        return alone
    if isinstance(loss, nn.Module):
        return loss
    try:
        takes = "reduction" in inspect.signature(loss).parameters
    except (TypeError, ValueError):
        takes = False
    return functools.partial(loss, reduction="none") if takes else loss


class Margin:
    """How clearly a query is of a class: log p / (1 - p) of it, (B,).

    Its gradient has the direction of that of the logarithm of p, and does not vanish where the model is sure. Of a
    model that gives one number per sample it is that number.

    Args:
        output: which part of the model's output, as for `explain`.
        against: the class that it is held against; None: all others.
    """

    def __init__(self, output: Any = None, against: int | None = None):
        self.output, self.against = output, against

    def __call__(self, output: Any, classes: Tensor) -> Tensor:
        """Of outputs (B, C, ...), for classes (B,); further axes are averaged."""
        z = select_output(output, self.output)
        n = len(z)
        if z.ndim < 2 or z.shape[1] < 2:
            return z.reshape(n, -1).mean(1)
        seen = z.detach()
        if bool((seen >= 0).all()) and bool(((seen.sum(1) - 1).abs() < 1e-3).all()):
            z = z.clamp_min(torch.finfo(z.dtype).tiny).log()
        at = classes.to(z.device).reshape(n, 1, *[1] * (z.ndim - 2)).expand(n, 1, *z.shape[2:])
        own = z.gather(1, at)[:, 0]
        if self.against is not None:
            other = z[:, self.against]
        else:
            other = z.scatter(1, at, -torch.inf).logsumexp(1)
        return (own - other).reshape(n, -1).mean(1)


def negative(measure: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """A measure with the other sign: a loss as something that is to grow."""
    return lambda output, labels: -measure(output, labels)
