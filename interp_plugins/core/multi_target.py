"""Several targets of one call: all classes, or any list of targets, from the passes of one.

A model gives all its scores at once. A method that evaluates the model needs no pass more for a hundred targets than
for one; a method that differentiates shares the forward pass and goes backward once per target. `MultiTarget` is the
target that leaves all of them, and the maps that come of it stand sample by sample, target by target: (N * K, ...).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InterpWarning, ModelError, TargetError
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.region import ClassRegion
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Asked, FromPrediction, Target, named_target
from interp_plugins.core.two_classes import of_channel


@dataclass(frozen=True)
class AllClasses(FromPrediction):
    """Every class of a classifier, each explained on its own; `explain(..., target="all")` says the same.

    For an output (N, C) these are its C columns, for a segmentation (N, C, H, W) the region of every class that the
    model predicts in the batch.
    """

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        """Refused: these are several.

        Raises:
            TargetError: always.
        """
        raise TargetError("AllClasses() is several targets, so it cannot be part of another one; name one class there.")

    def resolve_each(self, prediction: Prediction, spec: InputSpec, n: int) -> list[Asked]:
        """Each class of (N, C) or of one number; of a segmentation the region of each class predicted anywhere."""
        output, two = prediction.output, prediction.two
        if output.ndim == 2 or (two is not None and output.numel() == n):
            count = output.shape[1] if two is None else 2
            return [Asked.of_classes((c,) * n, spec, prediction) for c in range(count)]
        if output.ndim not in (4, 5):
            raise TargetError(
                "target='all' means every class of an output (N, C), (N, C, H, W) or (N, C, D, H, W), but the model's "
                f"output has shape {tuple(output.shape)}. Give a list of targets."
            )
        one = two or of_channel(output) if output.shape[1] == 1 else None
        found = torch.unique(one.predicted(output) if one else output.argmax(1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InterpWarning)  # a class that one sample lacks has an empty map there
            return [ClassRegion(int(c)).resolve(prediction, spec, n) for c in found.tolist()]


def asked_targets(target: Any, prediction: Prediction, spec: InputSpec, n: int) -> list[Asked]:
    """Resolve what the user asks for; a list means several explanations per sample.

    Args:
        target: None (the predicted class), int (index), str or bool (label), ("label", entry), tuple (output index),
            tensor or array of n indices (one per sample), `Target`, function output -> (N,), "all", or a list of these.
            `Contrast` may hold any of them but lists. None gives several where the model predicts several labels.
        prediction: the clean output.
        spec: class names.
        n: batch size.
    """
    if isinstance(target, list):
        if not target:
            raise TargetError("target is an empty list; give at least one class, or None for the predicted class.")
        return [one for t in target for one in asked_targets(t, prediction, spec, n)]
    if isinstance(target, str) and target == "all" and not _is_class(spec, "all"):
        target = AllClasses()
    return named_target(target, prediction, spec, n).resolve_each(prediction, spec, n)


def _is_class(spec: InputSpec, name: str) -> bool:
    return spec.vocab is not None and any(str(v).lower() == name for v in spec.vocab)


@dataclass(frozen=True)
class MultiTarget(Target):
    """Some targets side by side: output (R, ...) -> (R, K)."""

    targets: tuple[Target, ...]

    @property
    def count(self) -> int:
        """Scalars per row, K."""
        return len(self.targets)

    def at(self, rows: Tensor | None) -> Target:
        """The targets of the given rows alone."""
        return MultiTarget(tuple(t.at(rows) for t in self.targets))

    def __call__(self, output: Tensor) -> Tensor:
        """The scores of all targets, (R, K); (1, K) of a model that gives one value per batch."""
        return torch.stack([t(output).reshape(-1) for t in self.targets], 1)

    def describe(self, i: int) -> str | None:
        """What the targets explain of sample i, in words, joined by semicolons."""
        return "; ".join(str(t.describe(i)) for t in self.targets)


def each_target(target: Any) -> tuple[Any, ...]:
    """The targets of a `MultiTarget`; anything else is one."""
    return target.targets if isinstance(target, MultiTarget) else (target,)


@dataclass(frozen=True)
class Unconverged:
    """The samples and targets that a mean over draws still needs draws for (`attr/shared/average.py`).

    Passes are shared by all of these samples and targets, so some of their combinations may have settled already.

    Attributes:
        samples: their numbers.
        targets: their targets.
        which: the numbers of these among all targets.
        keep: which of the combinations, sample by sample, have not settled; None: all.
    """

    samples: Tensor
    targets: tuple[Any, ...]
    which: Tensor
    keep: Tensor | None

    @classmethod
    def of(cls, maps: Tensor, targets: tuple[Any, ...]) -> Unconverged:
        """From the numbers of the maps, of which sample i has i * K to i * K + K - 1, one per target."""
        count = len(targets)
        samples, which = (maps // count).unique(), (maps % count).unique()
        both = (samples[:, None] * count + which).reshape(-1)
        keep = None if len(both) == len(maps) else torch.isin(both, maps).nonzero().flatten()
        return cls(samples, tuple(targets[k] for k in which.tolist()), which, keep)

    @property
    def target(self) -> Any:
        """The targets that are left, as one target."""
        return self.targets[0] if len(self.targets) == 1 else MultiTarget(self.targets)

    def pick(self, values: Tensor, draws: int) -> Tensor:
        """What belongs to the unsettled maps, of values for all samples and targets, draw by draw."""
        (values,) = target_by_target([values], draws * len(self.samples), len(self.targets))
        if self.keep is None:
            return values
        values = values.unflatten(0, (draws, len(self.samples) * len(self.targets), -1))
        return values.index_select(1, self.keep.to(values.device)).flatten(0, 2)


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
            raise _not_apart(column[0], rows)
        out.append(torch.stack([t.reshape(rows, -1) for t in column], 1).reshape(-1, *shape[1:]))
    return tuple(out)


def target_by_target(maps: Sequence[Tensor], rows: int, count: int) -> list[Tensor]:
    """Maps (R * K, ...), of methods that give these and of methods that give (R, K, ...).

    Raises:
        ModelError: a first dimension that cannot be told apart by rows and targets.
    """
    if count == 1:
        return list(maps)
    out = []
    for m in maps:
        if m.ndim > 1 and tuple(m.shape[:2]) == (rows, count):
            m = m.flatten(0, 1)
        if not m.ndim or m.shape[0] % (rows * count):
            raise _not_apart(m, rows)
        out.append(m)
    return out


def _not_apart(tensor: Tensor, rows: int) -> ModelError:
    return ModelError(
        f"A tensor of shape {tuple(tensor.shape)} came for {rows} rows: its first dimension is not the batch, so "
        "several targets cannot share a pass. Explain one target at a time."
    )


def repeated(tensors: Sequence[Tensor], count: int) -> Sequence[Tensor]:
    """Each row `count` times, to stand beside what comes of `count` targets."""
    return tensors if count == 1 else [t.repeat_interleave(count, 0) for t in tensors]


def part_of(value: Any, k: int, count: int, n: int) -> Any:
    """What belongs to target k of `count`: of tensors (N * K, ...) or (N, K, ...) and tuples, lists and dicts of them.

    A list of N * K numbers is one, too. Anything that is not of n samples times `count` targets stays as it is.
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
    if isinstance(value, list) and len(value) == n * count and all(isinstance(v, (int, float)) for v in value):
        return value[k::count]
    if isinstance(value, (tuple, list)) and any(isinstance(v, (Tensor, tuple, list)) for v in value):
        return type(value)(part_of(v, k, count, n) for v in value)
    if isinstance(value, Mapping):
        return {key: part_of(v, k, count, n) for key, v in value.items()}
    return value
