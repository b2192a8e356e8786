"""Does the map lie on the thing? Pointing game, relevance inside a mask, and the largest places inside it.

Ties are judged by expectation: a constant map points nowhere and gets its chance, the mask's share of the places.
A mask without a place, or a map without mass, has no value: NaN, counted with its reason. No model is asked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_plugins.metrics.distance import distances
from interp_plugins.metrics.masks import Marked, marked, mask_share
from interp_plugins.metrics.ranking import count_of, expected_inside
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.rows import Judged, mass, row_sum, unit_scale, wide
from interp_plugins.metrics.undefined import defined


@register_metric(
    "pointing_game",
    kind="localisation",
    needs="masks",
    higher_is_better=True,
    chance=mask_share,
    chance_text="mask's share",
    reference="Zhang et al. 2016, arXiv:1608.00507",
    says="is the largest place inside the mask; the mean over all largest places",
)
def pointing_game(
    attributions: Judged, masks: Any = None, *, tolerance: float = 0, reduce: str | None = "sum"
) -> Tensor:
    """Whether the largest place of a map lies inside the mask.

    Args:
        attributions: maps (N, ...), a tuple of them (one per input), or an `Explanation`.
        masks: where the thing lies: (N, H, W), (N, 1, H, W), boxes, spans, columns (see `metrics.masks.FORMS`); None:
            the region of the `Explanation`.
        tolerance: a miss by at most so many places (straight distance) still hits; the paper's is 15 pixels.
        reduce: how channels become one value per place: "sum", "abs_sum", "max_abs", "l2"; None: element by element.

    Returns:
        (N,) float64 in [0, 1]; where several places are largest, the share of them that hits. NaN for an empty mask.

    Example:
        pointing_game(torch.tensor([[3.0, 1.0, 3.0]]), torch.tensor([[True, False, False]]))  # -> [0.5]
    """
    m = marked(attributions, masks, reduce)
    inside = m.inside if tolerance == 0 else distances(m.inside, m.space) <= tolerance
    largest = m.values == m.values.amax(1, keepdim=True)
    return defined(wide((largest & inside).sum(1)) / largest.sum(1), m.values, m.empty)


def _weighted_share(attributions: Judged, masks: Any = None, *, weighted: bool = False, **others: Any) -> Tensor:
    share = mask_share(attributions, masks, reduce=others.get("reduce", "sum"))
    return torch.ones_like(share) if weighted else share


@register_metric(
    "relevance_mass",
    kind="localisation",
    needs="masks",
    higher_is_better=True,
    chance=_weighted_share,
    chance_text="mask's share; weighted: 1",
    reference="Arras et al. 2020, arXiv:2003.07258; weighted: Kohlbrenner et al. 2020, arXiv:1910.09840",
    says="mass inside the mask / all mass; weighted: times places / size of the mask",
)
def relevance_mass(
    attributions: Judged,
    masks: Any = None,
    *,
    weighted: bool = False,
    sign: str = "positive",
    reduce: str | None = "sum",
) -> Tensor:
    """Share of a map's mass that lies inside the mask; also known as energy pointing game, attribution localisation.

    Args:
        attributions: maps (N, ...), a tuple of them (one per input), or an `Explanation`.
        masks: where the thing lies, as for `pointing_game`.
        weighted: divided by the mask's share of the places, so that large masks are no easier; chance is 1.
        sign: what is mass: "positive" values, "absolute" or "negative" ones.
        reduce: how channels become one value per place.

    Returns:
        (N,) float64 in [0, 1], weighted up to P / size of the mask; NaN for an empty mask, or a map without mass.

    Example:
        relevance_mass(torch.tensor([[3.0, 1.0, 1.0, 0.0]]), torch.tensor([[1, 0, 0, 0]]))  # -> [0.6]
    """
    m = marked(attributions, masks, reduce)
    return _mass_inside(m, sign, weighted)


def _mass_inside(m: Marked, sign: str, weighted: bool) -> Tensor:
    amount = mass(m.values, sign)
    nothing = {"the map has no mass of this sign": (amount == 0).all(1)}
    amount = unit_scale(amount)
    # bounded, since inside and outside are added in different orders
    found = (row_sum(torch.where(m.inside, amount, 0.0)) / row_sum(amount)).clamp(0.0, 1.0)
    return defined(found / m.share if weighted else found, m.values, {**m.empty, **nothing})


@register_metric(
    "relevance_rank",
    kind="localisation",
    needs="masks",
    higher_is_better=True,
    chance=mask_share,
    chance_text="mask's share",
    reference="Arras et al. 2020, arXiv:2003.07258",
    says="of the m largest places, m the size of the mask, the share inside",
)
def relevance_rank(attributions: Judged, masks: Any = None, *, reduce: str | None = "sum") -> Tensor:
    """Of the m largest places of a map, m being the size of the mask, the share that lies inside it.

    Args:
        attributions: maps (N, ...), a tuple of them (one per input), or an `Explanation`.
        masks: where the thing lies, as for `pointing_game`.
        reduce: how channels become one value per place.

    Returns:
        (N,) float64 in [0, 1], ties by expectation; NaN for an empty mask.

    Example:
        relevance_rank(torch.tensor([[3.0, 1.0, 1.0, 0.0]]), torch.tensor([[1, 1, 0, 0]]))  # -> [0.75]
    """
    m = marked(attributions, masks, reduce)
    return defined(expected_inside(m.values, m.inside, m.sizes) / m.sizes, m.values, m.empty)


@register_metric(
    "top_k",
    kind="localisation",
    needs="masks",
    higher_is_better=True,
    chance=_weighted_share,
    chance_text="mask's share; weighted: 1",
    reference="Theiner et al. 2022, arXiv:2104.14995",
    says="share of the k largest places inside; weighted: / the mask's share",
)
def top_k(
    attributions: Judged,
    masks: Any = None,
    *,
    k: int | float = 0.05,
    weighted: bool = False,
    reduce: str | None = "sum",
) -> Tensor:
    """Share of the k largest places of a map that lies inside the mask.

    Args:
        attributions: maps (N, ...), a tuple of them (one per input), or an `Explanation`.
        masks: where the thing lies, as for `pointing_game`.
        k: how many places, or a share of them in (0, 1).
        weighted: divided by the mask's share of the places.
        reduce: how channels become one value per place.

    Returns:
        (N,) float64 in [0, 1], weighted up to P / size of the mask; ties by expectation; NaN for an empty mask.

    Raises:
        InputError: a k beyond the number of places.

    Example:
        top_k(torch.tensor([[3.0, 1.0, 1.0, 0.0]]), torch.tensor([[1, 0, 0, 0]]), k=2)  # -> [0.5]
    """
    m = marked(attributions, masks, reduce)
    count = count_of(k, m.values.shape[1])
    found = expected_inside(m.values, m.inside, torch.full_like(m.sizes, count)) / count
    return defined(found / m.share if weighted else found, m.values, m.empty)


@register_metric(
    "mass_distance",
    kind="localisation",
    needs="masks",
    higher_is_better=False,
    reference="a bound of the transport score of Clark et al. 2023, arXiv:2306.12816",
    says="mean distance of the mass to the mask / diagonal",
)
def mass_distance(
    attributions: Judged,
    masks: Any = None,
    *,
    relative: bool = True,
    sign: str = "positive",
    reduce: str | None = "sum",
) -> Tensor:
    """Mean distance of a map's mass to the nearest place of the mask: zero where all of it lies inside.

    It is a lower bound of what it costs to move all the mass onto the mask, and needs no transport solver.

    Args:
        attributions: maps (N, ...), or an `Explanation`, over places with axes: pictures, series, tokens.
        masks: where the thing lies, as for `pointing_game`.
        relative: divided by the longest distance between two places, so in [0, 1]; False: in places.
        sign: what is mass: "positive" values, "absolute" or "negative" ones.
        reduce: how channels become one value per place.

    Returns:
        (N,) float64; NaN for an empty mask, or a map without mass.

    Example:
        m = torch.tensor([[True, False, False, False]])
        mass_distance(torch.tensor([[0.5, 0.25, 0.25, 0.0]]), m, relative=False)  # -> [0.75]
    """
    m = marked(attributions, masks, reduce)
    amount = mass(m.values, sign)
    nothing = {"the map has no mass of this sign": (amount == 0).all(1)}
    amount = unit_scale(amount)
    found = row_sum(amount * distances(m.inside, m.space)) / row_sum(amount)
    longest = max(sum((size - 1) ** 2 for size in m.space) ** 0.5, 1.0)
    return defined(found / longest if relative else found, m.values, {**m.empty, **nothing})
