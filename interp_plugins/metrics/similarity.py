"""How alike two maps of the same samples are: cosine, the rank correlations of Spearman and Kendall, SSIM.

The cosine compares signed sizes and is ruled by the largest elements; the rank correlations compare only the order and
give every element the same say, the thousand near zero as well; SSIM compares neighbourhoods of pictures. Maps that
differ by a positive factor are the same to all but SSIM, which takes both on one scale. No model is asked.

References: Adebayo et al., Sanity Checks for Saliency Maps (2018), for rank correlation and SSIM between maps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.metrics.ranking import average_ranks, pair_counts
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.rows import Judged, as_row_pair, maps_of, reduced, row_norm, row_sum, wide
from interp_plugins.metrics.undefined import NOT_FINITE, defined


def _why(left: Tensor, right: Tensor, text: str, where: Tensor) -> dict[str, Tensor]:
    return {NOT_FINITE: ~(left.isfinite().all(1) & right.isfinite().all(1)), text: where}


@register_metric(
    "cosine_similarity",
    kind="agreement",
    needs="pair",
    higher_is_better=True,
    chance=0.0,
    reference="cosine of the angle between vectors",
    says="sum(a b) / (|a| |b|)",
)
def cosine_similarity(a: Judged, b: Judged) -> Tensor:
    """Cosine of the angle between two maps, per sample: sum(a * b) / (|a| |b|).

    Args:
        a: maps, a tensor or a tuple of tensors (one per input), batch first; a tuple counts as one long map; or an
            `Explanation`.
        b: maps of the same shapes.

    Returns:
        (N,) float64 in [-1, 1]; NaN where one of the two maps is zero everywhere, for then there is no angle.

    Raises:
        InputError: shapes that differ.

    Example:
        cosine_similarity(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]]))  # 0.7071
    """
    left, right = as_row_pair(a, b)
    nothing = (left == 0).all(1) | (right == 0).all(1)
    return defined(cosine_of_rows(left, right), None, _why(left, right, "a map is zero everywhere", nothing))


@register_metric(
    "spearman_correlation",
    kind="agreement",
    needs="pair",
    higher_is_better=True,
    chance=0.0,
    reference="Spearman 1904",
    says="Pearson's correlation of the ranks, ties averaged",
)
def spearman_correlation(a: Judged, b: Judged) -> Tensor:
    """Spearman's rank correlation of two maps, per sample: Pearson's correlation of the ranks.

    Elements of equal value share the mean of their ranks.

    Args:
        a: maps, a tensor or a tuple of tensors (one per input), batch first; a tuple counts as one long map; or an
            `Explanation`.
        b: maps of the same shapes.

    Returns:
        (N,) float64 in [-1, 1]; NaN where one of the two maps is constant, for then there is no order.

    Raises:
        InputError: shapes that differ.

    Example:
        spearman_correlation(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.1, 0.2, 0.3]]))  # 1
    """
    left, right = as_row_pair(a, b)
    found = cosine_of_rows(centred_ranks(left), centred_ranks(right))
    return defined(found, None, _why(left, right, "a map is constant", _constant(left) | _constant(right)))


@register_metric(
    "kendall_tau",
    kind="agreement",
    needs="pair",
    higher_is_better=True,
    chance=0.0,
    reference="Kendall 1945, Biometrika 33 (tau-b)",
    says="(pairs in the same order - in the other) / untied pairs",
)
def kendall_tau(a: Judged, b: Judged) -> Tensor:
    """Kendall's tau-b of two maps: pairs of elements in the same order less those in the other, ties allowed for.

    Pairs are counted in D log D steps, so whole pictures can be compared.

    Args:
        a: maps, a tensor or a tuple of tensors (one per input), or an `Explanation`.
        b: maps of the same shapes.

    Returns:
        (N,) float64 in [-1, 1]; NaN where one of the two maps is constant.

    Raises:
        InputError: shapes that differ.

    Example:
        kendall_tau(torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[4.0, 3.0, 1.0, 2.0]]))  # -> [0.666667]
    """
    left, right = as_row_pair(a, b)
    concordant, discordant, tied_a, tied_b, pairs = pair_counts(left, right)
    size = wide(pairs - tied_a).sqrt() * wide(pairs - tied_b).sqrt()
    found = (wide(concordant - discordant) / size).clamp(-1.0, 1.0)
    return defined(found, None, _why(left, right, "a map is constant", _constant(left) | _constant(right)))


@register_metric(
    "ssim",
    kind="agreement",
    needs="pair",
    higher_is_better=True,
    scale_invariant=False,
    reference="Wang et al. 2004, IEEE Transactions on Image Processing 13",
    says="structural similarity of two-dimensional maps",
)
def ssim(a: Judged, b: Judged, *, window: int = 7, reduce: str = "sum") -> Tensor:
    """Structural similarity of two maps over pictures: means, spreads and covariance in sliding windows, averaged.

    The range, in the constants of the formula, is that of the pair: largest value of both less the smallest.

    Args:
        a: maps (N, C, H, W) or (N, H, W), or an `Explanation`.
        b: maps of the same shape.
        window: side of the windows, odd; all weigh the same, and only those that lie inside count.
        reduce: how channels become one value per pixel.

    Returns:
        (N,) float64 in [-1, 1]; NaN where both maps are one constant.

    Raises:
        InputError: maps that are no pictures, or smaller than the window.

    Example:
        ssim(torch.eye(8)[None], torch.eye(8)[None])  # -> [1.0]
    """
    left, right = as_row_pair(a, b)
    shape = tuple(getattr(maps_of(a), "shape", ()))
    if len(shape) not in (3, 4):
        raise InputError(f"ssim compares maps (N, C, H, W) or (N, H, W), got {shape or 'a tuple of maps'}.")
    if isinstance(window, bool) or not isinstance(window, int) or window < 3 or window % 2 == 0:
        raise InputError(f"window must be an odd int from 3 up, got {window!r}.")
    if min(shape[-2:]) < window:
        raise InputError(f"A window of {window} does not fit maps of {shape[-2]} x {shape[-1]}: give window=.")
    axes = (1,) if len(shape) == 4 else ()
    x, y = (reduced(one.reshape(shape), axes, reduce) for one in (left, right))
    low = torch.minimum(x.flatten(1).amin(1), y.flatten(1).amin(1))
    high = torch.maximum(x.flatten(1).amax(1), y.flatten(1).amax(1))
    span = (high - low)[:, None, None]
    found = row_sum(_similarity(x / span, y / span, window).flatten(1))
    count = (shape[-2] - window + 1) * (shape[-1] - window + 1)
    return defined(found / count, None, _why(left, right, "both maps are one constant", high == low))


def _similarity(x: Tensor, y: Tensor, window: int) -> Tensor:
    """The index at each window of maps whose range is 1: (N, H - window + 1, W - window + 1)."""
    n = window**2
    mean_x, mean_y, xx, yy, xy = (_window_sums(v, window) / n for v in (x, y, x * x, y * y, x * y))
    unbiased = n / (n - 1)
    spread_x, spread_y = unbiased * (xx - mean_x * mean_x), unbiased * (yy - mean_y * mean_y)
    shared = unbiased * (xy - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + c1) * (2 * shared + c2)
    return top / ((mean_x * mean_x + mean_y * mean_y + c1) * (spread_x + spread_y + c2))


def _window_sums(v: Tensor, window: int) -> Tensor:
    """Sums over all windows: shifted maps added one after the other, along one axis and then the other."""
    for axis in (1, 2):
        kept = v.shape[axis] - window + 1
        total = v.narrow(axis, 0, kept).clone()
        for k in range(1, window):
            total += v.narrow(axis, k, kept)
        v = total
    return v


def _constant(rows: Tensor) -> Tensor:
    return rows.amax(1) == rows.amin(1)


def centred_ranks(rows: Tensor) -> Tensor:
    """Ranks within each row less their mean, which is the same whatever the ties."""
    return average_ranks(rows) - (rows.shape[1] + 1) / 2


def cosine_of_rows(left: Tensor, right: Tensor) -> Tensor:
    """Cosine per row; scaled first, so that neither tiny nor huge maps lose themselves in the squares."""
    left, right = (rows / rows.abs().amax(1, keepdim=True) for rows in (left, right))
    product = row_sum(left * right) / (row_norm(left) * row_norm(right))
    return product.clamp(-1.0, 1.0)
