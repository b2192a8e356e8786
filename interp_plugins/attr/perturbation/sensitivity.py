"""Global sensitivity of the score to cells of the input: total Sobol indices and HSIC.

Sobol (Fel et al., NeurIPS 2021, arXiv:2111.04138): cells are shown with strengths in [0, 1] from a quasi-random design;
a cell's total index is the share of the score's variance that it takes part in, alone or with others. With designs A, B
and C_i = A with column i from B (Jansen 1999):

    T_i = mean (F(A) - F(C_i))^2 / (2 Var F(A))                        n (d + 1) rows per sample

HSIC (Novello, Fel, Vigouroux, NeurIPS 2022, arXiv:2206.06219): cells are on or off at random; a cell's index is the
Hilbert-Schmidt dependence of the score on its switch, with a Gaussian kernel on scores (its width is their median
distance) and the equality kernel on switches. With c the centred switches of a cell and L the kernel matrix:

    H_i = 2 c' L c / (n - 1)^2                                         n rows per sample

Both say how much, not in which direction: maps are not negative. Designs are shared by the samples of the batch.

Standard errors: of Sobol's ratio by linearisation over the rows of the design, as if they were independent (a scrambled
design is no worse); of HSIC by the jackknife, all n leave-one-out values at once, with the kernel's width as it is.
HSIC's estimate is too large by about 1 / n of a kernel's spread; the jackknife's bias counts in its map_error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from interp_plugins.attr.perturbation.coalitions import Game
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.average import check_tolerance, relative_error, report_reached, rounds
from interp_plugins.attr.shared.base import PerturbationAttribution, prepared
from interp_plugins.attr.shared.grid_features import grid_mask, spatial_axes
from interp_plugins.core.batching import AUTOMATIC, check_chunk
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.random import make_generator
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT, is_float, like


def _cells(xs: tuple[Tensor, ...], feature_mask: Any, grid_size: int) -> Any:
    """The user's mask, or a grid on whatever has more than rows."""
    check_chunk("grid_size", grid_size)
    if feature_mask is not None or all(x.ndim < 3 for x in xs):
        return feature_mask
    masks, start = [], 0
    for x in xs:
        axes = spatial_axes(x)
        mask = grid_mask(x, [grid_size if x.ndim > 2 else x.shape[a] for a in axes]) + start
        start = int(mask.max()) + 1
        masks.append(mask)
    return tuple(masks)


_SWITCHES = 2**22  # of rows asked for at a time


class _Sensitivity(PerturbationAttribution):
    """What Sobol and HSIC share: both share out a variance."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: shares of a variance, not changes of a score."""
        return False


@register(
    "sobol",
    unsigned=True,
    needs="perturbation",
    title="Sobol",
    reference="Fel et al. 2021, arXiv:2111.04138",
    cost="n (d + 2) forward",
    axioms=("dummy", "implementation invariance"),
    assumes="features that can be removed one by one",
)
class Sobol(_Sensitivity):
    """Total Sobol indices of cells."""

    @args_from()
    def attribute(
        self,
        inputs: InputsT,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 32,
        perturbations_per_eval: int = AUTOMATIC,
        *,
        grid_size: int = 8,
        tol: float | None = None,
        max_samples: int = 1024,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT:
        """Total indices in [0, about 1], of the inputs' shapes.

        Args:
            inputs: tensor or tuple of tensors, batch first, floating point.
            baselines: what a hidden cell fades to: None (zeros), number, name, tensor, tuple or function.
            feature_mask: the cells, as in `FeatureAblation`; None: a grid on pictures, volumes and sequences, each
                element of rows.
            n_samples: rows of the design, 32 in the paper; powers of two keep it balanced.
            perturbations_per_eval: masks per forward pass; left out: as many as fit.
            grid_size: cells per axis where there is no feature_mask.
            tol: go on, with further designs of n_samples rows, each scrambled anew, until each sample's map has, with
                90 % confidence, a relative L2 error below this (`attr/shared/average.py`); what was reached is reported
                (`core.report`: n_draws, map_error, standard_error).
            max_samples: at most so many rows; a warning says when tol was not reached.
            seed: seed of the design's scrambling. None: decided by `torch.manual_seed`.
            batch_size: rows per forward pass; overrides perturbations_per_eval.

        Raises:
            InputError: fewer than two samples, or too many cells for a quasi-random design.
        """
        _check_design(n_samples)
        check_tolerance(tol, n_samples, max_samples)
        rng = make_generator(seed, generator)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_blendable(xs)
            game = Game(
                forward,
                xs,
                baselines,
                _cells(xs, feature_mask, grid_size),
                template=inputs,
                perturbations_per_eval=perturbations_per_eval,
                chunk=batch_size,
            )
            designs, most = (1, 1) if tol is None else (1, max(1, max_samples // n_samples))
            ratio = _Ratio(game)
            with game.progress(n_samples * most * (game.d + 1), self.get_name(), progress):
                for due, active in rounds(ratio.map_error, game.samples, tol, designs, most):
                    for _ in range(due):
                        a, b = _designs(n_samples, game.d, rng)
                        ratio.add(a.to(game.device, game.wide), b.to(game.device, game.wide), active)
            error = like(inputs, game.maps(ratio.standard_error()))
            report_reached(ratio.count, ratio.map_error(), error, tol, "rows")
            return like(inputs, game.maps(ratio.values()))


class _Ratio:
    """D / V over all rows so far: D the mean of (F(A) - F(C_i))^2 / 2, V the variance of F(A).

    To first order a row adds (d - T u^2) / V to T = D / V, with u its score less the mean: the sums of its square need
    no rows to be kept.
    """

    def __init__(self, game: Game):
        self.game = game
        self.count = torch.zeros(game.samples, dtype=torch.long)
        # Sums of u, u^2, u^3, u^4 (here u is the score less F(x)), and of d, d u, d u^2, d^2.
        self._scores = torch.zeros(4, *game.clean.shape, dtype=game.wide, device=game.device)
        self._changes = torch.zeros(
            4, *game.clean.shape, game.d, dtype=game.wide, device=game.device
        )  # d, du, du^2, dd

    def add(self, a: Tensor, b: Tensor, samples: Tensor) -> None:
        """The rows of a pair of designs (n, d), for some samples."""
        game, at = self.game, samples.to(self.game.device)
        plain = game.scores(a, samples)  # (n, samples, K)
        u = plain - game.clean[at].to(game.wide)
        self.count[samples] += len(a)
        self._scores[:, at] += torch.stack([u.pow(k).sum(0) for k in (1, 2, 3, 4)])
        players = game.differing.any(0).nonzero()[:, 0]  # a cell that is its baseline changes nothing
        for some in players.split(max(1, _SWITCHES // a.numel())):
            c = a.repeat(len(some), 1, 1)  # (cells, n, d): each with one column of b
            c[torch.arange(len(some)), :, some] = b[:, some].t()
            scores = game.scores(c.flatten(0, 1), samples).unflatten(0, (len(some), len(a)))
            d = (plain - scores).square() / 2  # (cells, n, samples, K)
            sums = torch.stack([d, d * u, d * u * u, d * d]).sum(2).permute(0, 2, 3, 1)
            self._changes[:, at[:, None, None], torch.arange(sums.shape[2])[:, None], some] += sums

    def _moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows, and means over them: of u and its powers, of the changes and their products with u; the variance."""
        n = self.count.to(self._scores)[:, None]
        scores, changes = self._scores / n, self._changes / n[..., None]
        variance = ((scores[1] - scores[0].square()) * n / (n - 1)).clamp_min(0)
        return n, scores, changes, variance

    def values(self) -> Tensor:
        """Total indices (samples, K, d)."""
        _, _, changes, variance = self._moments()
        return _over(changes[0], variance[..., None])

    def standard_error(self) -> Tensor:
        """Standard errors of the indices, from the moments of both parts of the ratio."""
        n, u, d, variance = self._moments()
        index, mean = _over(d[0], variance[..., None]), u[0]
        second = u[1] - mean**2  # of u less its mean, and so on
        fourth = u[3] - 4 * mean * u[2] + 6 * mean**2 * u[1] - 3 * mean**4
        with_second = d[2] - 2 * mean[..., None] * d[1] + mean[..., None] ** 2 * d[0]
        off = d[0] - index * second[..., None]
        squares = d[3] - 2 * index * with_second + index**2 * fourth[..., None] - off**2
        return _over((squares.clamp_min(0) / (n[..., None] - 1)).sqrt(), variance[..., None])

    def map_error(self) -> Tensor:
        """Per sample: the bound on the relative L2 error (`attr/shared/average.py`)."""
        return relative_error(self.count - 1, [self.standard_error()], [self.values()])


def _over(part: Tensor, whole: Tensor) -> Tensor:
    """Part / whole, zero where there is nothing."""
    return torch.where(whole > 0, part / whole.clamp_min(torch.finfo(whole.dtype).tiny), torch.zeros_like(part))


def check_blendable(xs: tuple[Tensor, ...]) -> None:
    """Refuse ids, which cannot be half there."""
    for i, x in enumerate(xs):
        if not is_float(x):
            raise InputTypeError(
                f"inputs[{i}] is {str(x.dtype).removeprefix('torch.')}, and Sobol shows cells with strengths between 0 "
                "and 1. Use HSIC or ShapleyValueSampling for ids; convert pictures with x.float()."
            )


def _check_design(n_samples: int) -> None:
    check_chunk("n_samples", n_samples)
    if n_samples < 2:
        raise InputError(
            f"A variance needs at least two samples; got n_samples={n_samples}. The default is a good start."
        )


def _designs(n: int, d: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two independent designs (n, d) in [0, 1], halves of one scrambled Sobol sequence."""
    if 2 * d > SobolEngine.MAXDIM:
        raise InputError(
            f"Sobol indices of {d} cells need a design of {2 * d} dimensions; at most {SobolEngine.MAXDIM} are known. "
            "Group elements with feature_mask or a smaller grid_size."
        )
    scramble = int(torch.randint(2**31, (1,), generator=rng, device=rng.device))
    points = SobolEngine(2 * d, scramble=True, seed=scramble).draw(n, dtype=torch.float64)
    return points[:, :d], points[:, d:]


@register(
    "hsic",
    unsigned=True,
    needs="perturbation",
    title="HSIC",
    reference="Novello et al. 2022, arXiv:2206.06219",
    cost="n forward",
    assumes="features that can be removed one by one; an estimate, no exact zero",
)
class HSIC(_Sensitivity):
    """Dependence of the score on cells being there."""

    @classmethod
    def get_name(cls) -> str:
        """The name as papers write it, in capitals: HSIC."""
        return "HSIC"

    @args_from(Sobol.attribute)
    def attribute(
        self,
        inputs: InputsT,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 500,
        perturbations_per_eval: int = AUTOMATIC,
        *,
        grid_size: int = 7,
        tol: float | None = None,
        max_samples: int = 4000,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT:
        """HSIC per cell, of the inputs' shapes; not negative.

        Args:
            inputs: tensor or tuple of tensors, batch first.
            baselines: what stands in for a hidden cell: None (zeros), number, name, tensor, tuple or function.
            n_samples: random masks.
            tol: go on, n_samples masks at a time, until each sample's map has, with 90 % confidence, a relative L2
                error below this (`attr/shared/average.py`); what was reached is reported (`core.report`: n_draws,
                map_error, standard_error). Kernels take the square of the number of masks.
            max_samples: at most so many masks; a warning says when tol was not reached.
            seed: seed of the masks. None: decided by `torch.manual_seed`.

        Raises:
            InputError: fewer than two samples.
        """
        _check_design(n_samples)
        check_tolerance(tol, n_samples, max_samples)
        rng = make_generator(seed, generator)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            game = Game(
                forward,
                xs,
                baselines,
                _cells(xs, feature_mask, grid_size),
                template=inputs,
                perturbations_per_eval=perturbations_per_eval,
                chunk=batch_size,
            )
            planned = n_samples if tol is None else max_samples
            found = _Dependence(game)
            with game.progress(planned, self.get_name(), progress):
                for due, active in rounds(found.map_error, game.samples, tol, n_samples, max_samples):
                    draws = [torch.rand(game.d, generator=rng, device=rng.device) < 0.5 for _ in range(due)]
                    found.add(torch.stack(draws), active)
            report_reached(found.count, found.map_error(), like(inputs, game.maps(found.error)), tol, "masks")
            return like(inputs, game.maps(found.values))


class _Dependence:
    """HSIC from all masks so far.

    Attributes:
        count: masks per sample.
        values, error, bias: HSIC, its standard error and its bias, (samples, K, d).
    """

    def __init__(self, game: Game):
        self.game = game
        self.count = torch.zeros(game.samples, dtype=torch.long)
        self.values = torch.zeros(*game.clean.shape, game.d, dtype=game.wide, device=game.device)
        self.error, self.bias = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self._switches: list[Tensor] = []
        self._scores: list[list[Tensor]] = [[] for _ in range(game.samples)]

    def add(self, z: Tensor, samples: Tensor) -> None:
        """More masks (C, d) for some samples."""
        scores = self.game.scores(z, samples)
        self._switches.append(z.to(self.game.device, self.game.wide))
        switches = torch.cat(self._switches)
        self.count[samples] += len(z)
        for i, sample in enumerate(samples.tolist()):
            self._scores[sample].append(scores[:, i])
            for k, column in enumerate(torch.cat(self._scores[sample]).unbind(1)):
                found = _dependence(switches, column)
                self.values[sample, k], self.error[sample, k], self.bias[sample, k] = found

    def map_error(self) -> Tensor:
        """Per sample: the bound on the relative L2 error (`attr/shared/average.py`), with the bias of the map."""
        sampling = relative_error(self.count - 1, [self.error], [self.values])
        bias, norm = (v.flatten(1).norm(dim=1).cpu() for v in (self.bias, self.values))
        return (sampling.square() + _over(bias, norm).square()).sqrt()


def _dependence(switches: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """HSIC of each switch (n, d) with scores (n,), its standard error and its bias: (d,) each."""
    n = len(scores)
    distance = (scores[:, None] - scores[None]).abs()
    width = distance[~torch.eye(n, dtype=torch.bool, device=scores.device)].median()
    if not width > 0:  # more than half of the pairs are alike: their spread instead
        width = scores.std()
    if not width > 0:
        nothing = torch.zeros(switches.shape[1], dtype=switches.dtype, device=switches.device)
        return nothing, nothing, nothing
    kernel = torch.exp(-0.5 * (distance / width) ** 2)
    centred = switches - switches.mean(0)

    def index(total: Tensor, cross: Tensor, product: Tensor, mean: Tensor, count: int) -> Tensor:
        """2 c' L c / (n - 1)^2 for c = z - mean, from 1' L 1, 1' L z and z' L z."""
        return 2 * (product - 2 * mean * cross + mean**2 * total) / max(1, count - 1) ** 2

    # Sums without each mask in turn, (n, d), from those with all; centring before only helps rounding.
    by_mask, sums = kernel @ centred, kernel.sum(1)[:, None]
    total, cross, product = sums.sum(), by_mask.sum(0), (centred * by_mask).sum(0)
    without = index(
        total - 2 * sums + 1,
        cross - by_mask - centred * sums + centred,
        product - 2 * centred * by_mask + centred.square(),
        -centred / (n - 1),
        n - 1,
    )
    value = index(total, cross, product, torch.zeros_like(cross), n).clamp_min(0)
    error = ((without - without.mean(0)).square().sum(0) * (n - 1) / n).sqrt()
    return value, error, (n - 1) * (without.mean(0) - value)
