"""Maps against what is true of the elements: known attributions, the elements that matter, those that cannot."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.metrics.overlap import ranked_auc
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.rows import Judged, as_row_pair, row_norm, row_sum, unit_scale
from interp_plugins.metrics.similarity import cosine_similarity, spearman_correlation
from interp_plugins.metrics.undefined import defined

_NAMES = ("attributions", "truth")


@register_metric(
    "truth_error",
    kind="truth",
    needs="truth",
    higher_is_better=False,
    scale_invariant=False,
    reference="relative error of a vector",
    says="|a - truth| / |truth|",
)
def truth_error(attributions: Judged, truth: Any, *, norm: float = 2) -> Tensor:
    """Relative error of maps whose true attributions are known: |a - truth| / |truth|.

    Args:
        attributions: maps (N, ...), a tuple of them (one per input), or an `Explanation`.
        truth: the true attributions, of the same shapes.
        norm: 1, 2 or infinity: which norm of the difference and of the truth.

    Returns:
        (N,) float64, 0 for the truth itself, 1 for a map of zeros; NaN where the truth is zero everywhere.

    Raises:
        InputError: shapes that differ, or another norm.

    Example:
        truth_error(torch.tensor([[3.0, 0.0]]), torch.tensor([[3.0, 4.0]]))  # -> [0.8]
    """
    rows, true = as_row_pair(attributions, truth, _NAMES)
    if norm not in (1, 2, float("inf")):
        raise InputError(f"norm must be 1, 2 or float('inf'), got {norm!r}.")
    largest = true.abs().amax(1, keepdim=True)
    sizes = []
    for one in ((rows - true) / largest, true / largest):
        sizes.append(row_sum(one.abs()) if norm == 1 else row_norm(one) if norm == 2 else one.abs().amax(1))
    return defined(sizes[0] / sizes[1], rows, {"the truth is zero everywhere": largest[:, 0] == 0})


@register_metric(
    "truth_cosine",
    kind="truth",
    needs="truth",
    higher_is_better=True,
    chance=0.0,
    reference="cosine of the angle to the truth",
    says="cosine of the angle between map and truth",
)
def truth_cosine(attributions: Judged, truth: Any) -> Tensor:
    """Cosine of the angle between a map and the true attributions; any positive factor is forgiven.

    Args:
        attributions: maps (N, ...), a tuple of them (one per input), or an `Explanation`.
        truth: the true attributions, of the same shapes.

    Returns:
        (N,) float64 in [-1, 1]; NaN where one of the two is zero everywhere.

    Example:
        truth_cosine(torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 2.0]]))  # -> [1.0]
    """
    return cosine_similarity(attributions, truth)


@register_metric(
    "truth_rank",
    kind="truth",
    needs="truth",
    higher_is_better=True,
    chance=0.0,
    reference="Spearman 1904",
    says="Spearman's rank correlation of map and truth",
)
def truth_rank(attributions: Judged, truth: Any) -> Tensor:
    """Spearman's rank correlation between a map and the true attributions: only the order counts.

    Args:
        attributions: maps (N, ...), a tuple of them (one per input), or an `Explanation`.
        truth: the true attributions, of the same shapes.

    Returns:
        (N,) float64 in [-1, 1]; NaN where one of the two is constant.

    Example:
        truth_rank(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[1.0, 2.0, 3.0]]))  # -> [1.0]
    """
    return spearman_correlation(attributions, truth)


@register_metric(
    "truth_auc",
    kind="truth",
    needs="truth",
    higher_is_better=True,
    chance=0.5,
    sign_invariant=True,
    reference="Fawcett 2006, An introduction to ROC analysis",
    says="ROC AUC of |a| as a detector of the elements that matter",
)
def truth_auc(attributions: Judged, truth: Any) -> Tensor:
    """Probability that an element that matters has a larger size than one that does not, ties counted half.

    Args:
        attributions: maps (N, ...), a tuple of them (one per input), or an `Explanation`.
        truth: the elements that matter: bool, or the true attributions, which are not zero there; the same shapes.

    Returns:
        (N,) float64 in [0, 1]; NaN where all elements matter, or none.

    Example:
        truth_auc(torch.tensor([[-5.0, 0.1, 0.2]]), torch.tensor([[True, False, False]]))  # -> [1.0]
    """
    rows, true = as_row_pair(attributions, truth, _NAMES)
    support = true != 0
    count = support.sum(1)
    why = {"no element matters": count == 0, "every element matters": count == rows.shape[1]}
    return defined(ranked_auc(rows.abs(), support), rows, why)


@register_metric(
    "impossible_mass",
    kind="truth",
    needs="truth",
    higher_is_better=False,
    sign_invariant=True,
    reference="Rao et al. 2022, arXiv:2205.10435",
    says="share of |a| on elements that cannot matter",
)
def impossible_mass(attributions: Judged, impossible: Any) -> Tensor:
    """Share of a map's absolute mass on elements that provably cannot matter; a map that is right has none there.

    Args:
        attributions: maps (N, ...), a tuple of them (one per input), or an `Explanation`.
        impossible: the elements that cannot matter, bool (or 0 and 1), of the same shapes.

    Returns:
        (N,) float64 in [0, 1]; NaN for a map that is zero everywhere, and where every element could matter.

    Example:
        impossible_mass(torch.tensor([[3.0, -1.0]]), torch.tensor([[False, True]]))  # -> [0.25]
    """
    rows, wrong = as_row_pair(attributions, impossible, ("attributions", "impossible"))
    if not bool(((wrong == 0) | (wrong == 1)).all()):
        raise InputError("impossible says True or False (1 or 0) of each element; compare it first: truth == 0.")
    wrong = wrong.bool()
    why = {"the map is zero everywhere": (rows == 0).all(1), "every element could matter": ~wrong.any(1)}
    sizes = unit_scale(rows.abs())
    return defined((row_sum(torch.where(wrong, sizes, 0.0)) / row_sum(sizes)).clamp(0.0, 1.0), rows, why)
