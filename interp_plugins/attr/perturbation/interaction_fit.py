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
_AT_A_TIME = 1024


@dataclass(frozen=True)
class PairWeights:
    """Of an index: weights of interactions by |S without i, j|, and of a feature's own values by |S without i|.

    Attributes:
        pair: (d - 1,).
        alone: (d,).
    """

    pair: Tensor
    alone: Tensor


class FittedInteractions:
    """Interactions of a game from a growing number of coalitions.

    Args:
        game: the scores.
        index: "sii" or "sti".
        weights: of the index.
        generator: what coalitions are drawn from.

    Attributes:
        values: the matrices (samples, K, d, d).
        standard_error: theirs.
        count: pairs of coalitions per sample.
    """

    def __init__(self, game: Game, index: str, weights: PairWeights, generator: torch.Generator):
        self.game, self.index, self.weights, self.generator, self.d = game, index, weights, generator, game.d
        shape = (*game.clean.shape, game.d, game.d)
        self.values = torch.zeros(shape, dtype=game.wide, device=game.device)
        self.standard_error = torch.full_like(self.values, math.inf)
        self.count = torch.zeros(game.samples, dtype=torch.long)
        self._z = torch.zeros(0, 2, game.d, dtype=torch.bool)
        self._v = torch.zeros(0, 2, *game.clean.shape, dtype=game.wide, device=game.device)
        self._upper = torch.triu_indices(game.d, game.d, 1)
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
        """Matrices and errors (columns, d, d) of scores (pairs, 2, columns) and of those at both ends (2, columns)."""
        features = self._features(self._z.flatten(0, 1)).unflatten(0, (-1, 2))
        limits = self._features(torch.stack([torch.zeros(self.d), torch.ones(self.d)]).bool())
        part = torch.arange(len(y)) % _PARTS
        grams = [features[part == k].flatten(0, 1) for k in range(_PARTS)]
        squares = [f.t() @ f for f in grams]
        products = [f.t() @ y[part == k].flatten(0, 1) for k, f in enumerate(grams)]
        fixed, known = _ENDS * limits.t() @ limits, _ENDS * limits.t() @ ends
        mean, variance = (torch.zeros(y.shape[2], self.d, self.d, dtype=torch.float64) for _ in range(2))
        for k in range(_PARTS):
            gram = fixed + sum(squares[:k] + squares[k + 1 :])
            gram.diagonal().add_(1e-9 * len(y))
            fit = torch.linalg.solve(gram, known + sum(products[:k] + products[k + 1 :]))
            mine, z = part == k, self._z[part == k]
            rest = y[mine] - features[mine] @ fit
            drawn, square = self._moments(z, rest)
            share = len(z) / len(y)
            mean = mean + share * (self._of_fit(fit, ends - limits @ fit, ends, at) + drawn)
            variance = variance + share**2 * (square - drawn.square()).clamp_min(0) / max(1, len(z) - 1)
        return mean, variance.sqrt()

    def _features(self, z: Tensor) -> Tensor:
        """One, the features as -1 and 1, and their products: (rows, coefficients)."""
        signs = 2 * z.to(torch.float64) - 1
        i, j = self._upper
        return torch.cat([torch.ones(len(z), 1, dtype=torch.float64), signs, signs[:, i] * signs[:, j]], 1)

    def _moments(self, z: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and mean square over pairs (M, 2, d) of what leftovers (M, 2, columns) tell: (columns, d, d) each."""
        size = z[:, 0].sum(1)
        ways = torch.tensor([math.comb(self.d, int(s)) for s in range(self.d + 1)], dtype=torch.float64)
        scaled = rest * (ways[size] * (self.d - 1) / 2)[:, None, None]  # a coalition and its complement are one draw
        columns = rest.shape[2]
        total, square = (torch.zeros(columns, self.d, self.d, dtype=torch.float64) for _ in range(2))
        for some, values in zip(z.split(_AT_A_TIME), scaled.split(_AT_A_TIME), strict=True):
            both, alone = zip(*(self._shares(some[:, side]) for side in (0, 1)), strict=True)
            for c in range(columns):
                told = self._centred(
                    sum(b * values[:, s, c, None, None] for s, b in enumerate(both)),
                    sum(a * values[:, s, c, None] for s, a in enumerate(alone)),
                )
                total[c] += told.sum(0)
                square[c] += told.square().sum(0)
        return total / len(z), square / len(z)

    def _shares(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What the scores of coalitions (M, d) count for pairs (M, d, d) and for single features (M, d)."""
        size, here = z.sum(1), z.long()
        inside = here[:, :, None] + here[:, None]
        others = size[:, None, None] - inside
        known = (others >= 0) & (others <= self.d - 2)
        pair = self.weights.pair.cpu().double()[others.clamp(0, self.d - 2)] * known
        both = pair * torch.where(inside == 1, -1.0, 1.0) * (1 - torch.eye(self.d))
        alone = self.weights.alone.cpu().double()[(size[:, None] - here).clamp(0, self.d - 1)]
        return both, torch.where(z, alone, -alone)

    def _centred(self, both: Tensor, alone: Tensor) -> Tensor:
        """A matrix of leftovers (M, d, d), which adds nothing to the sum."""
        if self.index == "sti":
            eye = torch.eye(self.d, dtype=both.dtype)
            return (both - both.sum((1, 2), keepdim=True) / max(1, self.d * (self.d - 1)) * (1 - eye)) / 2
        return self._matrix(both, alone - alone.mean(1, keepdim=True))

    def _of_fit(self, fit: Tensor, left: Tensor, ends: Tensor, at: Tensor) -> Tensor:
        """The matrices of the fitted functions (coefficients, columns), and of what they leave at both ends."""
        columns, d = fit.shape[1], self.d
        both = torch.zeros(columns, d, d, dtype=torch.float64)
        i, j = self._upper
        both[:, i, j] = both[:, j, i] = 4 * fit[1 + d :].t()
        alone = 2 * fit[1 : 1 + d].t()
        change = ends[1] - ends[0]
        for z, rest in zip(torch.tensor([[False], [True]]).expand(2, d), left, strict=True):
            pair, single = self._shares(z[None])
            both, alone = both + rest[:, None, None] * pair, alone + rest[:, None] * single
        if self._first is not None:
            first = self._first[at].flatten(0, 1).cpu().double()
            missing = change - first.sum(1) - both.sum((1, 2)) / 2
            spread = 2 * missing[:, None, None] / max(1, d * (d - 1)) * (1 - torch.eye(d))
            return (both + spread) / 2 + torch.diag_embed(first)
        return self._matrix(both, alone + ((change - alone.sum(1)) / d)[:, None])

    @staticmethod
    def _matrix(both: Tensor, values: Tensor) -> Tensor:
        """Halves of the interactions beside the diagonal; on it what makes rows sum to a feature's value."""
        return both / 2 + torch.diag_embed(values - both.sum(-1) / 2)


def rows_of(orders: int, d: int) -> int:
    """Rows that take as long as so many orders."""
    return orders * d * (d + 1) // 2


def enough(orders: Sequence[int], d: int) -> bool:
    """Whether rows of these numbers of orders, the fewest of them, are enough for a fit."""
    return d > 3 and rows_of(min(orders), d) >= LEAST * (1 + d * (d + 1) // 2)
