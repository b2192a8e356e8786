"""What becomes of the class's probability when the map itself is put over the sample: drop, increase and gain.

The map, scaled to [0, 1] per sample, says how much of each element is seen; the rest is the baseline. All take
`(forward_func, inputs, attributions, baselines)` or `(forward_func, explanation)`; `reduce` is "sum".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp_plugins.metrics.asking import about, asking, check_values, probability_of
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.removed import OPTIONS
from interp_plugins.metrics.rows import as_rows
from interp_plugins.metrics.sheet import digest
from interp_plugins.metrics.undefined import defined

Model = Callable[..., Any]
_SCALING = tuple(o for o in OPTIONS if o not in ("features", "ties", "ids"))


def _register_scaled(name: str, higher_is_better: bool, reference: str, says: str) -> Any:
    return register_metric(
        name,
        kind="faithfulness",
        needs="order",
        higher_is_better=higher_is_better,
        reference=reference,
        cost="2",
        says=says,
        options=_SCALING,
    )


@_register_scaled("average_drop", False, "Chattopadhay et al. 2018, arXiv:1710.11063", "max(0, f(x) - f(x a)) / f(x)")
def average_drop(
    forward_func: Model, inputs: Any, attributions: Any = None, baselines: Any = None, **options: Any
) -> Tensor:
    """What share of the class's probability is lost when the map is put over the sample; small is good.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s. Scaled to [0, 1] per sample.
        baselines: what is seen where the map is 0; None: the `Explanation`'s, or zeros.
        **options: `target`, a class, whose probability is the softmax over axis 1, or a function output ->
            probability; `reduce` ("sum"), `batch_size`, `seed`, `additional_forward_args`.

    Returns:
        (N,) float64 in [0, 1]; NaN where the map is constant, or the score is 0 or no probability.

    Example:
        average_drop(lambda v: 0.2 * v.sum(1), torch.ones(1, 4), torch.tensor([[1.0, 1.0, 1.0, 0.0]]))  # -> [0.25]
    """
    before, after, maps, why = _scaled((forward_func, inputs, attributions, baselines), **options)
    return defined((before - after).clamp_min(0) / before, maps, {**why, "the clean score is 0": before == 0})


@_register_scaled("average_increase", True, "Chattopadhay et al. 2018, arXiv:1710.11063", "1 if f(x a) > f(x)")
def average_increase(
    forward_func: Model, inputs: Any, attributions: Any = None, baselines: Any = None, **options: Any
) -> Tensor:
    """Whether the class's probability rises when the map is put over the sample.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s. Scaled to [0, 1] per sample.
        baselines: what is seen where the map is 0; None: the `Explanation`'s, or zeros.
        **options: `target`, a class, whose probability is the softmax over axis 1, or a function output ->
            probability; `reduce` ("sum"), `batch_size`, `seed`, `additional_forward_args`.

    Returns:
        (N,) float64, 0 or 1; NaN where the map is constant, or the score is no probability.

    Example:
        average_increase(lambda v: 0.2 * v.sum(1), torch.ones(1, 4), torch.arange(4.0)[None])  # -> [0.0]
    """
    before, after, maps, why = _scaled((forward_func, inputs, attributions, baselines), **options)
    return defined((after > before).double(), maps, why)


@_register_scaled("average_gain", True, "Zhang et al. 2023, arXiv:2301.07002", "max(0, f(x a) - f(x)) / (1 - f(x))")
def average_gain(
    forward_func: Model, inputs: Any, attributions: Any = None, baselines: Any = None, **options: Any
) -> Tensor:
    """What share of the missing probability the class gains when the map is put over the sample.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s. Scaled to [0, 1] per sample.
        baselines: what is seen where the map is 0; None: the `Explanation`'s, or zeros.
        **options: `target`, a class, whose probability is the softmax over axis 1, or a function output ->
            probability; `reduce` ("sum"), `batch_size`, `seed`, `additional_forward_args`.

    Returns:
        (N,) float64 in [0, 1]; NaN where the map is constant, or the score is 1 or no probability.

    Example:
        average_gain(lambda v: 0.2 * v.sum(1), torch.ones(1, 4), torch.arange(4.0)[None])  # -> [0.0]
    """
    before, after, maps, why = _scaled((forward_func, inputs, attributions, baselines), **options)
    return defined((after - before).clamp_min(0) / (1 - before), maps, {**why, "the clean score is 1": before == 1})


def _scaled(
    given: tuple[Any, ...],
    *,
    target: Any = None,
    additional_forward_args: Any = None,
    reduce: str | None = "sum",
    batch_size: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """The score before and after, the maps, and where both mean nothing."""
    what = about(given[1], given[2], given[3], target, reduce)
    rows = as_rows(what.maps)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    shares = ((rows - low) / (high - low)).nan_to_num(0.0)
    what = what.with_target(probability_of(what.target, len(rows)))
    with asking(
        given[0], what, additional_forward_args=additional_forward_args, batch_size=batch_size, seed=seed
    ) as questions:
        check_values(questions.xs, "sufficiency keeps or removes them")
        shapes = [m.shape[1:] for m in what.maps]
        parts = shares.to(questions.device).split([s.numel() for s in shapes], 1)

        def put_over(at: Tensor) -> list[Tensor]:
            at = at.to(questions.device)
            return [
                b[at] + p[at].reshape(-1, *s).to(x.dtype) * (x[at] - b[at])
                for p, s, x, b in zip(parts, shapes, questions.xs, questions.references)
            ]

        before = questions.whole(shapes)
        after = questions.changed(("put over", digest((shares, shapes))), torch.arange(questions.n), put_over)
    odd = (before < 0) | (before > 1) | (after < 0) | (after > 1)
    return before, after, rows, {"the map is constant": (high == low)[:, 0], "the score is no probability": odd}
