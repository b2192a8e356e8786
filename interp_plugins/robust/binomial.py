"""Exact bounds of a probability that was seen k times of n (Clopper and Pearson 1934, Biometrika 26)."""

from __future__ import annotations

import math

import torch

_HALVINGS = 60


def lower_bound(k: int, n: int, alpha: float) -> float:
    """The smallest p for which k or more of n are seen with probability `alpha`; 0 for k = 0.

    The truth lies below it with probability `alpha` at most.
    """
    if k == 0:
        return 0.0
    low, high = 0.0, k / n
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_least(k, n, middle) < alpha else (low, middle)
    return low


def upper_bound(k: int, n: int, alpha: float) -> float:
    """The largest p for which k or fewer of n are seen with probability `alpha`; 1 for k = n."""
    return 1.0 - lower_bound(n - k, n, alpha)


def interval(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Lower and upper bound, which hold the truth with probability `level` at least."""
    if n == 0:
        return 0.0, 1.0
    return lower_bound(k, n, (1 - level) / 2), upper_bound(k, n, (1 - level) / 2)


def _at_least(k: int, n: int, p: float) -> float:
    """P(X >= k) for n draws of probability p."""
    if p <= 0:
        return 0.0
    if p >= 1:
        return 1.0
    i = torch.arange(k, n + 1, dtype=torch.float64)
    total = math.lgamma(n + 1)
    logs = total - torch.lgamma(i + 1) - torch.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
    return float(logs.exp().sum())
