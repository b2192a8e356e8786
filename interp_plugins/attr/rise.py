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

from ..core.batching import check_chunk
from ..core.errors import InputError
from ..core.random import make_generator
from ..core.registry import register
from ..core.tensors import like
from .average import check_tolerance, report_reached
from .base import PerturbationAttribution, prepared
from .cells import spatial_axes
from .coalitions import Game

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class _Masks:
    """Random soft masks for inputs of given shapes.

    Args:
        inputs: the inputs, batch first.
        grid: cells per spatial axis.
        p: probability that a cell is shown.
        generator: where the draws come from.
    """

    def __init__(self, inputs: Sequence[Tensor], grid: int, p: float, generator: torch.Generator):
        self.inputs, self.grid, self.p, self.generator = inputs, grid, p, generator

    def draw(self, count: int) -> list[Tensor]:
        """So many masks per input, each broadcastable to a row of it; drawn mask by mask, whatever the count."""
        drawn = [[self._one(x) for x in self.inputs] for _ in range(count)]
        return [
            torch.stack(column).to(x.device) for column, x in zip(zip(*drawn, strict=True), self.inputs, strict=True)
        ]

    def _one(self, x: Tensor) -> Tensor:
        axes = spatial_axes(x)
        sizes = [x.shape[a] for a in axes]
        rng: dict[str, Any] = {"generator": self.generator, "device": self.generator.device}
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        shape = [x.shape[a] if a in axes else 1 for a in range(1, x.ndim)]
        if x.ndim < 3 or max(sizes) <= self.grid:  # nothing to enlarge
            return (torch.rand(sizes, **rng) < self.p).to(dtype).reshape(shape)
        cells = [min(self.grid, s) for s in sizes]
        steps = [math.ceil(s / c) for s, c in zip(sizes, cells, strict=True)]
        coarse = (torch.rand(cells, **rng) < self.p).to(torch.float32)
        shifts = [int(torch.randint(step, (1,), **rng)) for step in steps]
        wide = [(c + 1) * step for c, step in zip(cells, steps, strict=True)]
        fine = F.interpolate(coarse[None, None], size=wide, mode=_MODES[len(axes)], align_corners=False)[0, 0]
        return fine[tuple(slice(h, h + s) for h, s in zip(shifts, sizes, strict=True))].to(dtype).reshape(shape)


@register(
    "rise",
    needs="perturbation",
    title="RISE",
    reference="Petsiuk et al. 2018, arXiv:1806.07421",
    defaults={"center": True},
)
class RISE(PerturbationAttribution):
    """Mean score of the random masks that show an element."""

    @classmethod
    def get_name(cls) -> str:
        """The abbreviation."""
        return "RISE"

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: maps are scores, not changes of scores."""
        return False

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_samples: int = 1000,
        perturbations_per_eval: int = 1,
        *,
        grid_size: int = 7,
        p: float = 0.5,
        center: bool = False,
        tol: float | None = None,
        max_samples: int = 20_000,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Any:
        """The RISE map, of the inputs' shapes (the same for all channels).

        Args:
            inputs: tensor or tuple of tensors, batch first. Masks vary over height and width of pictures
                (N, C, H, W), depth, height and width of volumes, time of sequences (N, T, C), features of rows.
            baselines: what is behind a mask: None (zeros), number, name ("black", "blur"), tensor, tuple or function.
            target: see `core.target.as_target`. The paper uses probabilities (`core.target.Probability`).
            additional_forward_args: further positional arguments of the model.
            n_samples: masks; the paper uses 4,000 to 8,000.
            perturbations_per_eval: masks per forward pass; 1 leaves the size to the engine.
            grid_size: cells per axis, 7 in the paper.
            p: probability that a cell is shown, 0.5 in the paper.
            center: subtract the masks' mean score first: where showing an element raises the score, and where it lowers
                it, with less noise. `explain` does so.
            tol: go on, n_samples masks at a time, until the estimated relative L2 error of every sample's map is below
                this; the error reached is reported (`core.report`: map_error, standard_error).
            max_samples: at most so many masks; a warning says when tol was not reached.
            seed: seed of the masks. None: decided by `torch.manual_seed`; the global state is left as it was.
            generator: draw from this generator instead (it is advanced).
            batch_size: rows (masks x samples) per forward pass; overrides perturbations_per_eval.
            progress: None = a bar for long work, True, False.

        Returns:
            Maps of the inputs' shapes; (N, K, ...) for K outputs per example.
        """
        check_tolerance(tol, n_samples, max_samples)
        check_chunk("grid_size", grid_size)
        if not 0 < p <= 1:
            raise InputError(f"p is the probability that a cell is shown, above 0 and at most 1; got {p!r}.")
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            game = Game(
                forward,
                xs,
                baselines,
                template=inputs,
                perturbations_per_eval=perturbations_per_eval,
                chunk=batch_size,
            )
            masks = _Masks(xs, grid_size, p, make_generator(seed, generator))
            sums = _Sums(game, p, center)
            planned = n_samples if tol is None else max_samples
            with game.progress(planned, self.get_name(), progress):
                while sums.count < planned:
                    due = min(n_samples, planned - sums.count)
                    for first in range(0, due, game.group):
                        sums.add(masks.draw(min(game.group, due - first)))
                    if tol is None or max(sums.map_error()) <= tol:
                        break
            error = sums.standard_error()
            report_reached(sums.count, sums.map_error(), like(inputs, sums.full(error)), tol, "masks")
            return like(inputs, sums.full(sums.mean()))


class _Sums:
    """Sums of scores under masks and of their squares, per input (samples, K, ...)."""

    def __init__(self, game: Game, p: float, center: bool):
        self.game, self.p, self.center, self.count = game, p, center, 0
        self.total: Any = 0.0  # of the scores, (samples, K)
        # Sums over masks of score^a mask^b, per input (samples, K, ...), or (...) without a score.
        self.sums: list[dict[tuple[int, int], Any]] = [
            dict.fromkeys(((1, 1), (2, 2), (1, 2), (0, 1), (0, 2)), 0.0) for _ in game.inputs
        ]

    def add(self, masks: Sequence[Tensor]) -> None:
        """Score the masks and add them."""
        game = self.game

        def switches(c: Tensor, samples: Tensor) -> Sequence[Tensor]:
            return [m.index_select(0, c) for m in masks]

        scores = game.scores(len(masks[0]), switches)
        self.count += len(scores)
        self.total = self.total + scores.sum(0)
        for sums, m in zip(self.sums, masks, strict=True):
            weights = m.to(game.wide)
            for a, b in sums:
                part = torch.einsum("cnk,c...->nk...", scores**a, weights**b) if a else (weights**b).sum(0)
                sums[a, b] = sums[a, b] + part

    def _level(self, like_map: Tensor) -> Tensor:
        """What is subtracted from the scores, shaped for a map (samples, K, ...)."""
        level = self.total / self.count if self.center else torch.zeros_like(self.total)
        return level.reshape(*level.shape, *(1,) * (like_map.ndim - 2))

    def mean(self) -> list[Tensor]:
        """The maps, not yet widened over channels."""
        return [(s[1, 1] - self._level(s[1, 1]) * s[0, 1]) / (self.count * self.p) for s in self.sums]

    def standard_error(self) -> list[Tensor]:
        """Of the maps."""
        n = self.count
        out = []
        for s, mean in zip(self.sums, self.mean(), strict=True):
            level = self._level(mean)
            squares = s[2, 2] - 2 * level * s[1, 2] + level**2 * s[0, 2]
            spread = (squares / n - (mean * self.p) ** 2).clamp_min(0) / max(1, n - 1)
            out.append(spread.sqrt() / self.p if n > 1 else torch.full_like(mean, math.inf))
        return out

    def map_error(self) -> list[float]:
        """Per sample: the expected L2 error of the map, relative to its L2 norm."""
        error, scale = (
            torch.cat([t.flatten(1) for t in parts], 1).norm(dim=1) for parts in (self.standard_error(), self.mean())
        )
        return torch.where(error == 0, error, error / scale.clamp_min(torch.finfo(scale.dtype).tiny)).tolist()

    def full(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the inputs' shapes, in the result's dtype."""
        shape = self.game.shape
        return [
            m.to(self.game.dtype).expand(*m.shape[:2], *x.shape[1:]).reshape(*shape, *x.shape[1:]).clone()
            for m, x in zip(maps, self.game.inputs, strict=True)
        ]
