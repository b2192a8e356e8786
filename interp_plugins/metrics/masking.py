"""What the score does when the map itself is put over the sample, when features enter in its order, or are disturbed.

All take `(forward_func, inputs, attributions, baselines)` or `(forward_func, explanation)`, and the options of
`removal_curves`; `reduce` is "sum".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.target import Probability, Target, as_target
from interp_plugins.metrics.asking import about, asking, check_values
from interp_plugins.metrics.draws import sample_numbers
from interp_plugins.metrics.noisy import NO_SPREAD, Noise, check_sd
from interp_plugins.metrics.ranking import count_of
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.removal import curves_and_maps
from interp_plugins.metrics.removed import OPTIONS, feature_ranks
from interp_plugins.metrics.rows import as_rows, row_sum
from interp_plugins.metrics.sheet import digest
from interp_plugins.metrics.undefined import defined

Model = Callable[..., Any]
_SCALING = tuple(o for o in OPTIONS if o not in ("features", "ties", "ids"))


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
    args = (forward_func, inputs, attributions, baselines)
    curves, maps = curves_and_maps(*args, steps=steps, insertion=False, **{"reduce": "sum", **options})
    span = curves.deletion.amax(1) - curves.deletion.amin(1)
    falls = curves.deletion[:, 1:] - curves.deletion[:, :-1] > tol * span[:, None]  # read backwards: features enter
    count = falls.sum(1)
    return defined(1 - count.double() / curves.steps if share else (count == 0).double(), maps)


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


def probability_of(target: Any, n: int) -> Any:
    """A class as its probability; other targets as they are.

    Args:
        target: as for a method's `attribute`.
        n: number of samples.
    """
    if target is None or isinstance(target, Target) or callable(target):
        return target
    return Probability(as_target(target, n))


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


@register_metric(
    "prediction_gap",
    kind="faithfulness",
    needs="order",
    higher_is_better=True,
    sign_invariant=True,
    direction=lambda params: bool(params.get("important", True)),
    reference="Agarwal et al. 2022, arXiv:2206.11104 (PGI, PGU)",
    cost="n_draws + 1",
    says="mean |f(x) - f(x')| with noise on the k largest sizes; important=False (low is better): on the others",
    options=OPTIONS,
)
def prediction_gap(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    important: bool = True,
    k: int | float = 0.25,
    sd: float = 0.1,
    relative: bool = True,
    n_draws: int = 20,
    target: Any = None,
    additional_forward_args: Any = None,
    features: Any = None,
    reduce: str | None = "sum",
    ties: str = "random",
    batch_size: int | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
) -> Tensor:
    """Mean change of the score, up or down, under noise on the features that matter most, or on all others.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s. Features matter by the size of their mean.
        baselines: not used, but taken as by the other metrics of this kind.
        important: noise on the features that matter (large is good); else on all others (small is good).
        k: how many features matter, or their share.
        sd: standard deviation of the noise.
        relative: it is a share of the sample's spread; else it is in the input's units.
        n_draws: draws of the noise.
        target: the score; None: the classes of the `Explanation`.
        additional_forward_args: further arguments of the model.
        features: numbers of what goes together; None: each place.
        reduce: how channels become one value per place.
        ties: which of equal sizes matters more.
        batch_size: rows per pass.
        seed: of noise and ties.
        ids: int64 (N,), numbers of the samples for their draws.

    Returns:
        (N,) float64, in units of the score; NaN where relative noise has no spread.

    Raises:
        InputError: no draws, no noise, or more features than there are.

    Example:
        w = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        prediction_gap(lambda v: (v * w).sum(1), torch.ones(1, 4), w, k=2, sd=1.0, relative=False)  # 3.99 in the mean
    """
    if isinstance(n_draws, bool) or not isinstance(n_draws, int) or n_draws < 1:
        raise InputError(f"n_draws must be a positive int, got {n_draws!r}.")
    what = about(inputs, attributions, baselines, target, reduce)
    ranks, totals = feature_ranks(tuple(m.abs() for m in what.maps), features, ties, seed, ids)
    counts = torch.tensor([count_of(k, t) for t in totals.tolist()])
    disturbed = (ranks.cpu() < counts[:, None]) == important
    with asking(
        forward_func, what, additional_forward_args=additional_forward_args, batch_size=batch_size, seed=seed
    ) as questions:
        check_values(questions.xs, "comprehensiveness removes them")
        noise = Noise(questions, check_sd(sd), relative, n_draws, sample_numbers(seed, ids))
        shapes = [m.shape[1:] for m in what.maps]
        parts = disturbed.to(questions.device).split([s.numel() for s in shapes], 1)

        def changed(at: Tensor) -> list[Tensor]:
            who = noise.rows[at].to(questions.device)
            return [
                x[who] + part[who].reshape(-1, *s) * one.reshape(-1, *x.shape[1:])
                for x, part, s, one in zip(questions.xs, parts, shapes, noise.values(at))
            ]

        name = ("noise on features", digest((disturbed, shapes, ids)), sd, relative, n_draws, seed)
        clean = questions.whole(shapes)
        moved = (clean[noise.rows] - questions.changed(name, noise.rows, changed)).abs().reshape(-1, n_draws)
    still = (noise.scales == 0).all(1).cpu()
    return defined(row_sum(moved) / n_draws, as_rows(what.maps), {NO_SPREAD: still})
