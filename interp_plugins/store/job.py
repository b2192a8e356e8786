"""What a run does and how it is done: the job that every face makes, the settings, and this process's place."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.guard import modules_of
from interp_plugins.core.truth import known_classes

_HELD = 2**24  # numbers of a map or an input that are held for samples explained together,
# There larger passes wait for the memory (64 pictures: three times as long), and with eight pictures a small network's
# widest maps pass 32 MiB, which glibc fetches from the system anew every time.
_HELD_ON_CPUS = 6 * 3 * 224 * 224


def held_by(model: Any) -> int:
    """How many numbers of a map or an input samples that are explained together may have, by the model's device."""
    first = next((p for root in modules_of(model) for p in root.parameters()), None)
    return _HELD_ON_CPUS if first is None or first.device.type == "cpu" else _HELD


@dataclass(frozen=True)
class Explained:
    """What a face gives for a batch.

    Attributes:
        explanations: of the batch.
        labels: ground truth per sample (class indices), or None.
        names: one per sample, where the batch names its samples.
    """

    explanations: Explanations
    labels: Sequence[int | None] | None = None
    names: Sequence[str] | None = None

    @classmethod
    def of(cls, found: Explanations, labels: Tensor | None, names: Sequence[str] | None = None) -> Explained:
        """From labels as they were read: one outside the model's classes is none, as is a value of a regression."""
        first = found[0]
        regression = first.prediction_label is None and first.region is None and first.target is None
        return cls(found, None if regression else known_classes(labels, first.meta.get("classes")), names)


@dataclass(frozen=True)
class Job:
    """What is to be done; every face (plain torch, fastai, Lightning) makes one.

    Attributes:
        data: the samples: `__getitem__` and `__len__`.
        explain: samples and a seed -> their explanations.
        identity: what makes this run what it is (JSON values): methods, parameters, model.
        draws: whether random numbers are drawn; such samples are explained one by one, each with its own seed.
        together: whether samples that are explained together get what each gets alone, as far as is known beforehand.
        held: numbers of a map or an input that samples explained together may have.
        names: one per sample, or None.
        options: how samples are read ahead (a DataLoader's arguments).
    """

    data: Any
    explain: Callable[[list[Any], int], Explained]
    identity: dict[str, Any]
    draws: bool = True
    together: bool = True
    held: int = _HELD_ON_CPUS
    names: Sequence[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """How a run is done; see `explain_dataset`."""

    unit_size: int | None = None
    batch_size: int | None = None
    dtype: str | None = None
    save_inputs: bool = True
    seed: int = 0
    on_error: str = "record"
    retry_failed: bool = False
    rank: int | None = None
    world_size: int | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        for name in ("unit_size", "batch_size"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a positive int, got {value!r}.")
        if self.dtype not in (None, "float16", "float32", "float64"):
            raise InputError(
                f"dtype must be None (as computed), 'float16', 'float32' or 'float64', got {self.dtype!r}."
            )
        if self.on_error not in ("record", "raise"):
            raise InputError(f"on_error must be 'record' or 'raise', got {self.on_error!r}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InputError(f"seed must be an int, got {self.seed!r}: a run without one could not be resumed.")


def place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Which process this is, and of how many: as told, else as torchrun says (RANK, WORLD_SIZE), else the only one.

    Raises:
        InputError: only one of the two, or a rank outside.
    """
    if rank is None and world_size is None:
        told = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
        if all(value is not None and value.isdigit() for value in told):
            rank, world_size = int(told[0] or 0), int(told[1] or 1)
        else:
            return 0, 1
    if rank is None or world_size is None:
        raise InputError(f"Give rank and world_size, or neither (got rank={rank}, world_size={world_size}).")
    if not 0 <= rank < world_size:
        raise InputError(f"rank={rank} does not fit world_size={world_size}: it runs from 0 to {world_size - 1}.")
    return rank, world_size
