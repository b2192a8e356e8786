"""Ground truth: the part of a batch that it is, the class of each sample, and `TrueClasses`, the target it makes.

A label is a class index, 0 or 1 as a float, or a row with a number per class: one 1 among zeros (one-hot), or shares of
which one is more than half (soft labels). What lies outside the classes (-100 and 255 mark what losses leave out) is no
label. Which part of a batch is the label is only guessed where there are two; a third may be an id.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError, TargetError, did_you_mean
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Asked, FromPrediction, ask
from interp_plugins.core.tensors import describe

LABEL_NAMES = ("label", "labels", "target", "targets", "y")
NONE = -1  # the class of a sample without a label
HOW = (
    "Say which part of the batch it is: label_key= (a key or position), or label_fn= (batch -> class indices (N,), "
    "or a row per sample with a number per class)."
)


class TrueClasses(FromPrediction):
    """The true class of every sample, (N,) indices; one outside the model's classes is no label."""

    def __init__(self, classes: Tensor):
        self.classes = classes.detach().reshape(-1).long().cpu()

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        """The classes as they can be asked of this output.

        Raises:
            TargetError: a sample without a label, or a model without classes.
        """
        output = prediction.output
        count = 2 if prediction.two is not None else output.shape[1] if output.ndim > 1 else 1
        if count == 1:
            raise TargetError(
                f'target="label" means the true class, and the model gives one number per sample (output of shape '
                f"{tuple(output.shape)}). If it is the logit of one of two classes, say so: two class names, or "
                "activation=torch.sigmoid. None explains the number itself."
            )
        outside = ((self.classes < 0) | (self.classes >= count)).nonzero().flatten().tolist()
        if outside:
            where = ", ".join(f"{i} (label {int(self.classes[i])})" for i in outside[:6])
            raise TargetError(
                f'target="label" needs a true class of every sample, and these have none among the {count} classes: '
                f"{where}{', ...' if len(outside) > 6 else ''}. Leave them out, or give target=None (the predicted "
                "class) or a class by name."
            )
        return ask(self.classes.tolist(), prediction, spec, n)


def class_labels(value: Any, n: int) -> Tensor | None:
    """The class of each of n samples (N,), `NONE` where a sample has none; None for what is no label of classes.

    Args:
        value: (N,) or (N, 1) whole numbers, bools, or floats that are all 0 or 1; or a row per sample with a number per
            class, (N, C), that are shares: the class with more than half. An array or a list serves as well.
        n: number of samples.
    """
    if isinstance(value, (np.ndarray, list, tuple)) and not any(isinstance(v, (str, bytes, Tensor)) for v in value):
        try:
            value = torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError):
            return None
    if not isinstance(value, Tensor) or value.is_complex() or not value.ndim or value.shape[0] != n or not n:
        return None
    value = value.detach().as_subclass(Tensor)
    if value.numel() == n:
        flat = value.reshape(n)
        if flat.is_floating_point() and not bool(((flat == 0) | (flat == 1)).all()):
            return None
        return flat.long().where(flat >= 0, torch.full_like(flat, NONE, dtype=torch.long))
    if value.ndim != 2:
        return None
    shares = value.double()
    if not bool((shares >= 0).all()) or not bool(((shares.sum(1) - 1).abs() < 1e-3).all()):
        return None
    largest = shares.max(1)
    return largest.indices.where(largest.values > 0.5, torch.full_like(largest.indices, NONE))


def known_classes(labels: Tensor | None, classes: int | None) -> list[int | None] | None:
    """Labels as a table keeps them: None for a sample without one, and for one outside so many classes."""
    if labels is None:
        return None
    return [c if c >= 0 and (classes is None or c < classes) else None for c in labels.tolist()]


# -- batches ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """Which parts of a batch are the input, the label and the samples' ids.

    Attributes:
        input_key: the part that is the input: a key, attribute or position.
        input_fn: batch -> input, instead.
        label_key: the part that is the ground truth; None: guessed where the batch has two parts, or one named like it.
        label_fn: batch -> ground truth, instead.
        id_key: the part that names the samples.
        output: which of several outputs is explained, by key or position; chooses among several labels as well.
    """

    input_key: Any = None
    input_fn: Callable[[Any], Any] | None = None
    label_key: Any = None
    label_fn: Callable[[Any], Any] | None = None
    id_key: Any = None
    output: Any = None

    def __post_init__(self) -> None:
        for what in ("input", "label"):
            key, fn = getattr(self, f"{what}_key"), getattr(self, f"{what}_fn")
            if key is not None and fn is not None:
                raise InputError(f"Give {what}_key or {what}_fn, not both.")
            if fn is not None and not callable(fn):
                raise InputTypeError(f"{what}_fn must be a function from the batch to the {what}, got {fn!r}.")

    def facts(self) -> dict[str, Any]:
        """What was said, but for the output."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "output"}

    def inputs(self, batch: Any) -> Any:
        """The part of a batch that is the input: a tensor, or a tuple of tensors.

        Raises:
            InputError: none is found.
        """
        found = self.input_fn(batch) if self.input_fn is not None else batch
        if self.input_key is not None:
            found = part(batch, self.input_key, "input_key")
        elif self.input_fn is None and isinstance(batch, (tuple, list)) and batch:
            found = batch[0]
        if isinstance(found, list):
            found = tuple(found)
        if isinstance(found, Tensor) or (isinstance(found, tuple) and found and isinstance(found[0], Tensor)):
            return found
        raise InputError(
            f"No input found in a batch that is a {describe(batch)}. Say which part it is: input_key= (a key or "
            "position), or input_fn= (batch -> tensor or tuple of tensors)."
        )

    def labels(self, batch: Any, n: int, alone: bool = True) -> Tensor | None:
        """The class of each of n samples (see `class_labels`), or None where the batch has no clear label.

        Args:
            batch: as the loader gave it.
            n: number of samples.
            alone: whether the model has one input; of several, any part of the batch may be one.

        Raises:
            InputError: the part that was named is no label of n samples.
        """
        value = self.truth(batch, alone)
        found = class_labels(value, n)
        if found is None and (self.label_fn is not None or self.label_key is not None):
            named = "label_fn" if self.label_fn is not None else f"label_key={self.label_key!r}"
            raise InputError(
                f"{named} gives a {describe(value)}; expected the class of each of {n} samples: indices ({n},), or "
                f"({n}, C) with one class of more than half per row. Several labels of a sample, true values and masks "
                "are no class: name what is explained in target=."
            )
        return found

    def truth(self, batch: Any, alone: bool = True) -> Any:
        """The part that is the ground truth, as it came; None where the batch has no clear one.

        Args:
            batch: as the loader gave it.
            alone: whether the model has one input.
        """
        if self.label_fn is not None:
            return self._of_output(self.label_fn(batch))
        if self.label_key is not None:
            return self._of_output(part(batch, self.label_key, "label_key"))
        return self._of_output(self._guess(batch, alone))

    def ids(self, batch: Any, n: int) -> tuple[str, ...] | None:
        """The samples' names, or None where no part was named.

        Raises:
            InputError: not one per sample.
        """
        if self.id_key is None:
            return None
        value = part(batch, self.id_key, "id_key")
        many = value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value
        if not isinstance(many, (list, tuple)) or len(many) != n:
            raise InputError(f"id_key={self.id_key!r} is a {describe(value)}; expected a name for each of {n} samples.")
        return tuple(str(v) for v in many)

    def _guess(self, batch: Any, alone: bool) -> Any:
        """The only other part of two, or the only entry with a label's name."""
        entries = fields(batch)
        if entries is not None:
            found = [v for name, v in entries.items() if str(name).lower() in LABEL_NAMES]
            return found[0] if len(found) == 1 else None
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            return None
        if self.input_fn is not None and not alone:
            return None
        return batch[0 if self.input_key in (1, -1) else 1]

    def _of_output(self, value: Any) -> Any:
        """The label of the output that is explained, where there are several."""
        entries = fields(value)
        if entries is not None:
            return entries.get(self.output)
        several = isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor) and value[0].ndim
        if not several:
            return value
        at = self.output if isinstance(self.output, int) else None
        return value[at] if at is not None and -len(value) <= at < len(value) else None


def missing(batch: str) -> str:
    """What is said where "label" is asked for and there is none; `batch` says what came."""
    return (
        f'target="label" needs the ground truth, and {batch} has none that is clear. It is taken unasked from a batch '
        f'(input, label), or a dict with one entry "label", "target" or "y", and from no other. {HOW} target=None '
        "explains the predicted class."
    )


def fields(batch: Any) -> dict[Any, Any] | None:
    """The entries of a batch that has names, else None."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return dict(zip(batch._fields, batch))
    return None


def part(batch: Any, key: Any, name: str) -> Any:
    """The part of a batch at a key, attribute or position; `name` is the argument that named it.

    Raises:
        InputError: there is no such part.
    """
    entries = fields(batch)
    if isinstance(batch, (tuple, list)) and isinstance(key, int):
        if not -len(batch) <= key < len(batch):
            raise InputError(f"The batch has {len(batch)} parts, so there is no {name}={key}.")
        return batch[key]
    if entries is None:
        raise InputError(f"The batch is a {describe(batch)}; {name}={key!r} cannot be looked up in it.")
    if key not in entries:
        raise InputError(f"The batch has no {name}={key!r}.{did_you_mean(key, entries)} It has: {list(entries)}.")
    return entries[key]
