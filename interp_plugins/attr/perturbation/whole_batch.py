"""Inputs whose batches have different lengths: the whole of them is one sample.

A model that gives one value for a whole batch (a loss, a sum) may take inputs whose first dimensions differ: rows of
numbers beside a list of ids, an empty one too. There are no samples to tell apart then, and a feature is a column of an
input, over all of its rows. The plain method runs on one sample made of everything, `x[None]` for each input, so that
the model is never asked with more than one copy of the batch; maps have one row for each value that it gives.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from interp_plugins.core.baseline import call_baseline
from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.core.forward import select_output
from interp_plugins.core.rows import RowFacts
from interp_plugins.core.tensors import as_tuple, check_inputs
from interp_plugins.core.wrapper import Wrapper

Function = TypeVar("Function", bound=Callable[..., Any])


def batches_of_any_length(attribute: Function) -> Function:
    """For `attribute` of a method that only evaluates the model: take inputs whose first dimensions differ."""
    signature = inspect.signature(attribute)

    @functools.wraps(attribute)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        inputs: Any = args[0] if args else kwargs.get("inputs")
        if not _of_different_lengths(inputs):
            return attribute(self, *args, **kwargs)
        given = signature.bind_partial(self, *args, **kwargs).arguments
        return _as_one_sample(self, attribute, inputs, {**given, **given.pop("kwargs", {})})

    return cast("Function", run)


def _of_different_lengths(inputs: Any) -> bool:
    if not isinstance(inputs, tuple) or len(inputs) < 2:
        return False
    return all(isinstance(x, Tensor) and x.ndim for x in inputs) and len({len(x) for x in inputs}) > 1


class OfBatch(Wrapper):
    """func as a function of one sample that is the whole batch: inputs (1, rows, ...) -> (1, ...).

    Args:
        func: the model.
        inputs: the inputs as they came.
    """

    known_rows = RowFacts(single=True, why="the batch is one sample")

    def __init__(self, func: Callable[..., Any], inputs: Sequence[Tensor]):
        self.func, self.count, self.inputs = func, len(inputs), tuple(inputs)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The value (or values) of the batch, with a first dimension of one."""
        whole = [x[0] for x in args[: self.count]]
        found = select_output(self.func(*whole, *args[self.count :], **kwargs))
        if found.ndim and len(found) > 1 and len(found) in {len(x) for x in self.inputs}:
            check_inputs(self.inputs)  # an output per row: raises, and names the input that does not fit
        return found.reshape(1) if found.ndim == 0 else found if len(found) == 1 else found[None]


def _as_one_sample(method: Any, attribute: Callable[..., Any], inputs: Sequence[Tensor], given: dict[str, Any]) -> Any:
    if given.get("perturbations_per_eval", 1) > 1:
        raise InputError(
            "When perturbations_per_eval > 1, forward_func's output should be a tensor whose 1st dim grow with the "
            f"input batch size: inputs of {', '.join(str(len(x)) for x in inputs)} rows are one batch, and go through "
            "one copy at a time. Use perturbations_per_eval=1."
        )
    given = {name: value for name, value in given.items() if name not in ("self", "inputs")}
    own = copy(method)
    own.forward_func = OfBatch(method.forward_func, inputs)
    if hasattr(method, "perm_func"):
        own.perm_func = functools.partial(_permuted_rows, method.perm_func)
    else:
        given["baselines"] = _baselines(given.get("baselines"), inputs)
    if "sliding_window_shapes" in given:
        given.update(_windows(given["sliding_window_shapes"], given.get("strides"), inputs))
    else:
        given["feature_mask"] = _columns(given.get("feature_mask"), inputs)
    found = attribute(own, tuple(x[None] for x in inputs), **given)
    if not isinstance(found, tuple):
        return found  # coefficients of features
    return tuple(_of_columns(m, x) for m, x in zip(found, inputs, strict=True))


def _of_columns(found: Tensor, x: Tensor) -> Tensor:
    """A map (K, rows, ...) or (1, K, rows, ...) of an input -> (K, ...), since a column has one value."""
    found = found[0] if found.ndim > x.ndim + 1 else found
    axis = found.ndim - x.ndim
    if len(x):
        return found.select(axis, 0)
    return found.new_zeros(*found.shape[:axis], *x.shape[1:])


def _columns(feature_mask: Any, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Feature numbers (1, 1, ...) per input: of the mask, or one for each column."""
    if feature_mask is None:
        made, start = [], 0
        for x in inputs:
            size = x.shape[1:].numel()
            made.append(torch.arange(start, start + size, device=x.device).reshape(1, 1, *x.shape[1:]))
            start += size
        return tuple(made)
    masks = as_tuple(feature_mask)
    if len(masks) != len(inputs):
        raise InputError(f"feature_mask has {len(masks)} tensors for {len(inputs)} inputs; give one per input.")
    for i, (m, x) in enumerate(zip(masks, inputs, strict=True)):
        if isinstance(m, Tensor) and m.ndim == x.ndim and len(m) > 1:
            raise InputError(
                f"feature_mask[{i}] has {len(m)} rows. For inputs of different lengths, which are one batch, a feature "
                f"is a column: give a mask of shape {(1, *x.shape[1:])}."
            )
    return tuple(m[None] if m.ndim == x.ndim else m for m, x in zip(masks, inputs, strict=True))


def _baselines(baselines: Any, inputs: Sequence[Tensor]) -> Any:
    if callable(baselines) and not isinstance(baselines, Tensor):
        baselines = call_baseline(baselines, tuple(inputs))
    if not isinstance(baselines, tuple):
        return baselines
    return tuple(
        b[None] if isinstance(b, Tensor) and b.ndim == x.ndim else b for b, x in zip(baselines, inputs, strict=False)
    )


def _windows(shapes: Any, strides: Any, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """Windows over the columns, all rows of a column in one."""
    steps = strides if isinstance(strides, tuple) else (strides or 1,) * len(inputs)
    windows = zip(shapes, steps, inputs, strict=False)
    long = [((len(x), *w), (len(x), *((s,) * len(w) if isinstance(s, int) else s))) for w, s, x in windows]
    return {"sliding_window_shapes": tuple(w for w, _ in long), "strides": tuple(s for _, s in long)}


def _permuted_rows(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, mask: Tensor) -> Tensor:
    """A column of one input (1, rows, ...) in another order of the rows; as it is where there are fewer than two."""
    if x.shape[1] > 1:
        return function(x[0], mask[0])[None]
    if x.numel():
        warnings.warn("An input of one row has no other order; its attributions are zero.", InterpWarning, stacklevel=2)
    return x
