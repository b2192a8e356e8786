"""How few elements carry a map: Gini index, Hoyer's index, entropy and what follows from them. No model is asked.

None of them has a good end: a simple map is not a right one. They count sizes (`sign="absolute"`) unless told
otherwise, do not change when a map is multiplied by a positive number, and depend on how many elements there are: so
compare maps over the same number of them. A map that is zero everywhere has no value.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.rows import Judged, ascending, element_rows, mass, row_norm, row_sum, unit_scale, wide
from interp_plugins.metrics.undefined import defined


def _amounts(attributions: Judged, sign: str, reduce: str | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Rows, their mass scaled to a largest of 1, and the reason of maps without any."""
    rows = element_rows(attributions, reduce)
    amount = mass(rows, sign)
    return rows, unit_scale(amount), {"the map has no mass of this sign": (amount == 0).all(1)}


@register_metric(
    "gini_index",
    kind="complexity",
    needs="maps",
    higher_is_better=None,
    sign_invariant=True,
    reference="Chalasani et al. 2020, arXiv:1810.06583; Hurley and Rickard 2009",
    says="half the mean difference of all pairs of |a| / their mean",
)
def gini_index(attributions: Judged, *, sign: str = "absolute", reduce: str | None = None) -> Tensor:
    """Gini index of the absolute attributions, per sample: 1 - 2 sum_k (c_k / sum(c)) (D - k + 1/2) / D.

    c_1 <= ... <= c_D are the absolute values in ascending order. 0: all elements carry the same; 1 - 1/D: one carries
    everything.

    Args:
        attributions: maps, a tensor or a tuple of tensors (one per input), batch first; a tuple counts as one long map;
            or an `Explanation`.
        sign: what counts: "absolute" values, "positive" ones alone, or "negative".
        reduce: None: element by element; "sum", "abs_sum", "max_abs" or "l2": channels become one value per place.

    Returns:
        (N,) float64 in [0, 1 - 1/D]; NaN for a map that is zero everywhere.

    Example:
        gini_index(torch.tensor([[0.0, 0.0, 0.0, 5.0]]))  # 0.75
    """
    rows, amount, why = _amounts(attributions, sign, reduce)
    amount = ascending(amount)
    d = amount.shape[1]
    weights = (d - torch.arange(1, d + 1, dtype=rows.dtype, device=rows.device) + 0.5) / d
    # Rounding alone could leave the range at its ends.
    return defined((1 - 2 * row_sum(amount * weights) / row_sum(amount)).clamp(0.0, 1 - 1 / d), rows, why)


@register_metric(
    "hoyer",
    kind="complexity",
    needs="maps",
    higher_is_better=None,
    sign_invariant=True,
    reference="Hoyer 2004, JMLR 5; Hurley and Rickard 2009",
    says="(sqrt D - L1 / L2) / (sqrt D - 1)",
)
def hoyer(attributions: Judged, *, sign: str = "absolute", reduce: str | None = None) -> Tensor:
    """Hoyer's sparseness: (sqrt(D) - L1 / L2) / (sqrt(D) - 1), from 0 (all alike) to 1 (one element).

    Args:
        attributions: maps, a tensor or a tuple of tensors (one per input), or an `Explanation`.
        sign: what counts: "absolute" values, "positive" ones alone, or "negative".
        reduce: None: element by element; else how channels become one value per place.

    Returns:
        (N,) float64 in [0, 1]; NaN for a map that is zero everywhere, or has one element.

    Example:
        hoyer(torch.tensor([[1.0, 1.0, 2.0, 0.0]]))  # -> [0.367007]
    """
    rows, amount, why = _amounts(attributions, sign, reduce)
    root = math.sqrt(rows.shape[1])
    found = (root - row_sum(amount) / row_norm(amount)) / (root - 1) if root > 1 else torch.full_like(rows[:, 0], 0.0)
    alone = {"the map has one element": torch.full((rows.shape[0],), root == 1)}
    return defined(found.clamp(0.0, 1.0), rows, {**why, **alone})


@register_metric(
    "entropy",
    kind="complexity",
    needs="maps",
    higher_is_better=None,
    sign_invariant=True,
    reference="Bhatt et al. 2020, arXiv:2005.00631",
    says="entropy of |a| / sum |a|, in nats; relative: / ln D",
)
def entropy(
    attributions: Judged, *, relative: bool = False, sign: str = "absolute", reduce: str | None = None
) -> Tensor:
    """Entropy of the shares that the elements have in a map's mass, in nats: 0 (one element) to ln D (all alike).

    Args:
        attributions: maps, a tensor or a tuple of tensors (one per input), or an `Explanation`.
        relative: divided by ln D, so in [0, 1].
        sign: what counts: "absolute" values, "positive" ones alone, or "negative".
        reduce: None: element by element; else how channels become one value per place.

    Returns:
        (N,) float64; NaN for a map that is zero everywhere, and relative for a map of one element.

    Example:
        entropy(torch.tensor([[1.0, 1.0, 2.0]]))  # -> [1.03972]
    """
    rows, amount, why = _amounts(attributions, sign, reduce)
    shares = amount / row_sum(amount)[:, None]
    most = math.log(rows.shape[1])
    found = _entropy(shares).clamp(0.0, most)
    if not relative:
        return defined(found, rows, why)
    alone = {"the map has one element": torch.full((rows.shape[0],), most == 0)}
    return defined(found / most if most else found, rows, {**why, **alone})


def _entropy(shares: Tensor) -> Tensor:
    """-sum p ln p; the logarithm's last bit depends on where in memory a number stands, so each row stands at a start.

    Vector units take numbers by the group and the rest one by one, with another rounding: rows are padded to whole
    groups, and a row in a batch is then grouped as it is alone.
    """
    padded = torch.nn.functional.pad(shares, (0, -shares.shape[1] % 64), value=1.0)  # ln 1 = 0
    return row_sum(-torch.xlogy(padded, padded))


@register_metric(
    "effective_size",
    kind="complexity",
    needs="maps",
    higher_is_better=None,
    sign_invariant=True,
    reference="Hill 1973, Ecology 54: the number of order 1",
    says="exp(entropy): how many equal elements would be as spread",
)
def effective_size(attributions: Judged, *, sign: str = "absolute", reduce: str | None = None) -> Tensor:
    """How many elements of equal size would be as spread as the map: exp(entropy), from 1 to D.

    Args:
        attributions: maps, a tensor or a tuple of tensors (one per input), or an `Explanation`.
        sign: what counts: "absolute" values, "positive" ones alone, or "negative".
        reduce: None: element by element; else how channels become one value per place.

    Returns:
        (N,) float64; NaN for a map that is zero everywhere.

    Example:
        effective_size(torch.tensor([[2.0, -2.0, 2.0, 0.0]]))  # -> [3.0]
    """
    found = entropy(attributions, sign=sign, reduce=reduce)
    return torch.tensor([math.exp(v) for v in found.tolist()], dtype=torch.float64)


@register_metric(
    "mass_share",
    kind="complexity",
    needs="maps",
    higher_is_better=None,
    sign_invariant=True,
    reference="the inverse of the Lorenz curve; Lorenz 1905",
    says="smallest share of the elements that carries q of the mass",
)
def mass_share(attributions: Judged, *, q: float = 0.9, sign: str = "absolute", reduce: str | None = None) -> Tensor:
    """Smallest share of the elements that carries the share q of a map's mass: from 1/D to about q.

    Args:
        attributions: maps, a tensor or a tuple of tensors (one per input), or an `Explanation`.
        q: the share of the mass, in (0, 1].
        sign: what counts: "absolute" values, "positive" ones alone, or "negative".
        reduce: None: element by element; else how channels become one value per place.

    Returns:
        (N,) float64 in [1/D, 1]; NaN for a map that is zero everywhere.

    Raises:
        InputError: another q.

    Example:
        mass_share(torch.tensor([[6.0, 3.0, 1.0, 0.0]]), q=0.9)  # -> [0.5]
    """
    if isinstance(q, bool) or not isinstance(q, (int, float)) or not 0 < q <= 1:
        raise InputError(f"q must be a share of the mass in (0, 1], got {q!r}.")
    rows, amount, why = _amounts(attributions, sign, reduce)
    carried = ascending(amount).flip(1).cumsum(1)
    enough = carried >= carried[:, -1:] * (q - 1e-12)  # sums of equal parts round
    return defined(wide(rows.shape[1] - enough.sum(1) + 1) / rows.shape[1], rows, why)


@register_metric(
    "support_size",
    kind="complexity",
    needs="maps",
    higher_is_better=None,
    sign_invariant=True,
    reference="the count of Nguyen and Martinez 2020, arXiv:2007.07584, by size alone",
    says="number of elements above tol times the largest",
)
def support_size(
    attributions: Judged, *, tol: float = 0.0, sign: str = "absolute", reduce: str | None = None
) -> Tensor:
    """Number of elements whose size exceeds `tol` times the sample's own largest.

    Args:
        attributions: maps, a tensor or a tuple of tensors (one per input), or an `Explanation`.
        tol: relative to the largest size of the sample; 0 counts what is not zero.
        sign: what counts: "absolute" values, "positive" ones alone, or "negative".
        reduce: None: element by element; else how channels become one value per place.

    Returns:
        (N,) float64, whole numbers; 0 for a map that is zero everywhere.

    Raises:
        InputError: a tolerance outside [0, 1).

    Example:
        support_size(torch.tensor([[4.0, -1.0, 0.0]]), tol=0.1)  # -> [2.0]
    """
    if isinstance(tol, bool) or not isinstance(tol, (int, float)) or not 0 <= tol < 1:
        raise InputError(f"tol must be a share of the largest value in [0, 1), got {tol!r}.")
    rows = element_rows(attributions, reduce)
    amount = mass(rows, sign)
    return defined(wide((amount > tol * amount.amax(1, keepdim=True)).sum(1)), rows)
