"""Several tensors in one part of a batch: several inputs of the model, or several samples, a detector's pictures say.

The signature of `forward` and the shapes decide, and an error says what leaves a doubt:

- as many tensors as `forward` takes, of one batch size: several inputs;
- pictures (C, H, W) where `forward` takes one list, or where the targets are a list with one entry each: samples.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError
from interp_plugins.core.tensors import is_float
from interp_plugins.core.truth import LABEL_NAMES
from interp_plugins.core.wrapper import Wrapper


def capacity(model: nn.Module) -> tuple[int, float]:
    """How many positional arguments `forward` needs, and how many it takes at most, labels left out."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return 0, math.inf
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 0, math.inf
    able = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    able = [p for p in able if p.default is p.empty or p.name.lower() not in LABEL_NAMES]
    return sum(p.default is p.empty for p in able), len(able)


def are_samples(values: Sequence[Tensor], batch: Any, model: nn.Module) -> bool:
    """Whether tensors beside each other are samples of their own; False: several inputs.

    Args:
        values: the tensors.
        batch: the whole batch, whose other parts may hold a target for each.
        model: the module whose `forward` is called.

    Raises:
        InputError: neither is evident.
    """
    count, (least, most) = len(values), capacity(model)
    together = len({v.shape[:1] for v in values}) == 1
    fits = together and least <= count <= most
    pictures = all(is_float(v) and v.ndim == 3 for v in values) and len({v.shape[0] for v in values}) == 1
    targets = [v for v in batch[1:] if isinstance(v, (tuple, list))] if isinstance(batch, (tuple, list)) else []
    one_each = any(len(v) == count and not all(isinstance(t, Tensor) and t.ndim > 3 for t in v) for v in targets)
    if pictures and (one_each or (not fits and least <= 1 <= most)):
        return True
    if fits:
        return False
    shapes = ", ".join(str(tuple(v.shape)) for v in values[:4]) + (", ..." if count > 4 else "")
    takes = str(least) if least == most else f"{least} or more" if most == math.inf else f"{least} to {most}"
    raise InputError(
        f"The batch holds {count} tensors side by side ({shapes}), and {type(model).__name__}.forward takes {takes} "
        "arguments: it cannot be told whether they are several inputs, views of the same samples, or pictures of their "
        "own. Say what the model is called with: input_fn=, a function from the batch to a tensor (one view: "
        "lambda batch: batch[0][0]), a tuple of them (several inputs), or a dict by name."
    )


def padded(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pictures (C, H, W) as one tensor (N, C, H, W), zeros at the right of and below smaller ones, and their sizes."""
    sizes = torch.tensor([tuple(v.shape[1:]) for v in values])
    height, width = sizes.amax(0).tolist()
    out = values[0].new_zeros(len(values), values[0].shape[0], height, width)
    for row, v in zip(out, values, strict=True):
        row[:, : v.shape[1], : v.shape[2]] = v
    return out, sizes


def rows_of(sizes: Tensor | None) -> list[tuple[int, int]]:
    """Height and width per picture as numbers."""
    return [] if sizes is None else [(int(h), int(w)) for h, w in sizes.tolist()]


class AsList(Wrapper):
    """A detector that takes a list of pictures (C, H, W), as a function of a batch of them."""

    def __init__(self, func: Any):
        self.func, self.__name__ = func, type(func).__name__

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Call the detector with the rows as a list."""
        return self.func(list(x), *args, **kwargs)
