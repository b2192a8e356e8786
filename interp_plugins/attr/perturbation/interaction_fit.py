"""Sampled interactions by a quadratic fit and what it leaves over: every row tells of every pair.

Rows are coalitions of sizes that are all equally likely, each with its complement. A quadratic function of the
coalitions is fitted to their scores; its interactions are its coefficients, whatever the index. What it leaves over is
counted by

    I_ij = sum over S of  c(|S without i, j|) s(S) v(S),    s = 1 where S has both or none of i, j, else -1

(the form of SHAP-IQ: Fumagalli et al. 2023, arXiv:2303.01179), each row weighted by one over its probability. Rows are
cut into parts, and each part is counted with the fit of the others, so that the result is unbiased and what rows differ
by is its error. Of the sum all that sampling adds is taken away again: it stays the change of the score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp_plugins.attr.perturbation.coalitions import Game
from interp_plugins.attr.shared.average import relative_error

_PARTS = 5
_ENDS = 900.0  # weight of the empty and the whole coalition, which are known, among rows
LEAST = 3  # rows per coefficient below which there is too little for a fit
_AT_A_TIME = 2**22  # numbers


@dataclass(frozen=True)
class PairWeights:
    """Of an index: weights of interactions by |S without i, j|, and of a feature's own values by |S without i|.

    Attributes:
        pair: (d - 1,).
        alone: (d,).
    """

    pair: Tensor
    alone: Tensor

    def by_size(self) -> tuple[Tensor, Tensor]:
        """What a score counts by the size of its coalition.

        For two features, of which that has none, one or both: (d + 1, 3); for one that it has not, or has: (d + 1, 2).
        """
        pair, alone = (torch.zeros(len(self.alone) + 1, k, dtype=torch.float64) for k in (3, 2))
        for k, sign in enumerate((1, -1, 1)):
            pair[k : k + len(self.pair), k] = sign * self.pair.cpu()
        for k, sign in enumerate((-1, 1)):
            alone[k : k + len(self.alone), k] = sign * self.alone.cpu()
        return pair, alone


class FittedInteractions:
    """Interactions of a game from a growing number of coalitions.

    Args:
        game: the scores.
        index: "sii" or "sti".
        weights: of the index.
        generator: what coalitions are drawn from.
        estimate: whether the error is asked for; it is infinite else.

    Attributes:
        values: the matrices (samples, K, d, d).
        standard_error: theirs.
        count: pairs of coalitions per sample.
    """

    def __init__(self, game: Game, index: str, weights: PairWeights, generator: torch.Generator, estimate: bool = True):
        self.game, self.index, self.generator, self.estimate, self.d = game, index, generator, estimate, game.d
        shape = (*game.clean.shape, game.d, game.d)
        self.values = torch.zeros(shape, dtype=game.wide, device=game.device)
        self.standard_error = torch.full_like(self.values, math.inf)
        self.count = torch.zeros(game.samples, dtype=torch.long)
        self._z = torch.zeros(0, 2, game.d, dtype=torch.bool)
        self._v = torch.zeros(0, 2, *game.clean.shape, dtype=game.wide, device=game.device)
        self._upper = torch.triu_indices(game.d, game.d, 1)
        self._pair, self._alone = weights.by_size()
        self._ways = torch.tensor([math.comb(game.d, s) for s in range(game.d + 1)], dtype=torch.float64)
        single = torch.eye(game.d, dtype=torch.bool)
        self._first = (game.scores_cached(single) - game.empty).permute(1, 2, 0) if index == "sti" else None

    @property
    def coefficients(self) -> int:
        """How many coefficients a quadratic function of the features has."""
        return 1 + self.d * (self.d + 1) // 2

    def add(self, rows: int, samples: Tensor) -> None:
        """Score about so many more coalitions for some samples, and find their matrices and errors from all so far."""
        pairs = -(-rows // 2)
        rng = {"generator": self.generator, "device": self.generator.device}
        size = torch.randint(1, self.d, (pairs, 1), **rng).cpu()  # type: ignore[call-overload]
        z = torch.rand(pairs, self.d, **rng).cpu().argsort(1).argsort(1) < size  # type: ignore[call-overload]
        z = torch.stack([z, ~z], 1)
        at = samples.to(self.game.device)
        v = self._v.new_full((pairs, 2, *self.game.clean.shape), math.nan)
        v[:, :, at] = self.game.scores_cached(z.flatten(0, 1), samples).unflatten(0, (pairs, 2))
        self._z, self._v = torch.cat([self._z, z]), torch.cat([self._v, v])
        self.count[samples.cpu()] = len(self._z)
        y = self._v[:, :, at].flatten(2).cpu()  # (pairs, 2, samples * K)
        ends = torch.stack([self.game.empty, self.game.clean.to(self._v)])  # (2, samples, K)
        found, error = self._found(y, ends[:, at].flatten(1).cpu(), at)
        shape = (len(at), -1, self.d, self.d)
        self.values[at] = found.reshape(shape).to(self.values)
        self.standard_error[at] = error.reshape(shape).to(self.values)

    def map_error(self) -> Tensor:
        """Per sample: the bound on the relative L2 error (`attr/shared/average.py`)."""
        return relative_error(self.count - _PARTS, [self.standard_error], [self.values], self.game.rounding)

    def _found(self, y: Tensor, ends: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Matrices and errors (columns, d, d) of scores (pairs, 2, columns) and of those at both ends (2, columns).

        A coalition's complement has the same products of features, and the features themselves with the other sign: a
        pair's sum tells the coefficients of the first, its difference those of the second.
        """
        part = torch.arange(len(y)) % _PARTS
        order, sizes = part.argsort(stable=True), part.bincount(minlength=_PARTS).tolist()
        z, y = self._z[order], y[order]
        fits, told = [], []
        for f, sign in zip(self._features(z[:, 0]), (1, -1), strict=True):
            cut, values = f.split(sizes), (y[:, 0] + sign * y[:, 1]).split(sizes)
            fits.append(_fits_without_each(cut, values, ends[1] + sign * ends[0], len(y)))
            told.append(torch.cat([rows @ fit for rows, fit in zip(cut, fits[-1], strict=True)]))
        rest = y - torch.stack([told[0] + told[1], told[0] - told[1]], 1)
        drawn, variance = self._moments(z, rest, sizes)
        even, odd = (fit.transpose(0, 1).flatten(1) for fit in fits)  # (coefficients, parts * columns)
        ends, level, slope = ends.repeat(1, _PARTS), even.sum(0), odd.sum(0)
        left = ends - torch.stack([level - slope, level + slope])
        fitted = self._of_fit(even[1:], odd, left, ends, at).unflatten(0, (_PARTS, -1))
        share = torch.tensor(sizes, dtype=torch.float64) / len(y)
        return drawn + torch.tensordot(share, fitted, 1), variance.sqrt()

    def _features(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Of coalitions (rows, d): one and the products of features of -1 and 1, and these features themselves."""
        signs = 2 * z.t().to(torch.float64) - 1
        i, j = self._upper
        return torch.cat([torch.ones(1, len(z), dtype=torch.float64), signs[i] * signs[j]]).t(), signs.t()

    def _moments(self, z: Tensor, rest: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
        """The mean of what leftovers (M, 2, columns) of pairs (M, 2, d) tell, and its variance: (columns, d, d) each.

        The variance is that within the parts, of these sizes; infinite where it is not asked for.
        """
        size, here = z[:, 0].sum(1), z[:, 0].double()
        scaled = rest * (self._ways[size] * (self.d - 1) / 2)[:, None, None]  # a coalition and its complement: one draw
        counts = torch.tensor(sizes, dtype=torch.float64)
        weight = 1 / ((counts - 1).clamp_min(1) * len(z) ** 2)
        each = (weight * counts).repeat_interleave(torch.tensor(sizes))[:, None, None]
        parts = []
        for some in scaled.split(max(1, _AT_A_TIME // here.numel()), 2):
            both, alone = self._told(size, some)
            if not self.estimate:
                total = _summed(here, both, alone)
                parts.append((total, torch.full_like(total, math.inf)))
                continue
            pieces = zip(*(t.split(sizes) for t in (here, both, alone)), strict=True)
            sums = torch.stack([_summed(*piece) for piece in pieces])  # (parts, columns, d, d)
            squares = _summed(here, both.square() * each, alone.square() * each)
            parts.append((sums.sum(0), (squares - torch.tensordot(weight, sums.square(), 1)).clamp_min(0)))
        total, variance = (torch.cat(column) for column in zip(*parts, strict=True))
        return total / len(z), variance

    def _told(self, size: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Entries of the matrices that values (M, 2, columns) of coalitions and their complements tell.

        An entry depends on the coalition's size (M,) and on how many of the entry's features it has: (M, 3, columns)
        beside the diagonal, (M, 2, columns) on it. Nothing is added to the sum of a matrix.
        """
        d, other = self.d, self.d - size
        both, alone = (
            t[size, :, None] * values[:, :1] + t[other].flip(1)[:, :, None] * values[:, 1:]
            for t in (self._pair, self._alone)
        )
        inside, outside = size[:, None].double(), other[:, None].double()
        zero, one, two = both.unbind(1)
        if self.index == "sti":
            whole = inside * (inside - 1) * two + 2 * inside * outside * one + outside * (outside - 1) * zero
            return (both - (whole / max(1, d * (d - 1)))[:, None]) / 2, torch.zeros_like(alone)
        rows = torch.stack([inside * one + (outside - 1) * zero, (inside - 1) * two + outside * one], 1)
        mean = (outside * alone[:, 0] + inside * alone[:, 1]) / d
        return both / 2, alone - mean[:, None] - rows / 2

    def _of_fit(self, products: Tensor, features: Tensor, left: Tensor, ends: Tensor, at: Tensor) -> Tensor:
        """The matrices of functions, by their coefficients (..., columns), and of what they leave at both ends."""
        columns, d = features.shape[1], self.d
        both = torch.zeros(columns, d, d, dtype=torch.float64)
        i, j = self._upper
        both[:, i, j] = both[:, j, i] = 4 * products.t()
        alone = 2 * features.t()
        change = ends[1] - ends[0]
        pair, single = self._pair[0, 0] * left[0] + self._pair[d, 2] * left[1], self._alone[0, 0] * left[0]
        both = both + pair[:, None, None] * (1 - torch.eye(d))
        alone = alone + (single + self._alone[d, 1] * left[1])[:, None]
        if self._first is not None:
            first = self._first[at].flatten(0, 1).cpu().double()
            first = first.repeat(columns // len(first), 1)
            missing = change - first.sum(1) - both.sum((1, 2)) / 2
            spread = 2 * missing[:, None, None] / max(1, d * (d - 1)) * (1 - torch.eye(d))
            return (both + spread) / 2 + torch.diag_embed(first)
        return self._matrix(both, alone + ((change - alone.sum(1)) / d)[:, None])

    @staticmethod
    def _matrix(both: Tensor, values: Tensor) -> Tensor:
        """Halves of the interactions beside the diagonal; on it what makes rows sum to a feature's value."""
        return both / 2 + torch.diag_embed(values - both.sum(-1) / 2)


def _fits_without_each(rows: Sequence[Tensor], values: Sequence[Tensor], ends: Tensor, pairs: int) -> Tensor:
    """Coefficients (parts, features, columns) of least squares without each of the parts.

    Args:
        rows: of every part, the features (M, features) of its pairs; the complements have the same, but for a sign.
        values: of every part, the sums or differences (M, columns) of the pairs' scores.
        ends: those of the scores at both ends, (columns,); all features are one there.
        pairs: in all parts.
    """
    squares = torch.stack([f.t() @ f for f in rows])
    products = torch.stack([f.t() @ v for f, v in zip(rows, values, strict=True)])
    gram = 2 * (squares.sum(0) - squares + _ENDS)
    gram.diagonal(dim1=1, dim2=2).add_(1e-9 * pairs)
    return torch.linalg.solve(gram, products.sum(0) - products + _ENDS * ends)


def _summed(here: Tensor, both: Tensor, alone: Tensor) -> Tensor:
    """Sums over coalitions (M, d) of 0 and 1 of matrices (columns, d, d), by entries as in `_told`."""
    zero, one, two = both.unbind(1)
    single = (one - zero).t() @ here
    found = torch.tensordot((two - 2 * one + zero)[:, :, None] * here[:, None], here, ([0], [0]))
    found = found + single[:, :, None] + single[:, None] + zero.sum(0)[:, None, None]
    found.diagonal(dim1=1, dim2=2).copy_(alone[:, 0].sum(0)[:, None] + (alone[:, 1] - alone[:, 0]).t() @ here)
    return found


def rows_of(orders: int, d: int) -> int:
    """Rows that take as long as so many orders."""
    return orders * d * (d + 1) // 2


def enough(orders: Sequence[int], d: int) -> bool:
    """Whether rows of these numbers of orders, the fewest of them, are enough for a fit."""
    return d > 3 and rows_of(min(orders), d) >= LEAST * (1 + d * (d + 1) // 2)
