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
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from ..core.batching import check_chunk
from ..core.errors import InputError, InputTypeError
from ..core.random import make_generator
from ..core.registry import register
from ..core.tensors import is_float, like
from .base import PerturbationAttribution, prepared
from .cells import grid_mask, spatial_axes
from .coalitions import Game


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


class _Sensitivity(PerturbationAttribution):
    """What both share."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: shares of a variance, not changes of a score."""
        return False


@register("sobol", needs="perturbation", title="Sobol", reference="Fel et al. 2021, arXiv:2111.04138")
class Sobol(_Sensitivity):
    """Total Sobol indices of cells."""

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 32,
        perturbations_per_eval: int = 1,
        *,
        grid_size: int = 8,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Total indices in [0, about 1], of the inputs' shapes.

        Args:
            inputs: tensor or tuple of tensors, batch first, floating point.
            baselines: what a hidden cell fades to: None (zeros), number, name, tensor, tuple or function.
            target: see `core.target.as_target`.
            additional_forward_args: further positional arguments of the model.
            feature_mask: the cells, as in `FeatureAblation`; None: a grid on pictures, volumes and sequences, each
                element of rows.
            n_samples: rows of the design, 32 in the paper; powers of two keep it balanced.
            perturbations_per_eval: masks per forward pass; 1 leaves the size to the engine.
            grid_size: cells per axis where there is no feature_mask.
            seed: seed of the design's scrambling. None: decided by `torch.manual_seed`.
            generator: draw from this generator instead (it is advanced).
            batch_size: rows per forward pass; overrides perturbations_per_eval.
            progress: None = a bar for long work, True, False.

        Raises:
            InputError: fewer than two samples, or too many cells for a quasi-random design.
        """
        _check_design(n_samples)
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
            a, b = _designs(n_samples, game.d, rng)
            a, b = a.to(game.device, game.wide), b.to(game.device, game.wide)
            with game.progress(n_samples * (game.d + 1), self.get_name(), progress):
                plain = game.of(a)  # (n, samples, K)
                variance = plain.var(0)
                changes = []
                for i in range(game.d):
                    c = a.clone()
                    c[:, i] = b[:, i]
                    changes.append((plain - game.of(c)).square().mean(0) / 2)
            part = torch.stack(changes, -1)
            flat = variance[..., None]
            values = torch.where(flat > 0, part / flat.clamp_min(torch.finfo(flat.dtype).tiny), torch.zeros_like(part))
            return like(inputs, game.maps(values))


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


@register("hsic", needs="perturbation", title="HSIC", reference="Novello et al. 2022, arXiv:2206.06219")
class HSIC(_Sensitivity):
    """Dependence of the score on cells being there."""

    @classmethod
    def get_name(cls) -> str:
        """The abbreviation."""
        return "HSIC"

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 500,
        perturbations_per_eval: int = 1,
        *,
        grid_size: int = 7,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Any:
        """HSIC per cell, of the inputs' shapes; not negative.

        Args:
            inputs: tensor or tuple of tensors, batch first.
            baselines: what stands in for a hidden cell: None (zeros), number, name, tensor, tuple or function.
            target: see `core.target.as_target`.
            additional_forward_args: further positional arguments of the model.
            feature_mask: the cells, as in `FeatureAblation`; None: a grid on pictures, volumes and sequences, each
                element of rows.
            n_samples: random masks.
            perturbations_per_eval: masks per forward pass; 1 leaves the size to the engine.
            grid_size: cells per axis where there is no feature_mask.
            seed: seed of the masks. None: decided by `torch.manual_seed`.
            generator: draw from this generator instead (it is advanced).
            batch_size: rows per forward pass; overrides perturbations_per_eval.
            progress: None = a bar for long work, True, False.

        Raises:
            InputError: fewer than two samples.
        """
        _check_design(n_samples)
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
            z = torch.stack([torch.rand(game.d, generator=rng, device=rng.device) < 0.5 for _ in range(n_samples)])
            with game.progress(n_samples, self.get_name(), progress):
                scores = game.of(z)
            switches = z.to(game.device, game.wide)
            centred = switches - switches.mean(0)
            values = [[_dependence(centred, column) for column in sample.unbind(1)] for sample in scores.unbind(1)]
            return like(inputs, game.maps(torch.stack([torch.stack(one) for one in values])))


def _dependence(centred: Tensor, scores: Tensor) -> Tensor:
    """HSIC of each switch, centred (n, d), with scores (n,): (d,)."""
    n = len(scores)
    distance = (scores[:, None] - scores[None]).abs()
    width = distance[~torch.eye(n, dtype=torch.bool, device=scores.device)].median()
    if not width > 0:  # more than half of the pairs are alike: their spread instead
        width = scores.std()
    if not width > 0:
        return torch.zeros(centred.shape[1], dtype=centred.dtype, device=centred.device)
    kernel = torch.exp(-0.5 * (distance / width) ** 2)
    return (2 * (centred * (kernel @ centred)).sum(0) / (n - 1) ** 2).clamp_min(0)
