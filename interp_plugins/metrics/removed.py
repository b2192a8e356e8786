"""One engine for all that removes parts of the input in the order of a map: which rows are asked, and their scores.

A row is a sample of which the first k features, in the map's order, have been replaced by the baseline ("deleting"), or
are all that is left of it. Features are single elements of the map, or elements with one number in `features`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.metrics.asking import about, asking
from interp_plugins.metrics.feature_rows import feature_numbers, feature_sums
from interp_plugins.metrics.ranking import descending
from interp_plugins.metrics.rows import as_rows

# What the engine takes beside the formula's own parameters.
OPTIONS = ("target", "additional_forward_args", "features", "reduce", "ties", "batch_size", "seed", "ids")


@dataclass(frozen=True)
class Removals:
    """Which rows are asked.

    Attributes:
        counts: int64 (N, M), how many features are removed (or kept) in row m of a sample.
        deleting: bool (M,), whether these are removed from the sample; else they are all that is kept.
        asked: bool (N, M), whether the row is asked at all.
    """

    counts: Tensor
    deleting: Tensor
    asked: Tensor


@dataclass(frozen=True)
class Removed:
    """What the model says of the rows.

    Attributes:
        scores: float64 (N, M); NaN where a row was not asked.
        plan: which rows they are.
        totals: int64 (N,), features per sample.
        maps: the maps as rows (N, D).
    """

    scores: Tensor
    plan: Removals
    totals: Tensor
    maps: Tensor


def removed(
    planner: Callable[[Tensor], Removals],
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    target: Any = None,
    additional_forward_args: Any = None,
    features: Any = None,
    reduce: str | None = None,
    ties: str = "random",
    batch_size: int | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
) -> Removed:
    """Scores of inputs without their first features, or with these alone; the model is frozen meanwhile.

    Args:
        planner: features per sample (N,) -> `Removals`.
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first, or an `Explanation`.
        attributions: one map per input; None: those of the `Explanation`.
        baselines: what replaces the input; None: those of the `Explanation`, or zeros.
        target: the score; None: the classes of the `Explanation`, or the model's only output.
        additional_forward_args: further arguments of the model.
        features: numbers of what goes together, int, broadcastable to the maps; None: each element alone.
        reduce: how channels become one value per place, whose elements go together; None: the maps as they are.
        ties: which of equal values goes first.
        batch_size: rows per pass.
        seed: of ties, and of models that draw random numbers.
        ids: numbers of the samples, int64 (N,), for ties.

    Raises:
        InputError: maps that do not fit the inputs, or an `Explanation` whose target is not known.
    """
    given = about(inputs, attributions, baselines, target, reduce)
    with asking(
        forward_func, given, additional_forward_args=additional_forward_args, batch_size=batch_size, seed=seed
    ) as questions:
        ranks, totals = feature_ranks(given.maps, features, ties, seed, ids)
        plan = planner(totals)
        where = plan.asked.T.nonzero()  # rows are numbered (step, sample)
        ranks = ranks.to(questions.device)

        def kept(at: Tensor) -> Tensor:
            steps, rows = where[at, 0], where[at, 1]
            counts, deleting = plan.counts[rows, steps].to(ranks.device), plan.deleting[steps].to(ranks.device)
            return (ranks[rows.to(ranks.device)] < counts[:, None]) ^ deleting[:, None]

        found = questions.masked(where[:, 1], kept, [m.shape[1:] for m in given.maps])
    scores = torch.full(plan.counts.shape, torch.nan, dtype=torch.float64)
    scores[where[:, 1], where[:, 0]] = found
    return Removed(scores, plan, totals, as_rows(given.maps))


def feature_ranks(
    maps: tuple[Tensor, ...], features: Any, ties: str, seed: int, ids: Tensor | None, *, by_size: bool = False
) -> tuple[Tensor, Tensor]:
    """When each element goes, int64 (N, D), and how many features there are (N,).

    Args:
        maps: one per input.
        features: numbers of what goes together; None: each element alone.
        ties: which of equal values goes first.
        seed: of ties.
        ids: numbers of the samples, for ties.
        by_size: the features of largest size go first, whatever their sign.
    """
    rows = as_rows(maps)
    own, totals = feature_numbers(maps, features)
    if own is None:
        return descending(rows.abs() if by_size else rows, ties, seed, ids).argsort(dim=1), totals
    means = feature_sums(rows, own, totals, mean=True)
    means = means.abs() if by_size else means
    absent = torch.arange(means.shape[1]) >= totals[:, None]
    means = torch.where(absent.to(means.device), -torch.inf, means)  # features that only other samples have go last
    return descending(means, ties, seed, ids).argsort(dim=1).gather(1, own), totals
