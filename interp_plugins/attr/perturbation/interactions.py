"""Pairwise interactions of features: what two do together beyond what each does alone.

    D_ij(S) = v(S + i + j) - v(S + i) - v(S + j) + v(S)

- "sii", the Shapley interaction index (Grabisch, Roubens 1999): the mean of D_ij over coalition sizes and coalitions,
  weights s! (d - s - 2)! / (d - 1)!.
- "sti", the Shapley-Taylor index of order two (Sundararajan et al. 2020, arXiv:1902.05622): weights
  2 / d / C(d - 1, s); its first order is what a feature does alone, v(i) - v(0).

The matrix has half of an interaction on each side of the diagonal. The diagonal makes its sum F(x) - F(baseline): for
"sti" the first order, for "sii" the Shapley value less the feature's interactions (so that rows sum to Shapley values,
as in TreeSHAP). Exact over all 2^d coalitions; or sampled, from few rows over orders of the features, d (d + 1) / 2
rows per order for every pair at once, from more by a quadratic fit and what it leaves over.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.perturbation.coalitions import Game
from interp_plugins.attr.perturbation.interaction_fit import FittedInteractions, PairWeights, enough, rows_of
from interp_plugins.attr.perturbation.shapley import ShapleyValueSampling, check_exact, coalition_sizes
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.average import Average, check_tolerance, error_asked, report_reached, rounds
from interp_plugins.attr.shared.base import PerturbationAttribution, prepared
from interp_plugins.core.batching import AUTOMATIC, check_chunk
from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.random import make_generator
from interp_plugins.core.tensors import Inputs

_INDICES = ("sii", "sti")


class ShapleyInteractions(PerturbationAttribution):
    """Pairwise Shapley interactions.

    Not in the registry, because its result is a matrix per sample and not a map of the input.
    """

    @args_from(ShapleyValueSampling.attribute)
    def attribute(
        self,
        inputs: Inputs,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int | None = None,
        perturbations_per_eval: int = AUTOMATIC,
        *,
        index: str = "sii",
        tol: float | None = None,
        max_samples: int = 1000,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Tensor:
        """The interactions, (N, d, d), symmetric, in the order of feature_mask's numbers.

        Args:
            inputs: tensor or tuple of tensors, batch first.
            target: see `core.target.as_target`. Without one, (N, K, d, d) for K outputs per example.
            feature_mask: the features, as in `FeatureAblation`; None: every element.
            n_samples: how much is sampled, in orders of the features, each d (d + 1) / 2 rows; None, or where all 2^d
                coalitions are at most a quarter more rows than that: exact, over all of them. From about three orders
                on the rows are coalitions of random size, and a quadratic fit and its leftovers are read off them
                (`attr/perturbation/interaction_fit.py`).
            index: "sii" or "sti".
            tol: with n_samples: go on, n_samples orders at a time, until each sample's matrix has, with 90 %
                confidence, a relative L2 error below this (`attr/shared/average.py`); what was reached is reported
                (`core.report`: n_draws, map_error, standard_error).
            max_samples: at most so many orders; a warning says when tol was not reached.
            seed: seed of the orders. None: decided by `torch.manual_seed`.
            batch_size: rows per forward pass; overrides perturbations_per_eval.

        Raises:
            InputError: exact, with more than 20 features.
        """
        if index not in _INDICES:
            raise unknown("index", index, _INDICES)
        check_chunk("n_samples", n_samples)
        check_tolerance(tol, n_samples or 1, max_samples)
        if tol is not None and n_samples is None:
            raise InputError("tol is for sampled interactions: give n_samples, the orders per round, such as 10.")
        rng = make_generator(seed, generator)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            game = Game(
                forward,
                xs,
                baselines,
                feature_mask,
                template=inputs,
                perturbations_per_eval=perturbations_per_eval,
                chunk=batch_size,
            )
            orders = max_samples if tol is not None or n_samples is None else n_samples
            if n_samples is None or (tol is None and 1.25 * rows_of(n_samples, game.d) >= 2**game.d):
                check_exact(game.d, "Exact interactions", "n_samples=...")
                total = 2**game.d
                with game.progress(total, self.get_name(), progress):
                    result = _exact(game, index)
                if n_samples is not None:
                    none = torch.zeros_like(result)
                    report_reached(torch.full((game.samples,), n_samples), none[:, 0, 0, 0], none, tol, "orders")
            else:
                sampled = _fitted if enough((n_samples, orders), game.d) else _sampled
                with game.progress(rows_of(orders, game.d), self.get_name(), progress):
                    result = sampled(game, index, n_samples, tol, max_samples, rng)
            return result.to(game.dtype).reshape(*game.shape, game.d, game.d)


def _weights(index: str, d: int) -> list[float]:
    """Weight of D_ij(S) by |S| = 0 .. d - 2; over all S they sum to one."""
    if index == "sii":
        return [1 / ((d - 1) * math.comb(d - 2, s)) for s in range(d - 1)]
    return [2 / (d * math.comb(d - 1, s)) for s in range(d - 1)]


def _exact(game: Game, index: str) -> Tensor:
    d, device = game.d, game.device
    # By |S| from -2 on, so that pairs that are no subsets need no special case.
    pair = torch.zeros(d + 1, dtype=game.wide, device=device)
    if d > 1:
        pair[: d - 1] = torch.tensor(_weights(index, d), dtype=game.wide, device=device)
    alone = torch.tensor([1 / (d * math.comb(d - 1, s)) for s in range(d)], dtype=game.wide, device=device)
    both = torch.zeros(*game.clean.shape, d, d, dtype=game.wide, device=device)
    values = torch.zeros(*game.clean.shape, d, dtype=game.wide, device=device)
    first = torch.zeros_like(values)
    step = max(1, game.group)
    for start in range(0, 2**d, step):
        z, size = coalition_sizes(torch.arange(start, min(2**d, start + step), device=device), d)
        v = game.scores(z)
        here = z.to(game.wide)
        sign = 2 * here - 1
        rest = size[:, None, None] - z[:, :, None].long() - z[:, None, :].long()
        share = pair[rest.clamp_min(0)] * sign[:, :, None] * sign[:, None, :]
        both += torch.einsum("cnk,cij->nkij", v, share)
        values += torch.einsum("cnk,ci->nki", v, sign * alone[(size[:, None] - z.long())])
        single = (size == 1)[:, None] & z
        first += torch.einsum("cnk,ci->nki", v, single.to(game.wide) - (size == 0)[:, None].to(game.wide))
    return _matrix(both, values, first, index)


def _matrix(both: Tensor, values: Tensor, first: Tensor, index: str) -> Tensor:
    """Halves of the interactions beside the diagonal; on it, what makes the sum complete."""
    d = values.shape[-1]
    off = both / 2 * (1 - torch.eye(d, dtype=both.dtype, device=both.device))
    return off + torch.diag_embed(first if index == "sti" else values - off.sum(-1))


def _fitted(
    game: Game, index: str, n_samples: int, tol: float | None, max_samples: int, rng: torch.Generator
) -> Tensor:
    """By a quadratic fit and its leftovers, from as many rows as the orders have."""
    d = game.d
    alone = torch.tensor([1 / (d * math.comb(d - 1, s)) for s in range(d)], dtype=torch.float64)
    weights = PairWeights(torch.tensor(_weights(index, d), dtype=torch.float64), alone)
    fitted = FittedInteractions(game, index, weights, rng, error_asked(tol))
    for due, who in rounds(fitted.map_error, game.samples, tol, n_samples, max_samples):
        fitted.add(rows_of(due, d), who)
    if fitted.estimate:
        drawn = fitted.count * 2 // rows_of(1, d)
        report_reached(drawn, fitted.map_error(), fitted.standard_error, tol, "orders")
    return fitted.values


def _sampled(
    game: Game, index: str, n_samples: int, tol: float | None, max_samples: int, rng: torch.Generator
) -> Tensor:
    d, device = game.d, game.device
    empty = game.empty
    average = Average(game.samples, game.rounding)
    # Place in the order -> how much D counts there: orders put the first of a pair early more often than sizes do.
    places = torch.arange(max(1, d - 1), dtype=game.wide, device=device)
    weight = torch.ones_like(places) if index == "sti" else d / (2 * (d - 1 - places).clamp_min(1))
    upper = torch.triu_indices(d, d, device=device)  # (place p, later or same place q): the first p features and q's
    for due, who in rounds(average.map_error, game.samples, tol, n_samples, max_samples):
        start = empty[who.to(device)]
        for _ in range(due):
            order = torch.randperm(d, generator=rng, device=rng.device).to(device)
            rank = order.argsort()
            z = (rank[None] < upper[0][:, None]) | (rank[None] == upper[1][:, None])
            v = torch.zeros(d, d, *start.shape, dtype=game.wide, device=device)
            v[upper[0], upper[1]] = game.scores(z, who)  # v[p, q] = v(first p, and q)
            prefix = torch.cat([start[None], v.diagonal().permute(2, 0, 1)])  # v(first p), p = 0 .. d
            gain = v - prefix[:-1, None]  # of q after the first p
            change = torch.zeros_like(v)
            if d > 1:
                change[:-1] = (gain[1:] - gain[:-1]) * weight.reshape(-1, 1, 1, 1)
            change = torch.triu(change.permute(2, 3, 0, 1), 1)
            both = change + change.transpose(-1, -2)
            single = prefix.diff(dim=0).permute(1, 2, 0)
            first = gain[0].permute(1, 2, 0)
            drawn = _matrix(both, single, first, index)
            average.add(drawn.index_select(2, rank).index_select(3, rank)[None], who)
    report_reached(average.count, average.map_error(), average.standard_error(), tol, "orders")
    return average.mean
