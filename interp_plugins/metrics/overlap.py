"""The map as a detector of the mask: area under the ROC curve, average precision, best overlap. No model is asked.

Only the order of the places counts. Ties are halves for the ROC curve; the other two take all equal places at once.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.metrics.masks import marked
from interp_plugins.metrics.ranking import average_ranks
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.rows import Judged, row_sum, wide
from interp_plugins.metrics.undefined import defined


def ranked_auc(rows: Tensor, inside: Tensor) -> Tensor:
    """Probability that an element inside is larger than one outside, ties half: (N,); NaN where there is no pair."""
    ranks = average_ranks(rows)
    inner = wide(inside.sum(1))
    outer = inside.shape[1] - inner
    return (row_sum(torch.where(inside, ranks, 0.0)) - inner * (inner + 1) / 2) / (inner * outer)


@register_metric(
    "mask_auc",
    kind="localisation",
    needs="masks",
    higher_is_better=True,
    chance=0.5,
    reference="Fawcett 2006, An introduction to ROC analysis",
    says="ROC AUC of the places as a detector of the mask, ties half",
)
def mask_auc(attributions: Judged, masks: Any = None, *, reduce: str | None = "sum") -> Tensor:
    """Probability that a place inside the mask has a larger value than one outside, ties counted half.

    Args:
        attributions: maps (N, ...), a tuple of them (one per input), or an `Explanation`.
        masks: where the thing lies, as for `pointing_game`.
        reduce: how channels become one value per place.

    Returns:
        (N,) float64 in [0, 1]; NaN where the mask is empty or covers everything.

    Example:
        mask_auc(torch.tensor([[0.9, 0.1, 0.4, 0.4]]), torch.tensor([[1, 0, 1, 0]]))  # -> [0.875]
    """
    m = marked(attributions, masks, reduce)
    full = {"the mask covers every place": m.sizes == m.inside.shape[1]}
    return defined(ranked_auc(m.values, m.inside), m.values, {**m.empty, **full})


def _at_or_above(values: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each place in descending order: places at least as large, those of them inside, and whether it is inside."""
    ordered, order = values.sort(dim=1, descending=True, stable=True)
    hits = inside.gather(1, order)
    ascending = ordered.flip(1).contiguous()
    counts = values.shape[1] - torch.searchsorted(ascending, ordered.contiguous(), right=False)
    return counts, hits.long().cumsum(1).gather(1, (counts - 1).clamp_min(0)), hits


def _random_ap(attributions: Judged, masks: Any = None, *, reduce: str | None = "sum") -> Tensor:
    """Mean average precision of a random order: a place inside is always among those at least as large as itself."""
    m = marked(attributions, masks, reduce)
    places = m.inside.shape[1]
    harmonic = math.fsum(1 / k for k in range(1, places + 1))
    others = (wide(m.sizes) - 1) / max(places - 1, 1)
    return ((harmonic + others * (places - harmonic)) / places).cpu()


@register_metric(
    "mask_ap",
    kind="localisation",
    needs="masks",
    higher_is_better=True,
    chance=_random_ap,
    chance_text="somewhat above the mask's share",
    reference="Manning et al. 2008, Introduction to Information Retrieval, section 8.4",
    says="average precision of the places as a detector of the mask",
)
def mask_ap(attributions: Judged, masks: Any = None, *, reduce: str | None = "sum") -> Tensor:
    """Average precision: the mean, over the places inside, of the share inside among the places at least as large.

    Args:
        attributions: maps (N, ...), a tuple of them (one per input), or an `Explanation`.
        masks: where the thing lies, as for `pointing_game`.
        reduce: how channels become one value per place.

    Returns:
        (N,) float64 in [0, 1]; NaN for an empty mask.

    Example:
        mask_ap(torch.tensor([[0.9, 0.5, 0.4]]), torch.tensor([[1, 0, 1]]))  # -> [0.833333]
    """
    m = marked(attributions, masks, reduce)
    counts, above, hits = _at_or_above(m.values, m.inside)
    precision = torch.where(hits, wide(above) / counts.clamp_min(1), 0.0)
    return defined(row_sum(precision) / m.sizes, m.values, m.empty)


@register_metric(
    "mask_iou",
    kind="localisation",
    needs="masks",
    higher_is_better=True,
    reference="Jaccard 1901, Bulletin de la Societe vaudoise des sciences naturelles 37",
    says="intersection over union of the mask and the places above a threshold",
)
def mask_iou(
    attributions: Judged, masks: Any = None, *, threshold: str | float = "best", reduce: str | None = "sum"
) -> Tensor:
    """Overlap of the mask and the places from a threshold up: intersection over union.

    Args:
        attributions: maps (N, ...), a tuple of them (one per input), or an `Explanation`.
        masks: where the thing lies, as for `pointing_game`.
        threshold: "best" - the largest overlap that any threshold gives; a number in [0, 1) - that quantile of the
            sample's own places: at 0.9 the upper tenth, with all that equal its smallest.
        reduce: how channels become one value per place.

    Returns:
        (N,) float64 in [0, 1]; NaN for an empty mask.

    Raises:
        InputError: another threshold.

    Example:
        mask_iou(torch.tensor([[0.9, 0.1, 0.4, 0.4]]), torch.tensor([[1, 0, 1, 0]]))  # -> [0.666667]
    """
    number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
    if threshold != "best" and not (number and 0 <= threshold < 1):  # type: ignore[operator]
        raise InputError(f'threshold must be "best" or a quantile in [0, 1), got {threshold!r}.')
    m = marked(attributions, masks, reduce)
    counts, above, _ = _at_or_above(m.values, m.inside)
    overlaps = wide(above) / (counts + m.sizes[:, None] - above)
    if threshold == "best":
        return defined(overlaps.amax(1), m.values, m.empty)
    places = m.values.shape[1]
    last = min(places, max(1, round((1 - float(threshold)) * places))) - 1
    return defined(overlaps[:, last], m.values, m.empty)
