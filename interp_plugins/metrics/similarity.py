"""How alike two maps of the same samples are: cosine similarity, and Spearman's rank correlation.

The cosine compares signed sizes and is ruled by the largest elements; the rank correlation compares only the order and
gives every element the same say, the thousand near zero as well. Two maps that differ by a positive factor are the
same to both. Cost: a product, or a sort, per sample.

References: Adebayo et al., Sanity Checks for Saliency Maps (2018), for rank correlation between maps; Spearman (1904).
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_plugins.metrics.rows import Maps, as_row_pair


def cosine_similarity(a: Maps, b: Maps) -> Tensor:
    """Cosine of the angle between two maps, per sample: sum(a * b) / (|a| |b|).

    Args:
        a: maps, a tensor or a tuple of tensors (one per input), batch first; a tuple counts as one long map.
        b: maps of the same shapes.

    Returns:
        (N,) float64 in [-1, 1]; NaN where one of the two maps is zero everywhere, for then there is no angle.

    Raises:
        InputError: shapes that differ.

    Example:
        cosine_similarity(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]]))  # 0.7071
    """
    left, right = as_row_pair(a, b)
    return _cosine(left, right)


def spearman_correlation(a: Maps, b: Maps) -> Tensor:
    """Spearman's rank correlation of two maps, per sample: Pearson's correlation of the ranks.

    Elements of equal value share the mean of their ranks.

    Args:
        a: maps, a tensor or a tuple of tensors (one per input), batch first; a tuple counts as one long map.
        b: maps of the same shapes.

    Returns:
        (N,) float64 in [-1, 1]; NaN where one of the two maps is constant, for then there is no order.

    Raises:
        InputError: shapes that differ.

    Example:
        spearman_correlation(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.1, 0.2, 0.3]]))  # 1
    """
    left, right = (_ranks(rows) for rows in as_row_pair(a, b))
    return _cosine(left - left.mean(1, keepdim=True), right - right.mean(1, keepdim=True))


def _ranks(rows: Tensor) -> Tensor:
    """Ranks 1..D within each row, ties averaged."""
    rows = rows.contiguous()
    ordered = rows.sort(dim=1).values
    below = torch.searchsorted(ordered, rows, right=False)
    not_above = torch.searchsorted(ordered, rows, right=True)
    ranks = (below + not_above + 1).to(rows.dtype) / 2
    return torch.where(rows.isnan().any(1, keepdim=True), torch.nan, ranks)


def _cosine(left: Tensor, right: Tensor) -> Tensor:
    """Cosine per row; scaled first, so that neither tiny nor huge maps lose themselves in the squares."""
    left, right = (rows / rows.abs().amax(1, keepdim=True) for rows in (left, right))
    product = (left * right).sum(1) / (left.norm(dim=1) * right.norm(dim=1))
    return product.clamp(-1.0, 1.0)
