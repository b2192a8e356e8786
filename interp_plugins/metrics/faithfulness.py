"""Does the score follow the map? Numbers from removal curves: each asks the model about inputs with parts removed.

All take `(forward_func, inputs, attributions, baselines)` or `(forward_func, explanation)`, and the options of
`removal_curves`: `target`, `additional_forward_args`, `features`, `ties`, `batch_size`, `seed`, `ids`, and `reduce`,
which is "sum" here: whole pixels go. Two traps: what is removed leaves the data, so compare under one baseline; and a
map that lies on the object without regard to the model scores well, so look at randomisation as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.removal import RemovalCurves, curves_and_maps
from interp_plugins.metrics.removed import OPTIONS, Removals, removed
from interp_plugins.metrics.undefined import defined

Model = Callable[..., Any]
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)


def _curves(args: tuple[Any, ...], steps: int | None, options: dict[str, Any]) -> tuple[RemovalCurves, Tensor]:
    return curves_and_maps(*args, steps=steps, **{"reduce": "sum", **options})


@register_metric(
    "srg",
    kind="faithfulness",
    needs="order",
    higher_is_better=True,
    chance=0.0,
    reference="Bluecher et al. 2024, arXiv:2401.06654",
    cost="2 steps",
    says="area when the least goes first - area when the most does",
    options=OPTIONS,
)
def srg(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    steps: int = 20,
    **options: Any,
) -> Tensor:
    """Symmetric relevance gain: area below the curve when the least goes first, less that when the most does.

    The baseline's harm is in both areas and falls out, so that a random map scores 0 whatever the baseline: the one to
    rank methods by.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: what replaces the input; None: the `Explanation`'s, or zeros.
        steps: points of the curves after the first.
        **options: as for `removal_curves`; `reduce` is "sum".

    Returns:
        (N,) float64, in units of the score.

    Example:
        srg(lambda v: v.sum(1), torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))  # -> [2.5]
    """
    curves, maps = _curves((forward_func, inputs, attributions, baselines), steps, options)
    return defined(curves.srg, maps)


@register_metric(
    "pixel_flipping",
    kind="faithfulness",
    needs="order",
    higher_is_better=True,
    reference="Bach et al. 2015; Samek et al. 2017, arXiv:1509.06321 (AOPC)",
    cost="steps + 1",
    says="mean of f(x) - f(x without its first k), k = 0 ... steps",
    options=OPTIONS,
)
def pixel_flipping(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    steps: int = 20,
    **options: Any,
) -> Tensor:
    """Area over the perturbation curve: the mean fall of the score while the largest elements go first.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: what replaces the input; None: the `Explanation`'s, or zeros.
        steps: points of the curve after the first.
        **options: as for `removal_curves`; `reduce` is "sum".

    Returns:
        (N,) float64, in units of the score.

    Example:
        pixel_flipping(lambda v: v.sum(1), torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.arange(4.0)[None])  # -> [6.0]
    """
    curves, maps = _deletion((forward_func, inputs, attributions, baselines), steps, options)
    return defined(curves.aopc(), maps)


def _deletion(args: tuple[Any, ...], steps: int | None, options: dict[str, Any]) -> tuple[RemovalCurves, Tensor]:
    return curves_and_maps(*args, steps=steps, insertion=False, **{"reduce": "sum", **options})


@register_metric(
    "irof",
    kind="faithfulness",
    needs="order",
    higher_is_better=True,
    reference="Rieger and Hansen 2020, arXiv:2003.08747",
    cost="features + 1",
    says="1 - area of f(x without its first k) / f(x), a feature a step",
    options=OPTIONS,
)
def irof(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    steps: int | None = None,
    **options: Any,
) -> Tensor:
    """Iterative removal of features: area over the curve of the score relative to the clean one.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: what replaces the input; None: the `Explanation`'s, or zeros.
        steps: points of the curve after the first; None: one per feature, as in the paper.
        **options: as for `removal_curves`; `features` are the segments, and `reduce` is "sum".

    Returns:
        (N,) float64, 0 for a model that does not care; NaN where the clean score is 0.

    Example:
        irof(lambda v: v.sum(1), torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))  # 0.625
    """
    curves, maps = _deletion((forward_func, inputs, attributions, baselines), steps, options)
    clean = curves.deletion[:, 0]
    return defined(1 - curves.deletion_auc / clean, maps, {"the clean score is 0": clean == 0})


@register_metric(
    "region_perturbation",
    kind="faithfulness",
    needs="order",
    higher_is_better=True,
    reference="Samek et al. 2017, arXiv:1509.06321",
    cost="steps + 1",
    says="pixel_flipping of windows",
    options=tuple(o for o in OPTIONS if o != "features"),
)
def region_perturbation(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    window: int = 8,
    steps: int | None = None,
    **options: Any,
) -> Tensor:
    """Area over the perturbation curve while whole windows go, those of largest mean attribution first.

    A window as large as that of a method (occlusion) favours the method: choose another size.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: a tensor, batch first, with axes of places behind the channels; or an `Explanation`.
        attributions: maps; None: the `Explanation`'s.
        baselines: what replaces the input; None: the `Explanation`'s, or zeros.
        window: side of the windows, which do not overlap; those at the end are smaller where it does not divide.
        steps: points of the curve after the first; None: one per window.
        **options: as for `removal_curves`; `reduce` is "sum".

    Returns:
        (N,) float64, in units of the score.

    Example:
        region_perturbation(model, exp, window=6)  # (2,)
    """
    features = _windows(inputs, attributions, window)
    curves, maps = _deletion((forward_func, inputs, attributions, baselines), steps, {**options, "features": features})
    return defined(curves.aopc(), maps)


@register_metric(
    "selectivity",
    kind="faithfulness",
    needs="order",
    higher_is_better=False,
    reference="Montavon et al. 2018, arXiv:1706.07979",
    cost="steps + 1",
    says="area below the deletion curve of windows",
    options=tuple(o for o in OPTIONS if o != "features"),
)
def selectivity(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    window: int = 8,
    steps: int | None = None,
    **options: Any,
) -> Tensor:
    """Area below the curve of the score while whole windows go, those of largest mean attribution first.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: a tensor, batch first, with axes of places behind the channels; or an `Explanation`.
        attributions: maps; None: the `Explanation`'s.
        baselines: what replaces the input; None: the `Explanation`'s, or zeros.
        window: side of the windows, which do not overlap; those at the end are smaller where it does not divide.
        steps: points of the curve after the first; None: one per window.
        **options: as for `removal_curves`; `reduce` is "sum".

    Returns:
        (N,) float64, in units of the score; small is good.

    Example:
        selectivity(model, exp, window=6)  # (2,)
    """
    features = _windows(inputs, attributions, window)
    curves, maps = _deletion((forward_func, inputs, attributions, baselines), steps, {**options, "features": features})
    return defined(curves.deletion_auc, maps)


def _windows(inputs: Any, attributions: Any, window: int) -> Tensor:
    """Numbers of the windows, broadcastable to the maps."""
    shape = tuple(getattr(getattr(inputs, "input", inputs), "shape", ()))
    if len(shape) < 3 or isinstance(inputs, tuple):
        raise InputError(f"Windows need one input with places behind its channels, (N, C, H, W), got shape {shape}.")
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise InputError(f"window must be a positive int, got {window!r}.")
    spec = getattr(inputs, "spec", None)
    channels = 1 if spec is None else spec.channel_axis(len(shape)) or 1
    numbers = torch.zeros((1,) * len(shape), dtype=torch.long)
    for axis in (a for a in range(1, len(shape)) if a != channels):
        count = -(-shape[axis] // window)
        along = (torch.arange(shape[axis]) // window).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        numbers = numbers * count + along
    return numbers


@register_metric(
    "monotonicity",
    kind="faithfulness",
    needs="order",
    higher_is_better=True,
    reference="Arya et al. 2019, arXiv:1909.03012",
    cost="steps + 1",
    says="1 if f never falls while features enter the baseline, the smallest first; share: of the steps",
    options=OPTIONS,
)
def monotonicity(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    steps: int | None = None,
    share: bool = False,
    tol: float = 1e-6,
    **options: Any,
) -> Tensor:
    """Whether the score never falls while features enter the baseline in ascending order of their attribution.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: where it begins; None: the `Explanation`'s, or zeros.
        steps: in which the features enter; None: one by one.
        share: give the share of the steps at which it does not fall, in place of 0 or 1.
        tol: a fall of so much of the curve's range is rounding.
        **options: as for `removal_curves`; `reduce` is "sum".

    Returns:
        (N,) float64, 0 or 1, or a share.

    Example:
        w = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        monotonicity(lambda v: (v * w).sum(1), torch.ones(1, 4), w)  # -> [1.0]
    """
    curves, maps = _deletion((forward_func, inputs, attributions, baselines), steps, options)
    span = curves.deletion.amax(1) - curves.deletion.amin(1)
    falls = curves.deletion[:, 1:] - curves.deletion[:, :-1] > tol * span[:, None]  # read backwards: features enter
    count = falls.sum(1)
    return defined(1 - count.double() / curves.steps if share else (count == 0).double(), maps)


@register_metric(
    "comprehensiveness",
    kind="faithfulness",
    needs="order",
    higher_is_better=True,
    reference="DeYoung et al. 2020, arXiv:1911.03429",
    cost="shares + 1",
    says="mean over shares of f(x) - f(x without its top share)",
    options=OPTIONS,
)
def comprehensiveness(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    shares: Sequence[float] = SHARES,
    **options: Any,
) -> Tensor:
    """Mean fall of the score when the top share of the features is removed.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: what replaces the input; None: the `Explanation`'s, or zeros.
        shares: of the features, in (0, 1]; at least one feature goes.
        **options: as for `removal_curves`; `reduce` is "sum".

    Returns:
        (N,) float64, in units of the score.

    Example:
        comprehensiveness(lambda v: v.sum(1), torch.ones(1, 4), torch.arange(4.0)[None], shares=(0.5,))  # -> [2.0]
    """
    return _eraser((forward_func, inputs, attributions, baselines), shares, True, options)


@register_metric(
    "sufficiency",
    kind="faithfulness",
    needs="order",
    higher_is_better=False,
    reference="DeYoung et al. 2020, arXiv:1911.03429",
    cost="shares + 1",
    says="mean over shares of f(x) - f(the top share alone)",
    options=OPTIONS,
)
def sufficiency(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    shares: Sequence[float] = SHARES,
    **options: Any,
) -> Tensor:
    """Mean fall of the score when nothing but the top share of the features is left; small is good.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: what replaces the input; None: the `Explanation`'s, or zeros.
        shares: of the features, in (0, 1]; at least one feature stays.
        **options: as for `removal_curves`; `reduce` is "sum".

    Returns:
        (N,) float64, in units of the score.

    Example:
        sufficiency(lambda v: v.sum(1), torch.ones(1, 4), torch.arange(4.0)[None], shares=(0.25,))  # -> [3.0]
    """
    return _eraser((forward_func, inputs, attributions, baselines), shares, False, options)


def _eraser(args: tuple[Any, ...], shares: Sequence[float], deleting: bool, options: dict[str, Any]) -> Tensor:
    """Mean of f(x) less the score at each share."""
    many = list(shares)
    if not many or any(isinstance(s, bool) or not isinstance(s, (int, float)) or not 0 < s <= 1 for s in many):
        raise InputError(f"shares must be numbers in (0, 1], at least one of them; got {shares!r}.")

    def plan(totals: Tensor) -> Removals:
        """The clean sample, then each share."""
        found = [torch.zeros_like(totals), *((totals * s).round().long().clamp_min(1) for s in many)]
        counts = torch.stack(found, 1)
        which = torch.tensor([True] + [deleting] * len(many))
        return Removals(counts, which, torch.ones_like(counts, dtype=torch.bool))

    found = removed(plan, *args, **{"reduce": "sum", **options})
    falls = found.scores[:, :1] - found.scores[:, 1:]
    return defined(falls.cumsum(1)[:, -1] / len(many), found.maps)
