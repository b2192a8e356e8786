"""`Target`: what is explained, as a pure function from the model's output (R, ...) to one scalar per row (R,).

`as_target` follows Captum's rules for integers, tuples, lists and tensors; functions and `Target` objects are
first class. A target can belong to single samples (a list of classes, a mask per image): `target.at(rows)` gives the
target for those rows of the batch, so that methods can chunk over samples, steps and perturbations as they like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.errors import TargetError
from interp_plugins.core.tensors import describe


class Target:
    """Base class: the whole output (for outputs that already are one scalar per example)."""

    @property
    def count(self) -> int:
        """Scalars per row: 1, but for `core.multi_target.MultiTarget`."""
        return 1

    def at(self, rows: Tensor | None) -> Target:
        """This target for some rows of the batch (indices of samples, repeats allowed; None = all)."""
        return self

    def __call__(self, output: Tensor) -> Tensor:
        """Select from the output (R, ...)."""
        return output

    def describe(self, i: int) -> str | None:
        """Short text for sample i, or None."""
        return None


class Whole(Target):
    """No selection: the model's output as it is (Captum's `target=None`)."""


def _check_index(output: Tensor, index: tuple[Any, ...]) -> None:
    shape = tuple(output.shape)
    if len(index) > output.ndim - 1:
        raise TargetError(
            f"Cannot choose target column with output shape {shape}: the target {index} has {len(index)} indices, "
            f"the output has {output.ndim - 1} dimension(s) after the batch. "
            + ("Use target=None for one scalar per example." if output.ndim == 1 else "Give one index per dimension.")
        )
    for d, i in enumerate(index, start=1):
        if isinstance(i, int) and not -shape[d] <= i < shape[d]:
            raise TargetError(
                f"Target index {i} is out of range: the model's output has shape {shape}, so dimension {d} takes "
                f"0 to {shape[d] - 1}."
            )


@dataclass(frozen=True)
class Index(Target):
    """One index (one per output dimension after the batch, slices allowed) for every sample."""

    index: tuple[int | slice, ...]

    def __call__(self, output: Tensor) -> Tensor:
        _check_index(output, self.index)
        return output[(slice(None), *self.index)]

    def describe(self, i: int) -> str | None:
        return ", ".join(str(v) for v in self.index)


class PerSample(Target):
    """An index tuple per sample."""

    def __init__(self, indices: Sequence[tuple[int | slice, ...]]):
        self.indices = [tuple(i) for i in indices]

    def at(self, rows: Tensor | None) -> Target:
        return self if rows is None else PerSample([self.indices[r] for r in rows.tolist()])

    def __call__(self, output: Tensor) -> Tensor:
        if output.ndim == 0 or output.shape[0] != len(self.indices):
            raise TargetError(
                f"Target list length does not match output! {len(self.indices)} targets came for an output of shape "
                f"{tuple(output.shape)}; give one target per sample of the batch."
            )
        for index in self.indices:
            _check_index(output, index)
        if all(isinstance(v, int) for index in self.indices for v in index):
            columns = torch.tensor(self.indices, device=output.device).unbind(1)
            return output[(torch.arange(len(self.indices), device=output.device), *columns)]
        return torch.stack([output[(i, *index)] for i, index in enumerate(self.indices)])

    def describe(self, i: int) -> str | None:
        return ", ".join(str(v) for v in self.indices[i])


@dataclass(frozen=True)
class Function(Target):
    """Any function from the output (R, ...) to one scalar per row (R,)."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, output: Tensor) -> Tensor:
        return self.function(output)

    def describe(self, i: int) -> str | None:
        return getattr(self.function, "__name__", type(self.function).__name__)


@dataclass(frozen=True)
class Probability(Target):
    """Softmax probability (class axis 1) of what another target selects; `of` may be anything a target may be."""

    of: Any

    def at(self, rows: Tensor | None) -> Target:
        return Probability(self.of.at(rows))

    def __call__(self, output: Tensor) -> Tensor:
        return self.of(output.softmax(1))

    def describe(self, i: int) -> str | None:
        return f"p({self.of.describe(i)})"


@dataclass(frozen=True)
class Contrast(Target):
    """Score of one target minus the score of another: why this and not that?

    Each may be anything that a target may be; in `explain` also a class name, or None for the predicted class:
    `Contrast("cat", "dog")`, `Contrast(None, "dog")`.
    """

    this: Any
    that: Any

    def at(self, rows: Tensor | None) -> Target:
        return Contrast(self.this.at(rows), self.that.at(rows))

    def __call__(self, output: Tensor) -> Tensor:
        return self.this(output) - self.that(output)

    def describe(self, i: int) -> str | None:
        return f"{self.this.describe(i)} rather than {self.that.describe(i)}"


class Region(Target):
    """Sum of one class's scores over a fixed region of a segmentation output (N, C, H, W).

    Args:
        index: class index, or one per sample.
        mask: bool (N, H, W) or (H, W). Freeze it at the original input: a region recomputed inside the forward
            moves with every step, and completeness is lost.
    """

    def __init__(self, index: int | Sequence[int], mask: Tensor):
        self.index = int(index) if _is_int(index) else tuple(int(i) for i in index)  # type: ignore[arg-type,union-attr]
        self.mask = mask.detach().bool()

    def at(self, rows: Tensor | None) -> Target:
        if rows is None:
            return self
        single = self.mask.ndim == 2 or self.mask.shape[0] == 1
        if single and isinstance(self.index, int):
            return self
        index = self.index if isinstance(self.index, int) else [self.index[r] for r in rows.tolist()]
        return Region(index, self.mask if single else self.mask.index_select(0, rows.to(self.mask.device)))

    def __call__(self, output: Tensor) -> Tensor:
        chosen = Index((self.index,)) if isinstance(self.index, int) else PerSample([(i,) for i in self.index])
        scores = chosen(output)
        if self.mask.shape[-2:] != scores.shape[-2:] or scores.ndim != 3:
            raise TargetError(
                f"Region mask of shape {tuple(self.mask.shape)} does not fit the class scores of shape "
                f"{tuple(scores.shape)}; expected an output (N, C, H, W) and a mask (N, H, W) or (H, W)."
            )
        return (scores * self.mask.to(scores)).flatten(1).sum(1)

    def describe(self, i: int) -> str | None:
        return f"region of class {self.index if isinstance(self.index, int) else self.index[i]}"


def _is_int(v: Any) -> bool:
    return isinstance(v, (int, np.integer)) and not isinstance(v, (bool, np.bool_))


def _index_tuple(value: Any) -> tuple[int | slice, ...]:
    bad = [v for v in value if not (_is_int(v) or isinstance(v, slice))]
    if bad:
        raise TargetError(f"Target type {type(bad[0])} inside the tuple {value!r} is not valid; use ints (or slices).")
    return tuple(v if isinstance(v, slice) else int(v) for v in value)


def as_target(target: Any, n: int) -> Target:
    """Captum's rules, plus functions and `Target` objects.

    Args:
        target: None (the output as it is); an int, NumPy int or 1-element int tensor (same index for all); a tuple
            of ints or slices (index of the output's dimensions after the batch, same for all); a list or 1-D tensor
            of n ints, or a list of n tuples (one per sample); a callable output -> (N,); a `Target`.
        n: batch size.

    Raises:
        TargetError: anything else, or a length that is not n.
    """
    if target is None:
        return Whole()
    if isinstance(target, Contrast):
        return Contrast(as_target(target.this, n), as_target(target.that, n))
    if isinstance(target, Probability):
        return Probability(as_target(target.of, n))
    if isinstance(target, Target):
        return target
    if _is_int(target):
        return Index((int(target),))
    if isinstance(target, tuple):
        return Index(_index_tuple(target))
    if isinstance(target, (Tensor, np.ndarray)):
        values = torch.as_tensor(target).as_subclass(Tensor)
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise TargetError(f"A target tensor must hold integer indices, got {describe(values)}.")
        if values.numel() == 1 and (values.ndim == 0 or n == 1 or values.ndim == 1):
            return Index((int(values.reshape(()).item()),))
        if values.ndim == 1 and values.numel() == n:
            return PerSample([(int(v),) for v in values.tolist()])
        raise TargetError(
            f"Tensor target dimension {tuple(values.shape)} is not valid for a batch of {n}. Give a 0-d tensor or a "
            f"1-D tensor of {n} indices."
        )
    if isinstance(target, list):
        if len(target) != n:
            raise TargetError(
                f"Target list length does not match output! {len(target)} targets came for {n} samples; give one "
                "per sample, or a single int or tuple for all."
            )
        if all(_is_int(t) for t in target):
            return PerSample([(int(t),) for t in target])
        if all(isinstance(t, tuple) for t in target):
            return PerSample([_index_tuple(t) for t in target])
        raise TargetError(f"Target element type {type(target[0])} in list is not valid; use ints or tuples of ints.")
    if callable(target):
        return Function(target)
    raise TargetError(
        f"Target type {type(target)} is not valid: {target!r}. Use an int, a tuple, a list or tensor with one index "
        "per sample, a function output -> (N,), or a Target."
    )
