"""The ground truth that came with a batch: for `target="label"`, and as class indices beside the maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from interp_plugins.core.errors import TargetError
from interp_plugins.core.literals import literals, wants_truth
from interp_plugins.core.tensors import describe


def wants_label(target: Any) -> bool:
    """Whether the ground truth is asked for: alone, in a list of targets, or in a target such as a contrast."""
    return any(map(wants_truth, literals(target)))


def true_classes(labels: Sequence[Any]) -> Tensor | list[int]:
    """The samples' class indices (N,); a list of indices where samples have several labels.

    Args:
        labels: the targets of the batch, as the loader gave them.

    Raises:
        TargetError: no ground truth, or one that is not one class per sample.
    """
    if not labels:
        raise TargetError(
            "target='label' means the ground truth, and this batch has none. Take the samples from labelled data "
            "(ds_idx=1, idxs=[...]), or give the class by name or index; a class that is called 'label' is "
            "('label', 'label')."
        )
    if len(labels) > 1 or not isinstance(labels[0], Tensor):
        raise TargetError(
            f"target='label' works for one class per sample; the data have {len(labels)} targets ({describe(labels[0])}"
            " first). Give an index, or a function output -> (N,)."
        )
    truth: Tensor = labels[0]
    if truth.ndim == 1 and not truth.is_floating_point():
        return truth.long().cpu()
    if truth.ndim == 2 and bool(((truth == 0) | (truth == 1)).all()):
        if bool((truth.sum(1) == 1).all()):
            return truth.argmax(1).cpu()
        found = truth.sum(0).nonzero().flatten().tolist()
        if not found:
            raise TargetError("target='label' means the true labels, and these samples have none. Name a class.")
        return found  # several labels: one explanation for each that any sample has
    raise TargetError(
        f"target='label' needs one class per sample, but the ground truth is a {describe(truth)}. Give an index, a "
        "tuple of indices, or a function output -> (N,)."
    )


def class_indices(labels: Sequence[Any], n: int) -> list[int] | None:
    """Class indices, one per sample, where the ground truth is that; else None.

    Args:
        labels: the targets of the batch, as the loader gave them.
        n: number of samples.
    """
    if len(labels) != 1 or not isinstance(labels[0], Tensor):
        return None
    found = labels[0]
    if found.is_floating_point() or found.is_complex() or found.numel() != n:
        return None
    return [int(v) for v in found.reshape(-1).tolist()]
