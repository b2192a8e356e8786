"""Do two methods name the same elements? The measures of the disagreement problem, and the matrix of all pairs.

They look at the k elements of largest size, or at all pairs of elements. Equal sizes are put in one order for both
maps, drawn by `seed`. No model is asked.

Reference: Krishna et al., The Disagreement Problem in Explainable Machine Learning (2022), arXiv:2202.01602.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.metrics.ranking import count_of, largest, pair_counts
from interp_plugins.metrics.registry import metric_info, register_metric
from interp_plugins.metrics.rows import Judged, as_row_pair, wide
from interp_plugins.metrics.undefined import NOT_FINITE, defined

_SOURCE = "Krishna et al. 2022, arXiv:2202.01602"


class _Tops:
    """The k largest elements of two maps."""

    def __init__(self, a: Judged, b: Judged, k: int | float, ties: str, seed: int):
        self.left, self.right = as_row_pair(a, b)
        self.k = count_of(k, self.left.shape[1])
        self.first, self.second = (largest(r.abs(), self.k, ties, seed) for r in (self.left, self.right))
        self.infinite = ~(self.left.isfinite().all(1) & self.right.isfinite().all(1))

    def _member(self, top: Tensor) -> Tensor:
        return torch.zeros_like(self.left, dtype=torch.bool).scatter_(1, top, True)

    def shared(self) -> Tensor:
        """Bool (N, D): elements in both tops."""
        return self._member(self.first) & self._member(self.second)

    def same_sign(self) -> Tensor:
        """Bool (N, D): elements of the same sign in both maps."""
        return self.left.sign() == self.right.sign()

    def share(self, counted: Tensor) -> Tensor:
        """How many of k are counted, as a share; NaN where a map is not finite."""
        return defined(wide(counted.sum(1)) / self.k, None, {NOT_FINITE: self.infinite})


@register_metric(
    "feature_agreement",
    kind="agreement",
    needs="pair",
    higher_is_better=True,
    sign_invariant=True,
    reference=_SOURCE,
    says="share of the k largest |a| that both maps name",
)
def feature_agreement(a: Judged, b: Judged, *, k: int | float = 0.1, ties: str = "random", seed: int = 0) -> Tensor:
    """Share of the k elements of largest size that two maps have in common; chance is k / D.

    Args:
        a: maps, a tensor or a tuple of tensors (one per input), or an `Explanation`.
        b: maps of the same shapes.
        k: how many elements, or a share of them in (0, 1).
        ties: which of equal sizes come first: "random" (drawn by `seed`, the same order for both maps) or "index".
        seed: of that order.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        InputError: shapes that differ, or a k beyond the number of elements.

    Example:
        feature_agreement(torch.tensor([[4.0, -3.0, 2.0, 1.0]]), torch.tensor([[4.0, 3.0, 1.0, 2.0]]), k=2)  # -> [1.0]
    """
    tops = _Tops(a, b, k, ties, seed)
    return tops.share(tops.shared())


@register_metric(
    "top_k_overlap",
    kind="agreement",
    needs="pair",
    higher_is_better=True,
    sign_invariant=True,
    reference="Jaccard 1901; Ghorbani et al. 2019, arXiv:1710.10547, for maps",
    says="the k largest |a| of both maps: intersection over union",
)
def top_k_overlap(a: Judged, b: Judged, *, k: int | float = 0.1, ties: str = "random", seed: int = 0) -> Tensor:
    """Intersection over union of the k elements of largest size of two maps.

    Args:
        a: maps, a tensor or a tuple of tensors (one per input), or an `Explanation`.
        b: maps of the same shapes.
        k: how many elements, or a share of them in (0, 1).
        ties: which of equal sizes come first, as for `feature_agreement`.
        seed: of that order.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        InputError: shapes that differ, or a k beyond the number of elements.

    Example:
        top_k_overlap(torch.tensor([[4.0, 3.0, 0.0]]), torch.tensor([[4.0, 0.0, 3.0]]), k=2)  # -> [0.333333]
    """
    tops = _Tops(a, b, k, ties, seed)
    both = wide(tops.shared().sum(1))
    return defined(both / (2 * tops.k - both), None, {NOT_FINITE: tops.infinite})


@register_metric(
    "rank_agreement",
    kind="agreement",
    needs="pair",
    higher_is_better=True,
    sign_invariant=True,
    reference=_SOURCE,
    says="share of the first k ranks at which both maps name the same element",
)
def rank_agreement(a: Judged, b: Judged, *, k: int | float = 0.1, ties: str = "random", seed: int = 0) -> Tensor:
    """Share of the first k ranks, by size, at which two maps name the same element.

    Args:
        a: maps, a tensor or a tuple of tensors (one per input), or an `Explanation`.
        b: maps of the same shapes.
        k: how many ranks, or a share of the elements in (0, 1).
        ties: which of equal sizes come first, as for `feature_agreement`.
        seed: of that order.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        InputError: shapes that differ, or a k beyond the number of elements.

    Example:
        rank_agreement(torch.tensor([[4.0, 3.0, 1.0]]), torch.tensor([[4.0, 1.0, 3.0]]), k=2)  # -> [0.5]
    """
    tops = _Tops(a, b, k, ties, seed)
    return tops.share(tops.first == tops.second)


@register_metric(
    "sign_agreement",
    kind="agreement",
    needs="pair",
    higher_is_better=True,
    reference=_SOURCE,
    says="share of the k largest |a| that both maps name with one sign",
)
def sign_agreement(a: Judged, b: Judged, *, k: int | float = 0.1, ties: str = "random", seed: int = 0) -> Tensor:
    """Share of the k elements of largest size that two maps have in common, with the same sign in both.

    Args:
        a: maps, a tensor or a tuple of tensors (one per input), or an `Explanation`.
        b: maps of the same shapes.
        k: how many elements, or a share of them in (0, 1).
        ties: which of equal sizes come first, as for `feature_agreement`.
        seed: of that order.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        InputError: shapes that differ, or a k beyond the number of elements.

    Example:
        sign_agreement(torch.tensor([[4.0, -3.0, 2.0, 1.0]]), torch.tensor([[4.0, 3.0, 1.0, 2.0]]), k=2)  # -> [0.5]
    """
    tops = _Tops(a, b, k, ties, seed)
    return tops.share(tops.shared() & tops.same_sign())


@register_metric(
    "signed_rank_agreement",
    kind="agreement",
    needs="pair",
    higher_is_better=True,
    reference=_SOURCE,
    says="share of the first k ranks with the same element of one sign",
)
def signed_rank_agreement(a: Judged, b: Judged, *, k: int | float = 0.1, ties: str = "random", seed: int = 0) -> Tensor:
    """Share of the first k ranks, by size, at which two maps name the same element with the same sign.

    Args:
        a: maps, a tensor or a tuple of tensors (one per input), or an `Explanation`.
        b: maps of the same shapes.
        k: how many ranks, or a share of the elements in (0, 1).
        ties: which of equal sizes come first, as for `feature_agreement`.
        seed: of that order.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        InputError: shapes that differ, or a k beyond the number of elements.

    Example:
        signed_rank_agreement(torch.tensor([[4.0, -3.0, 2.0]]), torch.tensor([[4.0, 3.0, 1.0]]), k=2)  # -> [0.5]
    """
    tops = _Tops(a, b, k, ties, seed)
    return tops.share((tops.first == tops.second) & tops.same_sign().gather(1, tops.first))


@register_metric(
    "pairwise_rank_agreement",
    kind="agreement",
    needs="pair",
    higher_is_better=True,
    chance=0.5,
    chance_text="0.5 without ties",
    sign_invariant=True,
    reference=_SOURCE,
    says="share of the pairs of elements whose sizes stand in the same order",
)
def pairwise_rank_agreement(a: Judged, b: Judged) -> Tensor:
    """Share of all pairs of elements whose sizes stand in the same order in two maps; tied in both is the same order.

    Args:
        a: maps, a tensor or a tuple of tensors (one per input), or an `Explanation`.
        b: maps of the same shapes.

    Returns:
        (N,) float64 in [0, 1]; NaN for maps of one element.

    Raises:
        InputError: shapes that differ.

    Example:
        pairwise_rank_agreement(torch.tensor([[4.0, -3.0, 2.0, 1.0]]), torch.tensor([[4.0, 3.0, 1.0, 2.0]]))  # 0.8333
    """
    left, right = as_row_pair(a, b)
    concordant, discordant, tied_a, tied_b, pairs = pair_counts(left.abs(), right.abs())
    tied_both = concordant + discordant + tied_a + tied_b - pairs
    infinite = ~(left.isfinite().all(1) & right.isfinite().all(1))
    why = {NOT_FINITE: infinite, "the map has one element": torch.full((left.shape[0],), pairs == 0)}
    return defined(wide(concordant + tied_both) / max(pairs, 1), None, why)


def agreement_matrix(
    exps: Sequence[Judged], measure: str | Callable[..., Tensor] = "spearman_correlation", **params: Any
) -> Tensor:
    """How far methods agree, pair by pair: the disagreement report.

    Args:
        exps: the maps of M methods over the same samples: `Explanations`, or a list of maps.
        measure: name of a metric that takes two maps (`list_metrics(needs="pair")`), or a function of two maps.
        **params: of the measure.

    Returns:
        (M, M) float64: the mean over the samples for which the measure is defined; NaN where there is none.

    Raises:
        InputError: fewer than two methods, or a metric that does not compare two maps.

    Example:
        agreement_matrix(exps, "feature_agreement", k=0.1).shape  # -> (2, 2)
    """
    many = list(exps)
    if len(many) < 2:
        raise InputError(f"An agreement matrix needs the maps of two methods or more, got {len(many)}.")
    function = measure
    if isinstance(measure, str):
        info = metric_info(measure)
        if info.needs != "pair":
            raise InputError(f"{measure!r} judges {info.needs}; give one of list_metrics(needs='pair').")
        function = info.function
    assert callable(function)
    found = torch.empty(len(many), len(many), dtype=torch.float64)
    for i in range(len(many)):
        for j in range(i, len(many)):
            found[i, j] = found[j, i] = function(many[i], many[j], **params).nanmean()
    return found
