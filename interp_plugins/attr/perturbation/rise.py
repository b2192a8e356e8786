"""RISE: the score under random soft masks, averaged mask by mask (Petsiuk, Das, Saenko, BMVC 2018, arXiv:1806.07421).

    map = 1 / (n E[m]) * sum over masks m of F(m x + (1 - m) x') m

A mask is a coarse grid of zeros and ones (one with probability p), enlarged bilinearly and shifted at random by less
than a cell. The map at an element is the mean score of the masks that show it. Rows of a table get masks without
enlargement. Cost: n_samples rows per sample. Masks are shared by the samples of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.attr.perturbation.coalitions import Game
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.average import check_tolerance, relative_error, report_reached, rounds
from interp_plugins.attr.shared.base import PerturbationAttribution, prepared
from interp_plugins.attr.shared.grid_features import spatial_axes
from interp_plugins.attr.shared.images import say_channels_last
from interp_plugins.core.batching import AUTOMATIC, check_chunk
from interp_plugins.core.errors import InputError
from interp_plugins.core.random import make_generator
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT, like

_PRODUCTS = 2**22  # products of score and mask held at a time
_SUMS = ("a", "b", "aa", "ab", "bb", "as", "bs")
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class _Masks:
    """Random soft masks for inputs of given shapes, in independent sets of `size` masks.

    Args:
        inputs: the inputs, batch first.
        grid: cells per spatial axis.
        p: probability that a cell is shown.
        generator: where the draws come from.
        orthogonal: sets in which each cell, and each pair of cells, is shown equally often: the columns of a Hadamard
            matrix in random order with random signs, all with one shift. Otherwise a set is one mask.
    """

    def __init__(self, inputs: Sequence[Tensor], grid: int, p: float, generator: torch.Generator, orthogonal: bool):
        self.inputs, self.grid, self.p, self.generator = inputs, grid, p, generator
        self.columns = hadamard(max(math.prod(self._cells(x)) for x in inputs) + 1) if orthogonal else None
        self.size = 1 if self.columns is None else len(self.columns)

    def draw(self, count: int) -> list[Tensor]:
        """So many sets of masks per input, broadcastable to a row of it; drawn one by one, whatever the count."""
        drawn = [[self._one(x) for x in self.inputs] for _ in range(count)]
        return [torch.cat(column).to(x.device) for column, x in zip(zip(*drawn, strict=True), self.inputs, strict=True)]

    def _cells(self, x: Tensor) -> list[int]:
        sizes = [x.shape[a] for a in spatial_axes(x)]
        return sizes if x.ndim < 3 or max(sizes) <= self.grid else [min(self.grid, s) for s in sizes]

    def _shown(self, cells: Sequence[int]) -> Tensor:
        """Which cells each mask of a set shows, (size, ...)."""
        rng: dict[str, Any] = {"generator": self.generator, "device": self.generator.device}
        if self.columns is None:
            return torch.rand(list(cells), **rng)[None] < self.p
        count = math.prod(cells)
        which = 1 + torch.randperm(self.size - 1, **rng)[:count].cpu()  # the first column is constant
        signs = (torch.rand(count, **rng) < 0.5).cpu()
        return (self.columns[:, which] ^ signs).reshape(-1, *cells)

    def _one(self, x: Tensor) -> Tensor:
        axes = spatial_axes(x)
        sizes, cells = [x.shape[a] for a in axes], self._cells(x)
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        shape = [self.size, *(x.shape[a] if a in axes else 1 for a in range(1, x.ndim))]
        if cells == sizes:  # nothing to enlarge
            return self._shown(cells).to(dtype).reshape(shape)
        steps = [math.ceil(s / c) for s, c in zip(sizes, cells, strict=True)]
        coarse = self._shown(cells).to(torch.float32)
        rng: dict[str, Any] = {"generator": self.generator, "device": self.generator.device}
        shifts = [int(torch.randint(step, (1,), **rng)) for step in steps]
        wide = [(c + 1) * step for c, step in zip(cells, steps, strict=True)]
        fine = F.interpolate(coarse[:, None], size=wide, mode=_MODES[len(axes)], align_corners=False)[:, 0]
        inside = (slice(None), *(slice(h, h + s) for h, s in zip(shifts, sizes, strict=True)))
        return fine[inside].to(dtype).reshape(shape)


def hadamard(least: int) -> Tensor:
    """Sylvester's Hadamard matrix of the first power of two from `least` on, as bool: rows differ in half of places."""
    h = torch.zeros(1, 1, dtype=torch.bool)
    while len(h) < least:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, ~h], 1)])
    return h


@register(
    "rise",
    needs="perturbation",
    title="RISE",
    reference="Petsiuk et al. 2018, arXiv:1806.07421",
    defaults={"center": True},
    fast={"n_samples": 200},
    thorough={"n_samples": 4000},
    cost="n forward",
    axioms=("linearity", "implementation invariance"),
    assumes="features that can be removed one by one",
)
class RISE(PerturbationAttribution):
    """Mean score of the random masks that show an element.

    Example:
        RISE(model).attribute(x, target=3, n_samples=100, seed=0).shape  # -> (2, 3, 24, 24)
    """

    @classmethod
    def get_name(cls) -> str:
        """The name as papers write it, in capitals: RISE."""
        return "RISE"

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: maps are scores, not changes of scores."""
        return False

    @args_from()
    def attribute(
        self,
        inputs: InputsT,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_samples: int = 1000,
        perturbations_per_eval: int = AUTOMATIC,
        *,
        grid_size: int = 7,
        p: float = 0.5,
        center: bool = False,
        orthogonal: bool = False,
        tol: float | None = None,
        max_samples: int = 20_000,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT:
        """The RISE map, of the inputs' shapes (the same for all channels).

        Args:
            inputs: tensor or tuple of tensors, batch first. Masks vary over height and width of pictures
                (N, C, H, W), depth, height and width of volumes, time of sequences (N, T, C), features of rows.
            baselines: what is behind a mask: None (zeros), number, name ("black", "blur"), tensor, tuple or function.
            target: see `core.target.as_target`. The paper uses probabilities (`core.target.Probability`).
            n_samples: masks; the paper uses 4,000 to 8,000.
            perturbations_per_eval: masks per forward pass; left out: as many as fit.
            grid_size: cells per axis, 7 in the paper.
            p: probability that a cell is shown, 0.5 in the paper.
            center: subtract the masks' mean score first: where showing an element raises the score, and where it lowers
                it, with less noise. `explain` does so.
            orthogonal: draw masks in sets that show each cell, and each pair of cells, equally often, so that cells
                do not disturb each other: the same expectation, two to six times less variance. A set has the first
                power of two above the number of cells (64 for a grid of 7 x 7); n_samples and max_samples are rounded
                up to whole sets. Needs p = 0.5.
            tol: go on, n_samples masks at a time, until each sample's map has, with 90 % confidence, a relative L2
                error below this (`attr/shared/average.py`); what was reached is reported (`core.report`: n_draws,
                map_error, standard_error).
            max_samples: at most so many masks; a warning says when tol was not reached.
            seed: seed of the masks. None: decided by `torch.manual_seed`; the global state is left as it was.
            batch_size: rows (masks x samples) per forward pass; overrides perturbations_per_eval.

        Returns:
            Maps of the inputs' shapes; (N, K, ...) for K outputs per example.
        """
        check_tolerance(tol, n_samples, max_samples)
        check_chunk("grid_size", grid_size)
        if not 0 < p <= 1:
            raise InputError(f"p is the probability that a cell is shown, above 0 and at most 1; got {p!r}.")
        if orthogonal and p != 0.5:
            raise InputError(f"orthogonal masks show half of the cells: they need p=0.5; got p={p!r}.")
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            game = Game(
                forward,
                xs,
                baselines,
                template=inputs,
                perturbations_per_eval=perturbations_per_eval,
                chunk=batch_size,
            )
            say_channels_last("RISE", xs)
            masks = _Masks(xs, grid_size, p, make_generator(seed, generator), orthogonal)
            size = masks.size
            sums = _Sums(game, p, center, size)
            sets, most = (math.ceil(m / size) for m in (n_samples, max_samples))
            together = max(1, game.group // size)
            with game.progress(size * (sets if tol is None else most), self.get_name(), progress):
                for due, active in rounds(sums.map_error, game.samples, tol, sets, most):
                    for first in range(0, due, together):
                        sums.add(masks.draw(min(together, due - first)), active)
            error = like(inputs, sums.full(sums.standard_error()))
            report_reached(size * sums.count, sums.map_error(), error, tol, "masks")
            return like(inputs, sums.full(sums.mean()))


class _Sums:
    """Sums over independent sets of masks, per input (samples, K, ...).

    With A the sum of score times mask over a set, B the sum of its masks, and S that of its scores, a map is the mean
    of A - level * B. Centred, the level is the mean score and moves with the draws: a set then adds to the error
    A - level * B - mean mask * (S - level * size).
    """

    def __init__(self, game: Game, p: float, center: bool, size: int):
        self.game, self.p, self.center, self.size = game, p, center, size
        self.count = torch.zeros(game.samples, dtype=torch.long)
        self.level = torch.zeros_like(game.clean, dtype=game.wide)  # sum of the scores, (samples, K)
        self.spread = torch.zeros_like(self.level)  # sum of the squares of S
        self.sums: list[dict[str, Tensor]] = []

    def add(self, masks: Sequence[Tensor], samples: Tensor) -> None:
        """Score whole sets of masks for some samples and add them."""
        game = self.game

        def switches(c: Tensor, who: Tensor) -> Sequence[Tensor]:
            return [m.index_select(0, c) for m in masks]

        scores = game.masked_scores(len(masks[0]), switches, samples)  # (masks, samples, K)
        at, by_set = samples.to(game.device), scores.unflatten(0, (-1, self.size))
        self.count[samples] += len(scores) // self.size
        self.level[at] += scores.sum(0)
        self.spread[at] += by_set.sum(1).square().sum(0)
        if not self.sums:
            self.sums = [self._zeros(m.shape[1:]) for m in masks]
        for sums, m in zip(self.sums, masks, strict=True):
            at_once = max(1, _PRODUCTS // (by_set[0, 0].numel() * m[0].numel()))
            weights = m.to(game.wide).unflatten(0, (-1, self.size))
            for s, w in zip(by_set.split(at_once), weights.split(at_once), strict=True):
                a, b = torch.einsum("usnk,us...->unk...", s, w), w.sum(1)[:, None, None]
                total = s.sum(1).reshape(*a.shape[:3], *(1,) * (a.ndim - 3))
                parts = {"a": a, "b": b, "aa": a * a, "ab": a * b, "bb": b * b}
                for name, part in {**parts, "as": a * total, "bs": b * total}.items():
                    sums[name][at] += part.sum(0)

    def _zeros(self, shape: Sequence[int]) -> dict[str, Tensor]:
        n, k = self.game.clean.shape
        ones = {"b", "bb"}  # masks are the same for all outputs
        return {
            name: torch.zeros(n, 1 if name in ones else k, *shape, dtype=self.game.wide, device=self.game.device)
            for name in _SUMS
        }

    def _mean_level(self, like_map: Tensor) -> Tensor:
        """What is subtracted from the scores, shaped for a map (samples, K, ...)."""
        level = self.level / self._counts(self.level) / self.size if self.center else torch.zeros_like(self.level)
        return level.reshape(*level.shape, *(1,) * (like_map.ndim - 2))

    def _counts(self, values: Tensor) -> Tensor:
        return self.count.to(values).reshape(-1, *(1,) * (values.ndim - 1))

    def mean(self) -> list[Tensor]:
        """The maps, not yet widened over channels."""
        return [
            (s["a"] - self._mean_level(s["a"]) * s["b"]) / (self._counts(s["a"]) * self.size * self.p)
            for s in self.sums
        ]

    def standard_error(self) -> list[Tensor]:
        """Standard errors of the maps, from the spread over the sets of masks."""
        out = []
        for s, mean in zip(self.sums, self.mean(), strict=True):
            level, n, size = self._mean_level(mean), self._counts(mean), self.size
            squares = s["aa"] - 2 * level * s["ab"] + level**2 * s["bb"]
            if self.center:
                shown = s["b"] / (n * size)
                with_scores = s["as"] - level * s["bs"] - level * size * (s["a"] - level * s["b"])
                spread = self.spread.reshape(level.shape) - n * (size * level) ** 2
                squares = squares - 2 * shown * with_scores + shown**2 * spread
            squares = squares - n * (mean * self.p * size) ** 2
            error = (squares / n).clamp_min(0) / (n - 1).clamp_min(1)
            error = error.sqrt() / (self.p * size)
            out.append(torch.where(n > 1, error, torch.full_like(error, math.inf)))
        return out

    def map_error(self) -> Tensor:
        """Per sample: the bound on the relative L2 error (`attr/shared/average.py`)."""
        return relative_error(self.count - 1, self.standard_error(), self.mean(), self.game.rounding)

    def full(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the inputs' shapes, in the result's dtype."""
        shape = self.game.shape
        return [
            m.to(self.game.dtype).expand(*m.shape[:2], *x.shape[1:]).reshape(*shape, *x.shape[1:]).clone()
            for m, x in zip(maps, self.game.inputs, strict=True)
        ]
