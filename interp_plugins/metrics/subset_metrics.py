"""Does the map add up as the score does? Correlations of the map's sums with falls of the score, over subsets.

All take `(forward_func, inputs, attributions, baselines)` or `(forward_func, explanation)`, and `target`,
`additional_forward_args`, `features`, `reduce` ("sum" here: whole pixels go), `batch_size`, `seed` and `ids`. Which
subsets are removed does not depend on the map: inside `shared_rows` the rows of one method serve all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.shared.grid_features import grid_mask, spatial_axes
from interp_plugins.core.errors import InputError
from interp_plugins.metrics.ranking import average_ranks, count_of
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.rows import row_sum
from interp_plugins.metrics.similarity import cosine_of_rows
from interp_plugins.metrics.subsets import EVERY, OPTIONS, Falls, falls, single
from interp_plugins.metrics.undefined import defined

Model = Callable[..., Any]
_GRID = 8  # sizes of subsets where nobody chose them
_SAME = 1e-12  # of the largest: sums of equal numbers differ by their rounding
NEVER_MOVES = "the score is the same without every subset"
FLAT = "the map's sums over the subsets are all the same"


@register_metric(
    "faithfulness_correlation",
    kind="faithfulness",
    needs="scores",
    higher_is_better=True,
    chance=0.0,
    reference="Bhatt et al. 2020, arXiv:2005.00631",
    cost="n_subsets + 1",
    says="correlation of the map's sum over a random subset and f(x) - f(x without it)",
    options=OPTIONS,
)
def faithfulness_correlation(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    subset_size: int | float = 0.25,
    n_subsets: int = 100,
    **options: Any,
) -> Tensor:
    """Pearson's correlation of a map's sums over random subsets with what the score loses without them.

    An exact map of a linear model scores 1, a random map 0 in the mean.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: what replaces the input; None: the `Explanation`'s, or zeros.
        subset_size: features in a subset, or their share.
        n_subsets: random subsets; where there are no more of this size, each is taken once.
        **options: `target`, `features`, `reduce` ("sum") and so on, as for `removal_curves`; `seed` and `ids` decide
            the subsets.

    Returns:
        (N,) float64 in [-1, 1]; NaN where the score or the map's sum never changes.

    Raises:
        InputError: fewer than two subsets, or a size that the sample does not have.

    Example:
        w = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        faithfulness_correlation(lambda v: (v * w).sum(1), torch.ones(1, 4), w, subset_size=2)  # -> [1.0]
    """
    _check_count(n_subsets)

    def sizes(totals: Tensor) -> Tensor:
        return torch.tensor([[count_of(subset_size, t, "subset_size")] for t in totals.tolist()])

    found = falls(sizes, n_subsets, (forward_func, inputs, attributions, baselines), **options)
    return defined(*_correlation(found))


def _check_count(n_subsets: Any) -> None:
    if isinstance(n_subsets, bool) or not isinstance(n_subsets, int) or n_subsets < 2:
        raise InputError(f"n_subsets must be an int from 2 up, got {n_subsets!r}.")


def _correlation(found: Falls, rank: bool = False) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The correlation for the only size, the maps, and where it is undefined."""
    values, still, flat = (v[:, 0] for v in correlations(found, rank))
    return values, found.maps, {NEVER_MOVES: still, FLAT: flat}


def correlations(found: Falls, rank: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Correlations of falls and sums over the subsets of each size, and where one of both does not move: (N, K) each.

    Args:
        found: falls and sums.
        rank: of their ranks.
    """
    n, k, s = found.scores.shape
    scores, sums = found.scores.reshape(n * k, s), found.sums.reshape(n * k, s)
    counts = (~scores.isnan()).sum(1)
    values = torch.full((n * k,), torch.nan, dtype=torch.float64)
    still, flat = torch.zeros(n * k, dtype=torch.bool), torch.zeros(n * k, dtype=torch.bool)
    for count in counts.unique().tolist():
        own = counts == count
        if count == 0:
            continue
        pair = [v[own][:, :count].contiguous() for v in (scores, sums)]
        still[own], flat[own] = (v.amax(1) - v.amin(1) <= _SAME * v.abs().amax(1) for v in pair)
        if rank:
            pair = [average_ranks(v) for v in pair]
        values[own] = cosine_of_rows(*(v - row_sum(v)[:, None] / count for v in pair))
    return values.reshape(n, k), still.reshape(n, k), flat.reshape(n, k)


@register_metric(
    "mu_fidelity",
    kind="faithfulness",
    needs="scores",
    higher_is_better=True,
    chance=0.0,
    reference="Bhatt et al. 2020, arXiv:2005.00631, with cells and ranks as Fel et al. 2022, arXiv:2206.04394",
    cost="n_subsets + 1",
    says="rank correlation of the map's sum over random cells and f(x) - f(x without them)",
    options=OPTIONS,
)
def mu_fidelity(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    grid: int = 7,
    share: float = 0.5,
    rank: bool = True,
    n_subsets: int = 100,
    features: Any = None,
    **options: Any,
) -> Tensor:
    """Correlation of a map's sums over random sets of cells with what the score loses without them.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: what replaces the input; None: the `Explanation`'s, or zeros.
        grid: cells along each axis of places; rows of a table have none, and each element is a cell.
        share: of the cells, that are removed.
        rank: Spearman's correlation; else Pearson's.
        n_subsets: random subsets; where there are no more of this size, each is taken once.
        features: what goes together, in place of the grid.
        **options: as for `removal_curves`; `reduce` is "sum".

    Returns:
        (N,) float64 in [-1, 1]; NaN where the score or the map's sum never changes.

    Raises:
        InputError: fewer than two subsets, no cell along an axis, or a share outside of (0, 1).

    Example:
        mu_fidelity(model, x, torch.randn(2, 1, 24, 24), grid=4, target=0).shape  # -> (2,)
    """
    _check_count(n_subsets)
    if isinstance(grid, bool) or not isinstance(grid, int) or grid < 1:
        raise InputError(f"grid must be a positive int, got {grid!r}.")
    if not isinstance(share, float) or not 0 < share < 1:
        raise InputError(f"share must be a number in (0, 1), got {share!r}.")

    def sizes(totals: Tensor) -> Tensor:
        return torch.tensor([[count_of(share, t, "share")] for t in totals.tolist()])

    found = falls(
        sizes,
        n_subsets,
        (forward_func, inputs, attributions, baselines),
        features=partial(_cells, grid=grid) if features is None else features,
        **options,
    )
    return defined(*_correlation(found, rank))


def _cells(maps: tuple[Tensor, ...], grid: int) -> tuple[Tensor, ...] | None:
    """Numbers of the cells, one after the other over all maps; None where a map is a row without places."""
    if any(m.ndim < 3 for m in maps):
        return None
    masks: list[Tensor] = []
    for m in maps:
        axes = spatial_axes(m)
        start = int(masks[-1].max()) + 1 if masks else 0
        masks.append(grid_mask(m, (grid,) * len(axes), axes) + start)
    return tuple(masks)


@register_metric(
    "faithfulness_estimate",
    kind="faithfulness",
    needs="scores",
    higher_is_better=True,
    chance=0.0,
    reference="Alvarez-Melis and Jaakkola 2018, arXiv:1806.07538",
    cost="features + 1",
    says="correlation of the map and f(x) - f(x without one feature)",
    options=OPTIONS,
)
def faithfulness_estimate(
    forward_func: Model, inputs: Any, attributions: Any = None, baselines: Any = None, **options: Any
) -> Tensor:
    """Pearson's correlation of a map with what the score loses without each feature.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: what replaces the input; None: the `Explanation`'s, or zeros.
        **options: as for `removal_curves`; `reduce` is "sum". Without `features`, each place is a row: give superpixels
            for pictures.

    Returns:
        (N,) float64 in [-1, 1]; NaN where the score never changes, or the map is constant.

    Example:
        w = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        faithfulness_estimate(lambda v: (v * w).sum(1), torch.ones(1, 4), w)  # -> [1.0]
    """
    found = falls(single, EVERY, (forward_func, inputs, attributions, baselines), **options)
    return defined(*_correlation(found))


@dataclass(frozen=True)
class SensitivityCurve:
    """What `sensitivity_curve` gives; K sizes of subsets.

    Attributes:
        sizes: (N, K) int64, features in the subsets; 0 where a sample has fewer sizes.
        correlation: (N, K) float64, the correlation over subsets of this size; NaN where it is undefined.
        mean: (N,) float64, the mean over the sizes that have one.
    """

    sizes: Tensor
    correlation: Tensor
    mean: Tensor


@register_metric(
    "sensitivity_n",
    kind="faithfulness",
    needs="scores",
    higher_is_better=True,
    chance=0.0,
    reference="Ancona et al. 2018, arXiv:1711.06104",
    cost="n_subsets for each n, + 1",
    says="faithfulness_correlation for subsets of n features, mean over n",
    options=OPTIONS,
)
def sensitivity_n(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    n: int | float | Sequence[int | float] | None = None,
    n_subsets: int = 100,
    **options: Any,
) -> Tensor:
    """Mean over n of the correlation, within a sample, of a map's sums over n features and the fall without them.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: what replaces the input; None: the `Explanation`'s, or zeros.
        n: features in a subset, their share, or several of these; None: eight sizes from 1 to 0.8 of the features, on
            a logarithmic grid.
        n_subsets: random subsets of each size; where there are no more of a size, each is taken once.
        **options: as for `removal_curves`; `reduce` is "sum".

    Returns:
        (N,) float64 in [-1, 1]; NaN where no size has a correlation.

    Raises:
        InputError: fewer than two subsets, or a size that the sample does not have.

    Example:
        w = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        sensitivity_n(lambda v: (v * w).sum(1), torch.ones(1, 4), w)  # -> [1.0]
    """
    found, values = _by_size((forward_func, inputs, attributions, baselines), n, n_subsets, options)
    still, flat = values[1], values[2]
    none = _curve(found, values[0]).mean.isnan()
    reasons = {NEVER_MOVES: none & still.any(1), FLAT: none & flat.any(1)}
    return defined(_curve(found, values[0]).mean, found.maps, reasons)


def sensitivity_curve(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    n: int | float | Sequence[int | float] | None = None,
    n_subsets: int = 100,
    **options: Any,
) -> SensitivityCurve:
    """The correlations of `sensitivity_n`, size by size; all arguments are those of `sensitivity_n`.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: what replaces the input; None: the `Explanation`'s, or zeros.
        n: features in a subset, their share, several of these, or None for a grid.
        n_subsets: random subsets of each size.
        **options: as for `removal_curves`; `reduce` is "sum".

    Raises:
        InputError: fewer than two subsets, or a size that the sample does not have.

    Example:
        w = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        sensitivity_curve(lambda v: (v * w).sum(1), torch.ones(1, 4), w).sizes  # -> [[1, 2, 3]]
    """
    found, values = _by_size((forward_func, inputs, attributions, baselines), n, n_subsets, options)
    return _curve(found, values[0])


def _by_size(
    given: tuple[Any, ...], n: Any, n_subsets: int, options: dict[str, Any]
) -> tuple[Falls, tuple[Tensor, Tensor, Tensor]]:
    _check_count(n_subsets)

    def sizes(totals: Tensor) -> Tensor:
        own = [_sizes(n, total) for total in totals.tolist()]
        most = max(len(one) for one in own)
        return torch.tensor([one + [0] * (most - len(one)) for one in own])

    found = falls(sizes, n_subsets, given, **options)
    return found, correlations(found)


def _sizes(n: Any, total: int) -> list[int]:
    """Sizes of subsets, ascending, each once."""
    if n is None:
        top = max(1.0, 0.8 * total)
        return sorted({max(1, round(top ** (k / (_GRID - 1)))) for k in range(_GRID)})
    many = list(n) if isinstance(n, Sequence) else [n]
    return sorted({count_of(one, total, "n") for one in many})


def _curve(found: Falls, correlation: Tensor) -> SensitivityCurve:
    counts = (~correlation.isnan()).sum(1)
    mean = correlation.nan_to_num(0.0).cumsum(1)[:, -1] / counts  # NaN where there is none
    return SensitivityCurve(found.sizes, correlation, mean)
