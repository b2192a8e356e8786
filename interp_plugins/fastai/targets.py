"""What a fastai user asks for, by the kind of data: a class of a segmentation is a region, a key point two outputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastai.torch_core import TensorMultiCategory
from fastai.vision.core import TensorMask, TensorPoint
from torch import Tensor

from interp_plugins.core.errors import TargetError
from interp_plugins.core.literals import map_literals, wants_truth
from interp_plugins.core.region import ClassRegion
from interp_plugins.fastai.labels import label_of, true_classes
from interp_plugins.fastai.learner_info import has_target

_POINT = re.compile(r"point\s*(\d+)", re.IGNORECASE)


def as_asked(target: Any, dls: Any, labels: Sequence[Any], number: int | None = None) -> Any:
    """A target that the core knows, from `Learner.explain`'s.

    Args:
        target: see `Learner.explain`.
        dls: the Learner's DataLoaders.
        labels: the targets of the batch, as the loader gave them; empty without ground truth.
        number: which of them belongs to the output that is explained, see `labels.label_number`.

    Returns:
        For a segmentation, classes (and None, the largest one predicted) as regions; for key points, "point 3" as the
        two outputs of it; "label" as the ground truth; anything else as it is. So in a list and in a target, too.
    """
    if has_target(dls, TensorMask):
        return map_literals(target, lambda one: _region(one, label_of(labels, number)))
    points, several = has_target(dls, TensorPoint), has_target(dls, TensorMultiCategory)

    def outputs(one: Any) -> Any:
        return true_classes(labels, number, several) if wants_truth(one) else _outputs(one, points)

    return map_literals(target, outputs)


def _outputs(target: Any, points: bool) -> Any:
    if points and isinstance(target, str) and (found := _POINT.fullmatch(target.strip())):
        first = 2 * int(found[1])
        return [first, first + 1]
    return target


def _region(target: Any, truth: Any) -> Any:
    if wants_truth(target):
        if not isinstance(truth, Tensor):
            raise TargetError(
                "target='label' means the true mask, and this batch has none. Take the samples from labelled data "
                "(ds_idx=1, idxs=[...]), or give a class by name: its region is where the model predicts it."
            )
        return ClassRegion(truth=truth)
    if isinstance(target, tuple) and len(target) == 2 and target[0] == "label":
        return ClassRegion(target[1])
    if isinstance(target, (int, np.integer)) and not isinstance(target, bool):
        return ClassRegion(int(target))
    if target is None or isinstance(target, (str, bool, np.bool_)):
        return ClassRegion(target)
    return target
