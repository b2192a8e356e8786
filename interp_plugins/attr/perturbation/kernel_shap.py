"""Kernel SHAP: Shapley values by one weighted regression on random coalitions (Lundberg, Lee 2017, arXiv:1705.07874).

    minimise  sum over S of k(S) (v(S) - v(0) - sum of phi_i in S)^2   with  sum of all phi_i = v(all) - v(0)

    k(S) = (d - 1) / (C(d, |S|) |S| (d - |S|))

Coalitions are drawn in proportion to k, so that all count alike, or all of them are taken where n_samples allows; then
the values are exact. The constraint holds exactly: it is solved for, not weighted. Drawing each coalition together with
its complement reduces the variance (Covert, Lee 2021, arXiv:2012.01536). The coalitions are shared by the samples of
the batch, so one regression serves them all. Cost: n_samples rows per sample.

The values are a function of means over independent draws, so they are asymptotically normal (ibid., section 3). Their
standard errors come from the regression's residuals, inflated where a draw pulls the fit towards itself (HC3; MacKinnon
and White 1985). A pair of complements has opposite rows in the regression and counts as one draw, of half the
difference of its two scores. From three pairs per feature on (and up to a thousand) a cubic function is a control
variate of theirs (`attr/perturbation/cubic_fit.py`), for each map whose error it makes smaller.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.attr.perturbation.coalitions import Game
from interp_plugins.attr.perturbation.cubic_fit import LEAST, MOST, cubic_fit
from interp_plugins.attr.perturbation.lime import Lime
from interp_plugins.attr.perturbation.lime_surrogates import outputs_shape, warn_of_many
from interp_plugins.attr.perturbation.shapley import coalition_sizes
from interp_plugins.attr.perturbation.surrogate import LeastSquares, SkLearnLinearRegression
from interp_plugins.attr.perturbation.whole_batch import batches_of_any_length
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.average import check_tolerance, error_asked, relative_error, report_reached, rounds
from interp_plugins.attr.shared.base import prepared
from interp_plugins.attr.shared.grid_features import cells
from interp_plugins.core.batching import AUTOMATIC
from interp_plugins.core.random import make_generator
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT, as_tuple, like

_ENDS = 2  # the empty and the whole coalition are among the n_samples


@register(
    "kernel_shap",
    aliases=("kernelshap",),
    needs="perturbation",
    title="Kernel SHAP",
    reference="Lundberg and Lee 2017, arXiv:1705.07874",
    defaults=lambda inputs, spec: {"n_samples": 500, **cells(inputs, spec)},
    fast={"n_samples": 200},
    thorough={"n_samples": 2000},
    game="shapley",
    cost="n forward",
    axioms=("completeness", "linearity", "dummy", "symmetry", "implementation invariance"),
    assumes="features that can be removed one by one",
)
class KernelShap(Lime):
    """Shapley values by weighted least squares.

    Args:
        forward_func: model or callable.

    Example:
        def product(x):
            return x[:, 0] * x[:, 1] + x[:, 2]

        KernelShap(product).attribute(torch.tensor([[2.0, 3.0, 1.0]]), n_samples=200, seed=0)  # -> [[3.0, 3.0, 1.0]]
    """

    def __init__(self, forward_func: Callable[..., Any]):
        # `attribute` draws and weighs by itself; bound methods, kept here, would hold the object in a circle.
        super().__init__(forward_func, SkLearnLinearRegression())
        self.inf_weight = 1000000.0

    def kernel_shap_similarity_kernel(self, _: Any, __: Any, interpretable_sample: Tensor, **kwargs: Any) -> Tensor:
        """The weight of a drawn coalition: one, and `inf_weight` for the empty and the whole (for use with `Lime`)."""
        size = int(interpretable_sample.sum())
        return torch.tensor([self.inf_weight if size in (0, kwargs["num_interp_features"]) else 1.0])

    def kernel_shap_perturb_generator(self, original_inp: Any, **kwargs: Any) -> Iterator[Tensor]:
        """The whole coalition, the empty one, then draws in proportion to the kernel (for use with `Lime`)."""
        d, device = kwargs["num_interp_features"], as_tuple(original_inp)[0].device
        yield torch.ones(1, d, dtype=torch.long, device=device)
        yield torch.zeros(1, d, dtype=torch.long, device=device)
        while d > 1:
            yield _draw(d, torch.default_generator).long().to(device)

    @batches_of_any_length
    @args_from(Lime.attribute)
    def attribute(  # type: ignore[override]
        self,
        inputs: InputsT,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int = AUTOMATIC,
        return_input_shape: bool = True,
        show_progress: bool = False,
        *,
        paired: bool = False,
        stratified: bool = False,
        tol: float | None = None,
        max_samples: int = 10_000,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT | Tensor:
        """Shapley values, summing to F(x) - F(baseline).

        Args:
            target: see `core.target.as_target`. Without one, each output value per example gets its own map.
            n_samples: coalitions per sample, the empty and the whole one among them. From 2^d on, all coalitions are
                taken once. With fewer than features, the values of smallest norm. Features that are as their baseline
                have no value, and coalitions that differ in them alone are evaluated once.
            perturbations_per_eval: coalitions per forward pass; left out: as many as fit.
            return_input_shape: maps of the inputs' shapes; False: the values (N, features).
            paired: draw each coalition together with its complement: less variance at the same cost, and from three
                pairs per feature on a cubic control variate, which reduces it further (module).
            stratified: paired, and the sizes of the coalitions in the proportions of the kernel; the smallest and
                largest coalitions are all taken, not drawn, where their share of n_samples pays for it, and none is
                drawn twice.
            tol: go on, n_samples coalitions at a time, until each sample's map has, with 90 % confidence, a relative L2
                error below this (`attr/shared/average.py`); needs more coalitions than features. What was reached is
                reported (`core.report`: n_draws, map_error, standard_error), without a tolerance as well.
            max_samples: at most so many coalitions; a warning says when tol was not reached.
            seed: seed of the draws. None: decided by `torch.manual_seed`; the global state is left as it was.
            batch_size: rows (coalitions x samples) per forward pass; overrides perturbations_per_eval.

        Returns:
            Maps of the inputs' shapes; (N, K, ...) for K outputs per example, (1, ...) for a model that returns one
            value for the whole batch.
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
            game.shape = outputs_shape(game.clean.reshape(game.shape), game.merged)
            warn_of_many(game.d, self.get_name())
            regression = _Regression(game, errors=error_asked(tol))
            draws = _Stratified(game.d, rng) if stratified else _Independent(game.d, paired, rng)
            every = 2**game.d
            planned = n_samples if tol is None else max_samples
            with game.progress(min(planned, every), self.get_name(), True if show_progress else progress):
                for due, active in rounds(regression.map_error, game.samples, tol, n_samples, max_samples):
                    used = int(regression.count.max())
                    if used + due >= every:  # then all of them, which is exact
                        regression.clear()
                        regression.add(_every(game.d), active)
                    else:
                        regression.add(draws.draw(due - (0 if used else _ENDS)), active)
            if error_asked(tol):
                error = like(inputs, game.maps(regression.standard_error))
                report_reached(regression.count, regression.map_error(), error, tol, "coalitions")
            if not return_input_shape:
                return regression.values.to(game.dtype).reshape(*game.shape, game.d)
            return like(inputs, game.maps(regression.values))


@dataclass
class _Draws:
    """Coalitions (m, d), each standing for itself or, paired, for itself and its complement.

    Weights are those of the regression; what was drawn shares its weight among all that was drawn, and has a sampling
    error.
    """

    coalitions: Tensor
    weights: Tensor
    drawn: Tensor
    paired: Tensor

    @classmethod
    def of(cls, coalitions: Tensor, weight: float | Tensor, drawn: bool, paired: bool) -> _Draws:
        """Coalitions that are all of one kind."""
        each = torch.ones(len(coalitions), dtype=torch.float64)
        return cls(coalitions, each * weight, each.bool() & drawn, each.bool() & paired)

    def __add__(self, other: _Draws) -> _Draws:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Draws(*(torch.cat(pair) for pair in pairs))

    @property
    def rows(self) -> int:
        """How many coalitions the model has to evaluate, complements included."""
        return len(self.coalitions) + int(self.paired.sum())


class _Regression:
    """The constrained least squares, growing round by round; samples that have settled take no part any more.

    Args:
        game: the scores.
        errors: whether standard errors are asked for.
    """

    def __init__(self, game: Game, errors: bool):
        self.game, self.errors = game, errors
        self.players = game.differing.to(game.wide)  # (samples, d); the others have no value
        several = (self.players.sum(1) > 1)[:, None, None] & game.differing[:, None]
        self.standard_error = game.clean.new_zeros((*game.clean.shape, game.d), dtype=game.wide)
        self.standard_error.masked_fill_(several, math.inf)
        self.count = torch.zeros(game.samples, dtype=torch.long)
        self._degrees = torch.zeros(game.samples, dtype=torch.long)
        self.clear()

    @functools.cached_property
    def change(self) -> Tensor:
        """Of the score from the empty coalition, (samples, K); asked for behind the first coalitions, it is known."""
        return self.game.clean.to(self.game.wide) - self.game.empty

    @functools.cached_property
    def each(self) -> Tensor:
        """An equal share of it, (samples, K)."""
        return self.change / self.players.sum(1, keepdim=True).clamp_min(1)

    @functools.cached_property
    def values(self) -> Tensor:
        """The values (samples, K, d); equal ones before there are coalitions."""
        return self.each[..., None] * self.players[:, None]

    def clear(self) -> None:
        """Forget the coalitions so far."""
        self._draws = _Draws.of(torch.zeros(0, self.game.d, dtype=torch.bool), 1.0, False, False)
        self._rest = torch.zeros(0, *self.game.clean.shape, dtype=self.game.wide)

    def add(self, draws: _Draws, samples: Tensor) -> None:
        """Score more coalitions for some samples, and find their values and errors from all so far."""
        game, at = self.game, samples.to(self.game.device)
        rest = torch.full((len(draws.coalitions), *game.clean.shape), math.nan, dtype=game.wide)
        if len(rest):
            rest[:, samples] = self._unexplained(draws, at).cpu()
        self._draws, self._rest = self._draws + draws, torch.cat([self._rest, rest])
        self.count[samples] = _ENDS + self._draws.rows
        z, drawn, weights = self._draws.coalitions.to(game.wide), self._draws.drawn, self._draws.weights
        if not len(z):
            return
        root = torch.where(drawn, weights / drawn.sum().clamp_min(1), weights).to(game.wide).sqrt()[:, None]
        for mine in self._alike(at):  # samples with the same players
            players = game.differing[mine[0]]
            some = z[:, players.cpu()]
            fit, found, error = self._fitted(some, root, self._rest[:, mine.cpu()].flatten(1))
            shape = (len(mine), self.change.shape[1], some.shape[1])
            where = mine[:, None, None], torch.arange(shape[1], device=mine.device)[:, None], players.nonzero()[:, 0]
            self.values[where] = self.each[mine][..., None] + found.t().reshape(shape).to(game.device)
            if error is not None:
                self.standard_error[where] = error.t().reshape(shape).to(game.device)
            self._degrees[mine.cpu()] = len(z) - fit.rank

    def _fitted(self, z: Tensor, root: Tensor, rest: Tensor) -> tuple[LeastSquares, Tensor, Tensor | None]:
        """The regression on coalitions of players (m, p), values (p, k) that sum to zero, their error if it is needed.

        Where there are enough pairs, with a cubic as control variate for those games whose error it makes smaller.
        """
        drawn, m, p = self._draws.drawn, *z.shape
        rows = z - z.mean(1, keepdim=True)  # values that sum to zero
        fit = LeastSquares(root * rows, root * rest)
        enough = LEAST * p <= m <= MOST and bool(drawn.any()) and bool(self._draws.paired.all())
        error = fit.standard_error(drawn) if self.errors or enough else None
        if error is None or not enough or z.dtype != torch.float64:
            return fit, fit.solution, error
        values, left = cubic_fit(z > 0, rest, drawn)
        more = values.sum(0)  # than the change there is
        other = LeastSquares(root * rows, root * (left + (z.mean(1, keepdim=True) - 0.5) * more))
        its_error = other.standard_error(drawn)
        better = its_error.norm(dim=0) < error.norm(dim=0)
        found = torch.where(better, values - more / p + other.solution, fit.solution)
        return fit, found, torch.where(better, its_error, error)

    def _alike(self, samples: Tensor) -> list[Tensor]:
        """Samples in groups that have the same players, of which there are any."""
        differing = self.game.differing[samples]
        if bool((differing == differing[:1]).all()):
            return [samples] if bool(differing[0].any()) else []
        kinds, which = differing.unique(dim=0, return_inverse=True)
        return [samples[which == k] for k in range(len(kinds)) if bool(kinds[k].any())]

    def _unexplained(self, draws: _Draws, samples: Tensor) -> Tensor:
        """What is left of the scores (m, samples, K) when all get an equal share, which fulfils the constraint."""
        z = draws.coalitions
        scores = self.game.scores_cached(torch.cat([z, ~z[draws.paired]]), samples) - self.game.empty[samples]
        present = z.to(self.game.device, self.game.wide) @ self.players[samples].t()  # players in it, (m, samples)
        equal = present[..., None] * self.each[samples]
        rest = scores[: len(z)] - equal
        if bool(draws.paired.any()):  # half the difference: the complement's row is the opposite
            pairs = slice(None) if bool(draws.paired.all()) else draws.paired.to(self.game.device)
            rest[pairs] = (rest[pairs] - scores[len(z) :] + self.change[samples] - equal[pairs]) / 2
        return rest

    def map_error(self) -> Tensor:
        """Per sample: the bound on the relative L2 error (`attr/shared/average.py`)."""
        return relative_error(self._degrees, [self.standard_error], [self.values], self.game.rounding)


class _Independent:
    """Coalitions drawn in proportion to the kernel, alone or in pairs."""

    def __init__(self, d: int, paired: bool, generator: torch.Generator):
        self.d, self.paired, self.generator = d, paired, generator

    def draw(self, count: int) -> _Draws:
        """So many coalitions; an odd one stays alone."""
        size = 2 if self.paired else 1
        z = _draw(self.d, self.generator, math.ceil(max(0, count) / size))
        whole = max(0, count) // size
        return _Draws.of(z[:whole], size, True, self.paired) + _Draws.of(z[whole:], 1, True, False)


class _Stratified:
    """Pairs of complements: small sizes all taken where that costs no more than drawing them, the rest in proportion.

    What is drawn at a time is drawn without replacement. A pair of size s has a coalition of s and one of d - s
    features. The kernel's mass of all pairs of size s is proportional to 1 / (s (d - s)), half of it where both are of
    one size.
    """

    def __init__(self, d: int, generator: torch.Generator):
        self.d, self.generator = d, generator
        self.sizes = list(range(1, d // 2 + 1))
        self.mass = {s: (1.0 if 2 * s < d else 0.5) / (s * (d - s)) for s in self.sizes}
        self._begun = False

    def draw(self, count: int) -> _Draws:
        """Draw about so many coalitions."""
        pairs = math.ceil(max(0, count) / 2)
        whole = _Draws.of(torch.zeros(0, self.d, dtype=torch.bool), 1.0, False, True)
        if not self._begun:
            self._begun, whole = True, self._take(pairs)
        left = pairs - len(whole.coalitions)
        if left <= 0 or not self.sizes:
            return whole
        mass = np.array([self.mass[s] for s in self.sizes])
        rng: dict[str, Any] = {"generator": self.generator, "device": self.generator.device}
        quantiles = (np.arange(left) + float(torch.rand((), **rng))) / left
        which = np.searchsorted(mass.cumsum() / mass.sum(), quantiles).clip(max=len(mass) - 1)
        z = torch.from_numpy(self._different(np.array(self.sizes)[which], rng))
        return whole + _Draws.of(z, float(mass.sum()), True, True)

    def _different(self, sizes: np.ndarray, rng: dict[str, Any]) -> np.ndarray:
        """A coalition of each size (m,), no two of them equal or complements where there are enough: (m, d)."""
        z = np.zeros((len(sizes), self.d), dtype=bool)
        again = np.arange(len(sizes))
        for s, drawn in zip(*(a.tolist() for a in np.unique(sizes, return_counts=True)), strict=True):
            # 2^s are fewer than there are of size s
            if s < drawn.bit_length() + 2 and 2 * drawn > self._number(s):  # most of them: all are mixed
                mixed = [torch.randperm(self._number(s), **rng).cpu() for _ in range(-(-drawn // self._number(s)))]
                z[sizes == s] = self._members(s)[torch.cat(mixed)[:drawn]].numpy()
                again = again[sizes[again] != s]
        seen: set[bytes] = set()
        while len(again):  # others are drawn once more where they came before
            place = torch.rand(len(again), self.d, **rng).cpu().numpy().argsort(1)  # of a feature in a random order
            z[again] = place < sizes[again, None]
            other = (2 * sizes[again] == self.d) & ~z[again, 0]  # of a pair of one size, the one without feature 0
            keys = list(map(bytes, np.packbits(z[again] ^ other[:, None], axis=1)))
            first = {key: k for k, key in reversed(list(enumerate(keys))) if key not in seen}
            again = np.delete(again, list(first.values()))
            seen.update(first)
        return z

    def _take(self, pairs: int) -> _Draws:
        """All pairs of the smallest sizes, as long as drawing would take as many."""
        taken = []
        for s in tuple(self.sizes):
            number = self._number(s)
            if number * sum(self.mass[t] for t in self.sizes) > pairs * self.mass[s]:
                break
            taken.append(_Draws.of(self._members(s), self.mass[s] / number, False, True))
            self.sizes.remove(s)
            pairs -= number
        return sum(taken, _Draws.of(torch.zeros(0, self.d, dtype=torch.bool), 1.0, False, True))

    def _number(self, s: int) -> int:
        """How many pairs of size s there are."""
        return math.comb(self.d, s) // (2 if 2 * s == self.d else 1)

    def _members(self, s: int) -> Tensor:
        """One coalition of each of these pairs, (number, d)."""
        number = self._number(s)
        members = torch.tensor(list(itertools.islice(itertools.combinations(range(self.d), s), number)))
        return torch.zeros(number, self.d, dtype=torch.bool).scatter(1, members, True)


def _draw(d: int, generator: torch.Generator, count: int = 1) -> Tensor:
    """Coalitions (count, d), each of a size in proportion to 1 / (k (d - k)), all of one size alike."""
    sizes = torch.arange(1, d, dtype=torch.get_default_dtype(), device=generator.device)
    weights = torch.cat([sizes.new_zeros(1), 1 / (sizes * (d - sizes))])[None]
    keys, drawn = torch.empty(count, d, device=generator.device), []
    for row in keys:  # Captum's stream of numbers: a size, then a key for each feature
        drawn.append(torch.multinomial(weights, 1, True, generator=generator))
        torch.randn(1, d, generator=generator, out=row[None])
    place = keys.argsort(1, descending=True).argsort(1)  # of a feature, by its key
    return (place < torch.cat(drawn)).cpu() if count else torch.zeros(0, d, dtype=torch.bool)


def _every(d: int) -> _Draws:
    """All coalitions but the empty and the whole, with their kernel weights."""
    z, size = coalition_sizes(torch.arange(1, 2**d - 1), d)
    kernel = [0.0] + [(d - 1) / (math.comb(d, s) * s * (d - s)) for s in range(1, d)]
    return _Draws.of(z, torch.tensor(kernel, dtype=torch.float64)[size], False, False)
