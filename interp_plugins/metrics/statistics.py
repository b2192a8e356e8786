"""Are two methods apart? Paired differences with an interval, a p-value and the share of samples that one wins.

Differences are paired sample by sample, since samples differ more than methods do. Where samples come from several
trained nets (seeds), these are drawn anew first and then the samples of each, so that the interval holds what another
training would have changed. Every number is independent of the order of the samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.adjusted import holm as holm
from interp_plugins.core.errors import InputError
from interp_plugins.core.random import check_seed
from interp_plugins.core.tensors import describe

_BATCH = 2**22  # numbers drawn at once
_ALL_SIGNS = 14  # up to so many differences every choice of signs is looked at: 2**14
_FEW = 20  # from so many samples on the interval is corrected for bias and skewness


@dataclass(frozen=True)
class PairedDifference:
    """A paired difference of N samples, a - b.

    Attributes:
        mean: over the samples that have both values; NaN where none has.
        low: lower end of the interval; NaN for fewer than two samples.
        high: its upper end.
        p: two-sided p-value of the sign-flip test.
        won: share of the samples where a is above b, ties half.
        n: number of samples that have both values.
        left_out: number of samples that lack one.
        level: of the interval.
    """

    mean: float
    low: float
    high: float
    p: float
    won: float
    n: int
    left_out: int = 0
    level: float = 0.95

    @property
    def above(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low > 0

    @property
    def below(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high < 0

    def __repr__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}] n={self.n} p={self.p:.2g} won {self.won:.0%}"


def paired(
    a: Tensor,
    b: Tensor | None = None,
    *,
    groups: Sequence[Any] | Tensor | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """The paired difference of two rows of values.

    Args:
        a: (N,) values of one method; NaN where it has none.
        b: (N,) values of the other, of the same samples; None: `a` holds the differences.
        groups: which net each sample's value belongs to (N,), where there are several; None: one net.
        level: of the interval, in (0, 1).
        draws: of the bootstrap.
        seed: of all draws.

    Raises:
        InputError: rows of other lengths, a level outside (0, 1), no draws.

    Example:
        paired(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 1.0, 1.0])).won  # -> 1.0
    """
    gap = _rows("a", a) if b is None else _rows("a", a) - _rows("b", b)
    names = _names(groups, len(gap))
    kept = ~gap.isnan()
    values = gap[kept]
    names = None if names is None else [g for g, k in zip(names, kept.tolist()) if k]
    low, high = bootstrap(values, groups=names, level=level, draws=draws, seed=seed)
    n = len(values)
    won = ((values > 0).double() + 0.5 * (values == 0).double()).mean().item() if n else math.nan
    mean = _mean(_by_group(values, names))
    return PairedDifference(mean, low, high, sign_flip(values, groups=names, seed=seed), won, n, len(gap) - n, level)


def bootstrap(
    values: Tensor,
    *,
    groups: Sequence[Any] | Tensor | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of a mean: bias-corrected and accelerated (BCa) from 20 values on, else by percentiles.

    With `groups` the mean is that of the groups' means; groups are drawn with replacement, then the values of each, and
    the interval is one of percentiles.

    Args:
        values: (N,), none of them NaN.
        groups: of which each value is (N,); None: all of one.
        level: of the interval, in (0, 1).
        draws: how often all is drawn anew.
        seed: of the draws.

    Returns:
        Lower and upper end; NaN for fewer than two values (two groups).

    Raises:
        InputError: NaN, a level outside (0, 1), no draws.

    References:
        Efron 1987, Journal of the American Statistical Association 82 (BCa); after Davison and Hinkley 1997, section
        3.8 (hierarchical data).

    Example:
        low, high = bootstrap(torch.arange(30.0))
        low < 14.5 < high  # -> True
    """
    found = _rows("values", values)
    if not 0 < level < 1 or isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise InputError(f"level must be in (0, 1) and draws a positive int, got {level!r} and {draws!r}.")
    if bool(found.isnan().any()):
        raise InputError("The values hold NaN: leave out the samples that have no value (`paired` does).")
    parts = _by_group(found, _names(groups, len(found)))
    generator = torch.Generator().manual_seed(check_seed(seed))
    if len(parts) < 2 and (groups is not None or len(found) < 2):
        return math.nan, math.nan
    if groups is not None:
        means = _grouped_means(parts, draws, generator)
        return _ends(means, (1 - level) / 2, (1 + level) / 2)
    ordered = parts[0]
    n = len(ordered)
    chunks = []
    for start in range(0, draws, step := max(1, _BATCH // n)):
        picked = torch.randint(n, (min(step, draws - start), n), generator=generator)
        chunks.append(ordered[picked].mean(1))
    means = torch.cat(chunks)
    return _ends(means, *_corrected(ordered, means, level))


def sign_flip(
    values: Tensor, *, groups: Sequence[Any] | Tensor | None = None, draws: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p-value of the mean difference: how often the mean is as far from 0 with signs chosen at random.

    Up to 14 differences every choice of signs is looked at; beyond, `draws` of them, the observed one counted in, so
    that p is never 0. With `groups` the signs belong to the groups' means.

    Args:
        values: (N,) differences, none of them NaN.
        groups: of which each value is; None: each alone.
        draws: random choices of signs.
        seed: of the draws.

    Returns:
        p in (0, 1]; NaN without values.

    References:
        After Fisher 1935, The design of experiments, section 21.

    Example:
        sign_flip(torch.tensor([1.0, 2.0, 3.0]))  # -> 0.25
    """
    parts = _by_group(_rows("values", values), _names(groups, len(values)))
    units = parts[0] if groups is None else torch.tensor([_mean([part]) for part in parts], dtype=torch.float64)
    units = units.sort().values
    n = len(units)
    if n == 0:
        return math.nan
    observed = units.sum().abs() * (1 - 1e-12)  # equal sums, added in another order, count as equal
    if n <= _ALL_SIGNS:
        signs = 1 - 2 * ((torch.arange(2**n)[:, None] >> torch.arange(n)) & 1).double()
        return ((signs @ units).abs() >= observed).double().mean().item()
    generator = torch.Generator().manual_seed(check_seed(seed))
    hits = 0
    for start in range(0, draws, step := max(1, _BATCH // n)):
        shape = (min(step, draws - start), n)
        signs = 1 - 2 * torch.randint(2, shape, generator=generator, dtype=torch.float64)
        hits += int(((signs @ units).abs() >= observed).sum())
    return (hits + 1) / (draws + 1)


def _rows(name: str, values: Any) -> Tensor:
    found = values if isinstance(values, Tensor) else torch.as_tensor(values)
    if found.ndim != 1 or found.is_complex():
        raise InputError(f"{name} must hold a number per sample, (N,), got {describe(values)}.")
    return found.detach().cpu().double()


def _names(groups: Sequence[Any] | Tensor | None, n: int) -> list[Any] | None:
    if groups is None:
        return None
    names = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    if len(names) != n:
        raise InputError(f"{len(names)} groups for {n} samples: give one per sample.")
    return names


def _by_group(values: Tensor, names: list[Any] | None) -> list[Tensor]:
    """The sorted values of each group, the groups in an order that does not depend on that of the samples."""
    if names is None:
        return [values.sort().values]
    rows: dict[Any, list[float]] = {}
    for name, value in zip(names, values.tolist()):
        rows.setdefault(name, []).append(value)
    return sorted((torch.tensor(sorted(v), dtype=torch.float64) for v in rows.values()), key=lambda t: t.tolist())


def _mean(parts: Sequence[Tensor]) -> float:
    """The mean of the groups' means."""
    means = [math.fsum(part.tolist()) / len(part) for part in parts if len(part)]
    return math.fsum(means) / len(means) if means else math.nan


def _grouped_means(parts: Sequence[Tensor], draws: int, generator: torch.Generator) -> Tensor:
    """Means of groups drawn anew, and in each of them of values drawn anew (draws,)."""
    count, sizes = len(parts), torch.tensor([len(part) for part in parts])
    padded = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
    found = []
    for start in range(0, draws, step := max(1, _BATCH // (count * padded.shape[1]))):
        rows = min(step, draws - start)
        chosen = torch.randint(count, (rows, count), generator=generator)
        share = torch.rand(rows, count, padded.shape[1], generator=generator, dtype=torch.float64)
        own = sizes[chosen][..., None]
        picked = (share * own).long().clamp_max(own - 1)
        values = padded[chosen].gather(2, picked)
        inside = torch.arange(padded.shape[1]) < own
        found.append(((values * inside).sum(2) / own[..., 0]).mean(1))
    return torch.cat(found)


def _corrected(ordered: Tensor, means: Tensor, level: float) -> tuple[float, float]:
    """Which quantiles of the bootstrap means are the ends: Efron's correction where there are enough values."""
    plain = (1 - level) / 2, (1 + level) / 2
    n = len(ordered)
    center = ordered.mean()
    below = ((means < center).double() + 0.5 * (means == center).double()).mean()
    if n < _FEW or not 0 < below < 1:
        return plain
    away = center - (ordered.sum() - ordered) / (n - 1)  # of the means without one value
    spread = (away**2).sum()
    if spread == 0:
        return plain
    skew = (away**3).sum() / (6 * spread**1.5)
    bias = torch.special.ndtri(below)
    z = bias + torch.special.ndtri(torch.tensor(plain, dtype=torch.float64))
    low, high = torch.special.ndtr(bias + z / (1 - skew * z)).tolist()
    return (low, high) if 0 < low < high < 1 else plain


def _ends(means: Tensor, low: float, high: float) -> tuple[float, float]:
    found = means.quantile(torch.tensor([low, high], dtype=torch.float64))
    return found[0].item(), found[1].item()
