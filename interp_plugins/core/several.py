"""Several targets of one call: all classes, or any list of targets, from the passes of one.

A model gives all its scores at once. A method that evaluates the model needs no pass more for a hundred targets than
for one; a method that differentiates shares the forward pass and goes backward once per target. `Several` is the target
that leaves all of them, and the maps that come of it stand sample by sample, target by target: (N * K, ...).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import ModelError
from .target import Target


@dataclass(frozen=True)
class AllClasses:
    """Every class of a classifier, each explained on its own; `explain(..., target="all")` says the same.

    For an output (N, C) these are its C columns, for a segmentation (N, C, H, W) the region of every class that the
    model predicts in the batch.
    """


@dataclass(frozen=True)
class Several(Target):
    """Some targets side by side: output (R, ...) -> (R, K)."""

    targets: tuple[Target, ...]

    @property
    def count(self) -> int:
        """Scalars per row, K."""
        return len(self.targets)

    def at(self, rows: Tensor | None) -> Target:
        """Each target's rows."""
        return Several(tuple(t.at(rows) for t in self.targets))

    def __call__(self, output: Tensor) -> Tensor:
        """The scores of all targets, (R, K); (1, K) of a model that gives one value per batch."""
        return torch.stack([t(output).reshape(-1) for t in self.targets], 1)

    def describe(self, i: int) -> str | None:
        """The targets' descriptions."""
        return "; ".join(str(t.describe(i)) for t in self.targets)


def side_by_side(per_target: Sequence[Sequence[Tensor]], rows: int) -> tuple[Tensor, ...]:
    """One tensor of all targets, (R * K, ...) with a row's targets together, from those of each target, (R, ...).

    A tensor may have several entries per row (a layer that folds the batch with another axis); they stay together.

    Raises:
        ModelError: a first dimension that cannot be told apart by rows.
    """
    out = []
    for column in zip(*per_target, strict=True):
        shape = column[0].shape
        if not shape or shape[0] % rows:
            raise ModelError(
                f"A tensor of shape {tuple(shape)} came for {rows} rows: its first dimension is not the batch, so "
                "several targets cannot share a pass. Explain one target at a time."
            )
        out.append(torch.stack([t.reshape(rows, -1) for t in column], 1).reshape(-1, *shape[1:]))
    return tuple(out)


def repeated(tensors: Sequence[Tensor], count: int) -> Sequence[Tensor]:
    """Each row `count` times, to stand beside what comes of `count` targets."""
    return tensors if count == 1 else [t.repeat_interleave(count, 0) for t in tensors]


def part_of(value: Any, k: int, count: int, n: int) -> Any:
    """What belongs to target k of `count`: of tensors (N * K, ...) or (N, K, ...) and tuples, lists and dicts of them.

    Anything that is no tensor of n samples times `count` targets stays as it is.
    """
    if isinstance(value, Tensor):
        if not value.ndim or value.shape[0] % n or value.numel() % (n * count) or not value.numel():
            return value
        apart = value.ndim > 1 and value.shape[0] == n and value.shape[1] == count
        if not apart and value.shape[0] % (n * count):
            return value
        entries = () if apart else (value.shape[0] // (n * count),)
        rest = value.shape[2:] if apart else value.shape[1:]
        chosen = value.reshape(n, count, *entries, *rest)[:, k]
        return chosen if apart else chosen.reshape(-1, *rest)
    if isinstance(value, (tuple, list)) and any(isinstance(v, (Tensor, tuple, list)) for v in value):
        return type(value)(part_of(v, k, count, n) for v in value)
    if isinstance(value, Mapping):
        return {key: part_of(v, k, count, n) for key, v in value.items()}
    return value
