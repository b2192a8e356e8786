"""The ground truth that came with a batch: for `target="label"`, and as class indices beside the maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from interp_plugins.core.errors import InputError, TargetError
from interp_plugins.core.literals import literals, wants_truth
from interp_plugins.core.tensors import describe
from interp_plugins.core.truth import TrueClasses, class_labels


def wants_label(target: Any) -> bool:
    """Whether the ground truth is asked for: alone, in a list of targets, or in a target such as a contrast."""
    return any(map(wants_truth, literals(target)))


def label_number(label_key: Any, output: Any) -> int | None:
    """Which of the data's targets belongs to the output that is explained: as told, else that at the output's place.

    Raises:
        InputError: `label_key` is no position.
    """
    if label_key is not None and (not isinstance(label_key, int) or isinstance(label_key, bool)):
        raise InputError(
            f"label_key={label_key!r} must be the position of a target among the data's targets, from 0: a fastai "
            "batch has no names."
        )
    return label_key if label_key is not None else output if isinstance(output, int) else None


def label_of(labels: Sequence[Any], number: int | None) -> Any:
    """The target of the data that belongs to the output that is explained; None where that is not known.

    Args:
        labels: the targets of the batch, as the loader gave them.
        number: which of them, see `label_number`.
    """
    if len(labels) == 1:
        return labels[0]
    return labels[number] if number is not None and -len(labels) <= number < len(labels) else None


def true_classes(labels: Sequence[Any], number: int | None = None, several: bool = False) -> TrueClasses | list[int]:
    """The samples' true classes as a target; a list of indices where samples have several labels.

    Args:
        labels: the targets of the batch, as the loader gave them.
        number: which of them, see `label_number`.
        several: whether a sample may have several labels.

    Raises:
        TargetError: no ground truth, or one that is not one class per sample.
    """
    if not labels:
        raise TargetError(
            "target='label' means the ground truth, and this batch has none. Take the samples from labelled data "
            "(ds_idx=1, idxs=[...]), or give the class by name or index; a class that is called 'label' is "
            "('label', 'label')."
        )
    truth = label_of(labels, number)
    if truth is None and len(labels) > 1:
        raise TargetError(
            f"target='label' works for one class per sample; the data have {len(labels)} targets, and nothing says "
            "which one belongs to the output that is explained. Say it: output=0 (the output at that place, with its "
            "target), or label_key=0 (that target)."
        )
    if not isinstance(truth, Tensor):
        raise TargetError(
            f"target='label' works for one class per sample; the ground truth is a {describe(truth)}. Give an index, "
            "or a function output -> (N,)."
        )
    marked = truth.ndim == 2 and bool(((truth == 0) | (truth == 1)).all())
    if marked and (several or bool((truth.sum(1) != 1).any())) and (several or truth.shape[1] > 1):
        found = truth.sum(0).nonzero().flatten().tolist()
        if bool((truth.sum(1) == 1).all()):
            return TrueClasses(truth.argmax(1))
        if not found:
            raise TargetError("target='label' means the true labels, and these samples have none. Name a class.")
        return found  # several labels: one explanation for each that any sample has
    classes = class_labels(truth, len(truth))
    if classes is not None:
        return TrueClasses(classes)
    raise TargetError(
        f"target='label' needs one class per sample, but the ground truth is a {describe(truth)}. Give an index, a "
        "tuple of indices, or a function output -> (N,)."
    )


def class_indices(labels: Sequence[Any], n: int, number: int | None = None) -> Tensor | None:
    """Class indices, one per sample, where the ground truth is that; else None.

    Args:
        labels: the targets of the batch, as the loader gave them.
        n: number of samples.
        number: which of them, see `label_number`.
    """
    return class_labels(label_of(labels, number), n)
