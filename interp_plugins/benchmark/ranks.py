"""Statistics over many methods and tasks: do they differ at all, which of them, and how sure is a rank?

Differences of two methods, sample by sample, are `metrics.statistics.paired`'s. Here ranks are compared over tasks:
Friedman's test, Nemenyi's critical difference, letters for groups that cannot be told apart, Kendall's W.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError


@dataclass(frozen=True)
class Friedman:
    """What Friedman's test finds.

    Attributes:
        statistic: chi-squared, corrected for ties.
        p: of it, by the chi-squared distribution with k - 1 degrees of freedom.
        mean_ranks: (k,) over the blocks, 1 the best.
        w: Kendall's coefficient of concordance, 0 to 1: whether the blocks agree on an order.
        blocks: N.
    """

    statistic: float
    p: float
    mean_ranks: tuple[float, ...]
    w: float
    blocks: int


def rank_rows(values: Tensor) -> Tensor:
    """Ranks in each row, 1 the largest, ties averaged.

    Args:
        values: (N, k), none of them NaN.
    """
    above = (values[:, None, :] > values[:, :, None]).sum(2)
    equal = (values[:, None, :] == values[:, :, None]).sum(2)
    return above + (equal.double() + 1) / 2


def friedman(values: Tensor) -> Friedman:
    """Friedman's test: do k methods differ over N blocks (tasks)?

    Args:
        values: (N, k), larger is better, none of them NaN.

    Raises:
        InputError: fewer than two methods or blocks, or NaN.

    References:
        Friedman 1937, Journal of the American Statistical Association 32; ties after Conover 1999, section 5.8.

    Example:
        from interp_plugins.benchmark.ranks import friedman

        friedman(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])).mean_ranks  # -> (1.0, 2.0, 3.0)
    """
    if values.ndim != 2 or min(values.shape) < 2 or bool(values.isnan().any()):
        raise InputError(
            f"Friedman's test compares two methods or more on two tasks or more, got {tuple(values.shape)}."
        )
    n, k = values.shape
    ranks = rank_rows(values.double())
    means = ranks.mean(0)
    spread = ((ranks - (k + 1) / 2) ** 2).sum()
    if spread == 0:
        return Friedman(0.0, 1.0, tuple(means.tolist()), 0.0, n)
    statistic = float((k - 1) * n**2 * ((means - (k + 1) / 2) ** 2).sum() / spread)
    p = float(torch.special.gammaincc(torch.tensor((k - 1) / 2), torch.tensor(statistic / 2)))
    return Friedman(statistic, p, tuple(means.tolist()), statistic / (n * (k - 1)), n)


def studentised_range(q: float, k: int) -> float:
    """Probability that k standard normal numbers lie within q of each other.

    Args:
        q: not negative.
        k: two or more.
    """
    x = torch.linspace(-9, 9, 6001, dtype=torch.float64)
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    between = torch.special.ndtr(x + q) - torch.special.ndtr(x)
    return float(torch.trapezoid(k * density * between ** (k - 1), x))


def critical_difference(k: int, blocks: int, alpha: float = 0.05) -> float:
    """By how much two mean ranks have to differ: Nemenyi's test.

    Args:
        k: number of methods.
        blocks: number of tasks.
        alpha: how often one pair of equal methods at least is told apart.

    Returns:
        q sqrt(k (k + 1) / (6 N)), q the studentised range at 1 - alpha over sqrt 2.

    Raises:
        InputError: fewer than two methods, no tasks, or alpha outside (0, 1).

    References:
        Nemenyi 1963; Demsar 2006, Journal of Machine Learning Research 7, section 3.2.2.

    Example:
        from interp_plugins.benchmark.ranks import critical_difference

        round(critical_difference(5, 30), 3)  # -> 1.114
    """
    if k < 2 or blocks < 1 or not 0 < alpha < 1:
        raise InputError(f"A critical difference is of two methods or more and a task or more, got {k} and {blocks}.")
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if studentised_range(middle, k) < 1 - alpha else (low, middle)
    return low / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * blocks))


def letters(order: Sequence[str], apart: Mapping[tuple[str, str], bool]) -> dict[str, str]:
    """Compact letters: two methods share a letter if and only if they were not told apart.

    Args:
        order: the methods, the best first.
        apart: pair -> whether they were told apart, in either order; a missing pair was not.

    Returns:
        Method -> its letters, "a" the best group's.

    References:
        After Piepho 2004, Journal of Computational and Graphical Statistics 13 (insert and absorb).

    Example:
        from interp_plugins.benchmark.ranks import letters

        list(letters(["x", "y", "z"], {("x", "z"): True}).values())  # -> ['a', 'ab', 'b']
    """
    groups = [frozenset(order)]
    for i, one in enumerate(order):
        for other in order[i + 1 :]:
            if not (apart.get((one, other)) or apart.get((other, one))):
                continue
            split = [g - {gone} for g in groups if {one, other} <= g for gone in (one, other)]
            groups = [g for g in groups if not {one, other} <= g]
            groups += [g for g in split if g]
            groups = [g for g in dict.fromkeys(groups) if not any(g < h for h in groups)]
    place = {name: i for i, name in enumerate(order)}
    groups.sort(key=lambda g: sorted(place[name] for name in g))
    found = {name: "".join(_letter(i) for i, g in enumerate(groups) if name in g) for name in order}
    return found


def _letter(i: int) -> str:
    return chr(97 + i) if i < 26 else f"({i + 1})"


def rank_interval(
    values: Sequence[Tensor], *, level: float = 0.95, draws: int = 2000, seed: int = 0, decimals: int = 12
) -> tuple[tuple[float, float], ...]:
    """Bootstrap intervals of the mean ranks: tasks are drawn anew, then the samples of each.

    Args:
        values: a task each, (samples, k), or (metrics, samples, k) where ranks are the means over several metrics;
            larger is better; NaN where a method has no value for a sample.
        level: of the intervals.
        draws: how often all is drawn anew.
        seed: of the draws.
        decimals: of the means that are ranked: what agrees in these is a tie.

    Returns:
        Lower and upper end for each method.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for one in values:
        several = one.double().reshape(-1, *one.shape[-2:])
        n = several.shape[1]
        picked = torch.randint(n, (draws, n), generator=generator)
        each = [torch.nan_to_num(m[picked].nanmean(1), nan=-torch.inf).round(decimals=decimals) for m in several]
        drawn.append(torch.stack([rank_rows(m) for m in each]).double().mean(0))
    ranks = torch.stack(drawn)  # (tasks, draws, k)
    which = torch.randint(len(values), (draws, len(values)), generator=generator)
    means = ranks[which, torch.arange(draws)[:, None]].double().mean(1)
    ends = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64), dim=0)
    return tuple((low, high) for low, high in ends.T.tolist())
