"""How far the score moves under noise on the features that a map ranks first, or on all the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.metrics.asking import about, asking, check_values
from interp_plugins.metrics.draws import sample_numbers
from interp_plugins.metrics.noisy import NO_SPREAD, Noise, check_sd
from interp_plugins.metrics.ranking import count_of
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.removed import feature_ranks
from interp_plugins.metrics.rows import as_rows, row_sum
from interp_plugins.metrics.sheet import digest
from interp_plugins.metrics.undefined import defined

Model = Callable[..., Any]


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
        (N,) float64, in units of the score; NaN where relative noise has no spread, or where all features matter
        and the others were asked for.

    Raises:
        InputError: no draws, no noise, or more features than there are.

    Example:
        w = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        prediction_gap(lambda v: (v * w).sum(1), torch.ones(1, 4), w, k=2, sd=1.0, relative=False)  # 3.99 in the mean
    """
    if isinstance(n_draws, bool) or not isinstance(n_draws, int) or n_draws < 1:
        raise InputError(f"n_draws must be a positive int, got {n_draws!r}.")
    what = about(inputs, attributions, baselines, target, reduce)
    ranks, totals = feature_ranks(what.maps, features, ties, seed, ids, by_size=True)
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
    why = {NO_SPREAD: (noise.scales == 0).all(1).cpu(), "no feature is disturbed": ~disturbed.any(1)}
    return defined(row_sum(moved) / n_draws, as_rows(what.maps), why)
