"""Kernel SHAP: Shapley values by one weighted regression on random coalitions (Lundberg, Lee 2017, arXiv:1705.07874).

    minimise  sum over S of k(S) (v(S) - v(0) - sum of phi_i in S)^2   with  sum of all phi_i = v(all) - v(0)

    k(S) = (d - 1) / (C(d, |S|) |S| (d - |S|))

Coalitions are drawn in proportion to k, so that all count alike, or all of them are taken where n_samples allows; then
the values are exact. The constraint holds exactly: it is solved for, not weighted. Drawing each coalition together with
its complement reduces the variance (Covert, Lee 2021, arXiv:2012.01536). The coalitions are shared by the samples of
the batch, so one regression serves them all. Cost: n_samples rows per sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..core.random import make_generator
from ..core.registry import register
from ..core.tensors import as_tuple, like
from .average import Average, check_tolerance, report_error
from .base import prepared
from .cells import cells
from .coalitions import Game
from .lime import Lime, outputs_shape, warn_of_many
from .shapley import coalition_sizes
from .surrogate import SkLearnLinearRegression, least_squares

_ENDS = 2  # the empty and the whole coalition are among the n_samples


@register(
    "kernel_shap",
    aliases=("kernelshap",),
    needs="perturbation",
    title="Kernel SHAP",
    reference="Lundberg and Lee 2017, arXiv:1705.07874",
    defaults=lambda inputs, spec: {"n_samples": 500, **cells(inputs, spec)},
)
class KernelShap(Lime):
    """Shapley values by weighted least squares.

    Args:
        forward_func: model or callable.
    """

    def __init__(self, forward_func: Callable[..., Any]):
        super().__init__(
            forward_func,
            SkLearnLinearRegression(),
            self.kernel_shap_similarity_kernel,
            self.kernel_shap_perturb_generator,
        )
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
            yield _draw(d, torch.default_generator).long()[None].to(device)

    def attribute(  # type: ignore[override]
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int = 1,
        return_input_shape: bool = True,
        show_progress: bool = False,
        *,
        paired: bool = False,
        tol: float | None = None,
        max_samples: int = 10_000,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Shapley values, summing to F(x) - F(baseline).

        Args:
            inputs: tensor or tuple of tensors, batch first.
            baselines: what stands in for a missing feature: None (zeros), number, name, tensor, tuple or function.
            target: see `core.target.as_target`. Without one, each output value per example gets its own map.
            additional_forward_args: further positional arguments of the model.
            feature_mask: integers, broadcastable to the input (tuple for several inputs); elements with the same
                number, also across inputs, are one feature. None: every element is one.
            n_samples: coalitions per sample, the empty and the whole one among them. From 2^d on, all coalitions are
                taken once. With fewer than features, the values of smallest norm.
            perturbations_per_eval: coalitions per forward pass; 1 leaves the size to the engine.
            return_input_shape: maps of the inputs' shapes; False: the values (N, features).
            show_progress: always show a progress bar.
            paired: draw each coalition together with its complement: less variance at the same cost.
            tol: go on, n_samples coalitions at a time, until the estimated relative L2 error of every sample's map is
                below this. The estimate compares the rounds' own regressions, so give each round several times as many
                coalitions as features.
            max_samples: at most so many coalitions; a warning says when tol was not reached.
            seed: seed of the draws. None: decided by `torch.manual_seed`; the global state is left as it was.
            generator: draw from this generator instead (it is advanced).
            batch_size: rows (coalitions x samples) per forward pass; overrides perturbations_per_eval.
            progress: None = a bar for long work, True, False.

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
            regression = _Regression(game)
            planned = n_samples if tol is None else max_samples
            with game.progress(planned, self.get_name(), True if show_progress else progress):
                if game.d == 1 or 2**game.d <= n_samples:
                    regression.add(*_every(game.d))
                    values = regression.solve()
                else:
                    values = _sampled(regression, n_samples, tol, planned, paired, rng, inputs)
            if not return_input_shape:
                return values.to(game.dtype).reshape(*game.shape, game.d)
            return like(inputs, game.maps(values))


class _Regression:
    """The constrained least squares, growing round by round."""

    def __init__(self, game: Game):
        self.game = game
        self.start = game.empty
        self.change = game.clean.to(game.wide) - self.start  # (samples, K)
        self.rows: list[Tensor] = []
        self.values: list[Tensor] = []

    def add(self, coalitions: Tensor, weights: Tensor | None = None) -> Tensor:
        """Score coalitions (C, d), weigh them, and return the solution of these alone."""
        game = self.game
        if not len(coalitions):
            return self.solve()
        parts = coalitions.split(max(1, game.group))
        scores = torch.cat([game.of(part) for part in parts]) - self.start
        z = coalitions.to("cpu", game.wide)
        # An equal share for everyone fulfils the constraint; what is left is found among values that sum to zero.
        share = z.mean(1)
        rest = scores.cpu().flatten(1) - share[:, None] * self.change.cpu().flatten()
        root = torch.ones(len(z), 1, dtype=game.wide) if weights is None else weights.to(game.wide).sqrt()[:, None]
        self.rows.append(root * (z - share[:, None]))
        self.values.append(root * rest)
        return self.solve(-1)

    def solve(self, first: int = 0) -> Tensor:
        """The values (samples, K, d) from the coalitions added (or only from the last ones)."""
        game, d = self.game, self.game.d
        equal = (self.change / d)[..., None].expand(*self.change.shape, d)
        if not self.rows:
            return equal
        found = least_squares(torch.cat(self.rows[first:]), torch.cat(self.values[first:]))
        return equal + found.t().reshape(equal.shape).to(game.device)


def _sampled(
    regression: _Regression,
    n_samples: int,
    tol: float | None,
    planned: int,
    paired: bool,
    rng: torch.Generator,
    template: Any,
) -> Tensor:
    game, used, average = regression.game, 0, Average()
    while used < planned:
        count = max(0, min(n_samples, planned - used) - (_ENDS if used == 0 else 0))
        drawn = [_draw(game.d, rng) for _ in range(math.ceil(count / 2) if paired else count)]
        z = torch.stack(drawn) if drawn else torch.zeros(0, game.d, dtype=torch.bool)
        if paired:
            z = torch.stack([z, ~z], 1).flatten(0, 1)[:count]
        average.add(regression.add(z))
        used += count + (_ENDS if used == 0 else 0)
        if tol is None or (average.count > 2 and max(average.map_error()) <= tol):
            break
    if tol is not None:
        report_error(average, game, template, tol, f"rounds of {n_samples} coalitions")
    return regression.solve()


def _draw(d: int, generator: torch.Generator) -> Tensor:
    """A coalition (d,), its size in proportion to 1 / (k (d - k)), all of one size alike."""
    sizes = torch.arange(1, d, dtype=torch.get_default_dtype(), device=generator.device)
    weights = torch.cat([sizes.new_zeros(1), 1 / (sizes * (d - sizes))])
    size = int(torch.multinomial(weights[None], 1, True, generator=generator))
    order = torch.randn(1, d, generator=generator, device=generator.device)[0].argsort(descending=True)
    chosen = torch.zeros(d, dtype=torch.bool)
    chosen[order[:size].cpu()] = True
    return chosen


def _every(d: int) -> tuple[Tensor, Tensor]:
    """All coalitions but the empty and the whole, with their kernel weights."""
    z, size = coalition_sizes(torch.arange(1, 2**d - 1), d)
    kernel = [0.0] + [(d - 1) / (math.comb(d, s) * s * (d - s)) for s in range(1, d)]
    return z, torch.tensor(kernel, dtype=torch.float64)[size]
