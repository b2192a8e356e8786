"""Subsets of the features that are taken from a sample: which they are, what the score loses, and the map's sum.

The subsets depend on (seed, sample, number of the draw) and not on the map, so one set of rows serves every map.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.random import check_seed
from interp_plugins.metrics.asking import About, Questions, about, asking
from interp_plugins.metrics.draws import draw_keys, sample_numbers
from interp_plugins.metrics.feature_rows import feature_numbers, feature_sums
from interp_plugins.metrics.rows import as_rows, row_sum
from interp_plugins.metrics.sheet import digest

# What the metrics of this family take beside the formula's own parameters.
OPTIONS = ("target", "additional_forward_args", "features", "reduce", "batch_size", "seed", "ids")
EVERY = 2**62  # as a number of subsets: all that there are
_BLOCK = 2**22  # numbers that are added up at a time


@dataclass(frozen=True)
class Falls:
    """What subsets take from the score, and from the map; K sizes, at most S subsets of each.

    Attributes:
        scores: float64 (N, K, S), f(x) - f(x without the subset); NaN where a sample has fewer subsets.
        sums: float64 (N, K, S), the map's sum over the subset.
        sizes: int64 (N, K), features of the subsets; 0 where a sample has fewer sizes.
        maps: the maps as rows (N, D).
        clean: float64 (N,), f(x).
    """

    scores: Tensor
    sums: Tensor
    sizes: Tensor
    maps: Tensor
    clean: Tensor


class Subsets:
    """Which features are removed in each row; `len` is the number of rows.

    Where a sample has no more than `count` subsets of a size, these are its rows, each once; else `count` random ones.

    Args:
        totals: int64 (N,), features of the samples.
        sizes: int64 (N, K), how many of them are removed; 0 for none.
        count: subsets of each size.
        seed: of the draws.
        ids: numbers of the samples.
    """

    def __init__(self, totals: Tensor, sizes: Tensor, count: int, seed: int, ids: Tensor | None):
        self.totals, self.sizes, self.most = totals, sizes, int(totals.max())
        all_of_them = [[math.comb(t, s) if s else 0 for s in own] for t, own in zip(totals.tolist(), sizes.tolist())]
        counts = torch.tensor([[min(c, count) for c in own] for own in all_of_them])
        self.every = torch.tensor([[c <= count for c in own] for own in all_of_them])
        self.shape = (*sizes.shape, max(1, int(counts.max())))
        self.where = (torch.arange(self.shape[2]) < counts[..., None]).nonzero()  # (rows, 3): sample, size, draw
        self.singles = bool(((self.sizes == 1) & self.every).all())  # row j of a sample is its feature j
        self._samples = sample_numbers(seed, ids).expand(len(totals))
        self._known: dict[tuple[int, int], Tensor] = {}

    def __len__(self) -> int:
        return len(self.where)

    def name(self, count: int, seed: int, ids: Tensor | None) -> Hashable:
        """What tells these subsets from others of the same samples."""
        who = None if ids is None else tuple(ids.tolist())
        return ("subsets", count, seed, who, tuple(self.totals.tolist()), tuple(map(tuple, self.sizes.tolist())))

    def removed(self, at: Tensor) -> Tensor:
        """Which features are gone: numbers of rows (B,) -> bool (B, most)."""
        i, k, j = self.where[at].unbind(1)
        found = torch.zeros(len(at), self.most, dtype=torch.bool)
        for total, size, every in {
            (int(t), int(s), bool(e)) for t, s, e in zip(self.totals[i], self.sizes[i, k], self.every[i, k])
        }:
            own = (self.totals[i] == total) & (self.sizes[i, k] == size) & (self.every[i, k] == every)
            if every and size == 1:
                found[own.nonzero().flatten(), j[own]] = True
            elif every:
                found[own, :total] = self._combinations(total, size)[j[own]]
            else:
                found[own, :total] = _random_subsets(draw_keys(self._samples[i[own]], j[own], total), size)
        return found

    def _combinations(self, total: int, size: int) -> Tensor:
        """All subsets of a size, bool (C, total)."""
        if (total, size) not in self._known:
            chosen = torch.tensor(list(itertools.combinations(range(total), size)))
            self._known[total, size] = torch.zeros(len(chosen), total, dtype=torch.bool).scatter_(1, chosen, True)
        return self._known[total, size]


def _random_subsets(keys: Tensor, size: int) -> Tensor:
    """The `size` elements of the smallest keys in each row: bool, of the keys' shape."""
    few = 2 * size <= keys.shape[1]
    chosen = keys.topk(size if few else keys.shape[1] - size, 1, largest=not few, sorted=False).indices
    return torch.full(keys.shape, not few).scatter_(1, chosen, few)


def single(totals: Tensor) -> Tensor:
    """One size of subsets, 1: with `EVERY`, each feature by itself."""
    return torch.ones(len(totals), 1, dtype=torch.int64)


def falls(
    planner: Callable[[Tensor], Tensor],
    count: int,
    given: tuple[Any, ...],
    *,
    target: Any = None,
    additional_forward_args: Any = None,
    features: Any = None,
    reduce: str | None = "sum",
    batch_size: int | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
) -> Falls:
    """What subsets of the features take from the score, and the map's sums over them.

    Args:
        planner: features per sample (N,) -> sizes of the subsets (N, K).
        count: subsets of each size.
        given: model, inputs (or an `Explanation`), maps, baselines.
        target: the score; None: the classes of the `Explanation`, or the model's only output.
        additional_forward_args: further arguments of the model.
        features: numbers of what goes together; None: each element; a function of the maps gives them.
        reduce: how channels become one value per place, whose elements go together; None: the maps as they are.
        batch_size: rows per pass.
        seed: of the draws, and of models that draw random numbers.
        ids: numbers of the samples, int64 (N,), for their draws; None: all samples have the same draws.
    """
    check_seed(seed)
    forward_func, inputs, attributions, baselines = given
    what = about(inputs, attributions, baselines, target, reduce)
    if callable(features):
        features = features(what.maps)
    with asking(
        forward_func, what, additional_forward_args=additional_forward_args, batch_size=batch_size, seed=seed
    ) as questions:
        own, totals = feature_numbers(what.maps, features)
        subsets = Subsets(totals, planner(totals), count, seed, ids)
        name = subsets.name(count, seed, ids)
        removed = _removed(questions, subsets, name)
        scores = _scores(questions, what, own, subsets, removed, name)
    maps = as_rows(what.maps)
    return Falls(
        *_tables(feature_sums(maps, own, totals), subsets, removed, scores), subsets.sizes, maps, scores[: len(maps)]
    )


def _removed(questions: Questions, subsets: Subsets, name: Hashable) -> Callable[[Tensor], Tensor]:
    """`Subsets.removed`, from a table that all methods of a scope share where it is small enough."""
    if questions.sheet is None:
        return subsets.removed
    table = questions.sheet.drawn(
        name, len(subsets) * subsets.most, lambda: subsets.removed(torch.arange(len(subsets)))
    )
    return subsets.removed if table is None else lambda at: table[at]


def _scores(
    questions: Questions,
    what: About,
    own: Tensor | None,
    subsets: Subsets,
    removed: Callable[[Tensor], Tensor],
    name: Hashable,
) -> Tensor:
    """Scores of the samples (N,) and of the rows; none follows a map, so that all methods of a scope share them."""
    n = questions.n
    rows = torch.cat([torch.arange(n), subsets.where[:, 0]])

    def kept(at: Tensor) -> Tensor:
        gone = torch.zeros(len(at), subsets.most, dtype=torch.bool)
        gone[at >= n] = removed(at[at >= n] - n)
        if own is None:
            return ~gone
        same = own.stride(0) == 0  # for all samples
        where = own[:1].expand(len(at), -1) if same else own[rows[at].to(own.device)]
        return ~gone.to(own.device).gather(1, where)

    shapes = [m.shape[1:] for m in what.maps]

    def asked() -> Tensor:
        return questions.masked(rows, kept, shapes)

    if questions.sheet is None:
        return asked()
    features = None if own is None else digest(own[:1] if own.stride(0) == 0 else own)
    found = questions.sheet.drawn(("scores", name, features, tuple(shapes)), 8 * len(rows), asked)
    return asked() if found is None else found


def _tables(
    sums: Tensor, subsets: Subsets, removed: Callable[[Tensor], Tensor], scores: Tensor
) -> tuple[Tensor, Tensor]:
    """Falls of the score and sums of the map, (N, K, S)."""
    n, where = len(sums), subsets.where
    sums = sums.cpu().double()
    if subsets.singles:
        lost = sums[where[:, 0], where[:, 2]]
    else:
        blocks = torch.arange(len(subsets)).split(max(1, _BLOCK // subsets.most))
        lost = torch.cat([row_sum(torch.where(removed(at), sums[where[at, 0]], 0.0)) for at in blocks])
    tables = []
    for values in (scores[:n][where[:, 0]] - scores[n:], lost):
        table = torch.full(subsets.shape, torch.nan, dtype=torch.float64)
        table[where.unbind(1)] = values
        tables.append(table)
    return tables[0], tables[1]
