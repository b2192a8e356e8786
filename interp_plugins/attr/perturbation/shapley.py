"""Shapley values: exact over all coalitions, and sampled over permutations.

    phi_i = sum over S without i of |S|! (d - |S| - 1)! / d! * (v(S + i) - v(S))

(Shapley 1953), where v(S) is the score with the features outside S replaced by their baseline
(`attr/perturbation/coalitions.py`).
Exact: every coalition is evaluated once, 2^d rows per sample. Sampled: the mean over random orders of what a feature
adds when it joins (Castro et al. 2009; Strumbelj and Kononenko 2010), d - 1 rows per order and sample, plus two. The
estimate is unbiased, and each order's contributions sum to F(x) - F(baseline), so completeness is exact.
Antithetic orders, an order and its reverse, cancel part of the noise (Mitchell et al. 2022, arXiv:2104.12199). So does
an order rotated by half its length beside it: what joined in the first half then joins in the second, and the other
way round. Every order of such a set is uniform on its own, so the expectation stays what it was.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.perturbation.coalitions import Game
from interp_plugins.attr.perturbation.whole_batch import batches_of_any_length
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.average import Average, check_tolerance, error_asked, report_reached, rounds
from interp_plugins.attr.shared.base import PerturbationAttribution, prepared
from interp_plugins.attr.shared.grid_features import cells
from interp_plugins.core.batching import AUTOMATIC
from interp_plugins.core.errors import InputError
from interp_plugins.core.random import make_generator
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT, like

_MAX_EXACT = 20  # 2^20 coalitions per sample are a million rows


@register(
    "shapley_value_sampling",
    aliases=("shapley_sampling", "svs"),
    needs="perturbation",
    reference="Castro et al. 2009; Strumbelj and Kononenko 2010",
    defaults=cells,
    game="shapley",
    cost="n d forward",
    axioms=("completeness", "linearity", "dummy", "implementation invariance"),
    assumes="features that can be removed one by one; symmetric in the limit",
)
class ShapleyValueSampling(PerturbationAttribution):
    """Shapley values, estimated over random orders of the features.

    Example:
        def product(x):
            return x[:, 0] * x[:, 1] + x[:, 2]

        maps = ShapleyValueSampling(product).attribute(torch.tensor([[2.0, 3.0, 1.0]]), n_samples=25, seed=0)
        maps.sum()  # -> 7.0
    """

    @batches_of_any_length
    @args_from()
    def attribute(
        self,
        inputs: InputsT,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int = AUTOMATIC,
        show_progress: bool = False,
        *,
        antithetic: bool = False,
        stratified: bool = False,
        tol: float | None = None,
        max_samples: int = 1000,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT:
        """Shapley values; complete for any number of samples.

        Args:
            inputs: tensor or tuple of tensors, batch first, any dtype.
            baselines: what stands in for a missing feature: None (zeros), number, name, tensor, tuple or function.
            target: see `core.target.as_target`. Without one, each output value per example gets its own map.
            n_samples: random orders, shared by the samples of the batch. A feature that is as its
                baseline takes no rows.
            perturbations_per_eval: coalitions per forward pass. Left out: as many as fit; 1: one at a time.
            antithetic: follow each order by its reverse (n_samples counts pairs): less variance per pass where the
                features' effects are near additive in pairs.
            stratified: follow each order by its reverse, by its rotation by half and by the reverse of that (n_samples
                counts fours): less variance still.
            tol: go on, n_samples orders at a time, until each sample's map has, with 90 % confidence, a relative L2
                error below this (`attr/shared/average.py`). What was reached is reported (`core.report`: n_draws,
                map_error, standard_error), without a tolerance as well.
            max_samples: at most so many orders (pairs, fours); a warning says when tol was not reached.
            seed: seed of the draws. None: decided by `torch.manual_seed`; the global state is left as it was.
            batch_size: rows (coalitions x samples) per forward pass; overrides perturbations_per_eval.

        Returns:
            Maps of the inputs' shapes; (N, K, ...) for K outputs per example, (1, ...) or (K, ...) for a model that
            returns one value, or K, for the whole batch.
        """
        check_tolerance(tol, n_samples, max_samples)
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
            average = Average(game.samples, game.rounding)
            planned = n_samples if tol is None else max_samples
            runs = 4 if stratified else 2 if antithetic else 1
            players = game.differing.any(0)
            rows = 1 + planned * runs * max(1, int(players.sum()) - 1)
            with game.progress(rows, self.get_name(), True if show_progress else progress):
                for due, active in rounds(average.map_error, game.samples, tol, n_samples, max_samples):
                    orders = torch.stack([_order(game.d, rng) for _ in range(due)]).to(game.device)
                    found = _marginals(game, _companions(orders, runs), active, players)
                    average.add(found.reshape(runs, due, *found.shape[1:]).mean(0), active)
            if error_asked(tol):
                error = like(inputs, game.maps(average.standard_error()))
                report_reached(average.count, average.map_error(), error, tol, "orders")
            return like(inputs, game.maps(average.mean))


def _order(d: int, rng: torch.Generator) -> Tensor:
    return torch.randperm(d, generator=rng, device=rng.device)


def _companions(orders: Tensor, runs: int) -> Tensor:
    """Orders (P, d), then their reverses, their rotations by half, and the reverses of those: (runs * P, d)."""
    rotated = orders.roll(orders.shape[1] // 2, 1)
    return torch.cat([orders, orders.flip(1), rotated, rotated.flip(1)][:runs])


def _marginals(game: Game, orders: Tensor, samples: Tensor, players: Tensor) -> Tensor:
    """What each feature adds when it joins, for orders (P, d) and some samples: (P, samples, K, d).

    Features that are no players (d,), since they are their baseline, change nothing: they join without being asked.
    """
    count, number = len(orders), int(players.sum())
    orders = orders[players[orders]].reshape(count, number)
    inner = [game.scores_along(orders, samples)] if number > 1 else []
    start, end = (e[samples.to(e.device)] for e in (game.empty, game.clean.to(game.wide)))
    steps = start.new_zeros(count, *start.shape, game.d)
    if not number:
        return steps
    path = [start.expand(count, 1, *start.shape), *inner, end.expand(count, 1, *end.shape)]
    added = torch.cat(path, 1).diff(dim=1).permute(0, 2, 3, 1)  # (P, samples, K, place in the order)
    return steps.scatter_(3, orders[:, None, None, :].expand_as(added), added)


def coalition_sizes(codes: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Switches (C, d) of coalition numbers (bit i = feature i), and their sizes (C,)."""
    z = (codes[:, None] >> torch.arange(d, device=codes.device)) & 1
    return z.bool(), z.sum(1)


def check_exact(d: int, what: str, instead: str) -> None:
    """Refuse to enumerate the coalitions of too many features."""
    if d > _MAX_EXACT:
        raise InputError(
            f"{what} evaluates all 2^d coalitions: d = {d} features would need 2^{d} (about {2.0**d:.0e}) rows per "
            f"sample; at most {_MAX_EXACT} features are allowed. Group them with feature_mask, or use {instead}."
        )


@register(
    "shapley_values",
    aliases=("shapley", "exact_shapley"),
    needs="perturbation",
    reference="Shapley 1953",
    defaults=lambda inputs, spec: cells(inputs, spec, 3),
    game="shapley",
    cost="2^d forward",
    axioms=("completeness", "linearity", "dummy", "symmetry", "implementation invariance"),
    assumes="features that can be removed one by one",
)
class ShapleyValues(ShapleyValueSampling):
    """Exact Shapley values, from all 2^d coalitions, each evaluated once.

    Example:
        def product(x):
            return x[:, 0] * x[:, 1] + x[:, 2]

        ShapleyValues(product).attribute(torch.tensor([[2.0, 3.0, 1.0]]))  # -> [[3.0, 3.0, 1.0]]
    """

    @batches_of_any_length
    @args_from(ShapleyValueSampling.attribute)
    def attribute(  # type: ignore[override]
        self,
        inputs: InputsT,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int = AUTOMATIC,
        show_progress: bool = False,
        *,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT:
        """Exact Shapley values; arguments and layout as in `ShapleyValueSampling.attribute`.

        Raises:
            InputError: more than 20 features.
        """
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
            check_exact(game.d, "ShapleyValues", "ShapleyValueSampling or KernelShap")
            d, total = game.d, 2**game.d
            joined = [1 / (d * math.comb(d - 1, s)) for s in range(d)]  # weight of v(S + i) - v(S) by |S|
            values = torch.zeros(*game.clean.shape, d, dtype=game.wide, device=game.device)
            weight = torch.tensor(joined, dtype=game.wide, device=game.device)
            with game.progress(total, self.get_name(), True if show_progress else progress):
                for first in range(0, total, max(1, game.group)):
                    codes = torch.arange(first, min(total, first + max(1, game.group)), device=game.device)
                    z, size = coalition_sizes(codes, d)
                    plus, minus = weight[(size - 1).clamp_min(0)], -weight[size.clamp_max(d - 1)]
                    share = torch.where(z, plus[:, None], minus[:, None])  # (C, d)
                    values += torch.einsum("cnk,cd->nkd", game.scores(z), share)
            return like(inputs, game.maps(values))
