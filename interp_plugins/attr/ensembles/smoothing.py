"""Averages of a method's maps over noisy copies of its input: the copies of `NoiseTunnel`, and their statistics.

The random numbers are drawn copy by copy for the whole batch, whatever the group of copies that the inner method is
given at a time and whoever has settled, so that neither decides the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from interp_plugins.attr.ensembles.inner_method import Inner, copies_alone, expanded, for_copies
from interp_plugins.attr.shared.average import Averages, Draws, average_draws, report_reached
from interp_plugins.attr.shared.draws import as_stdevs
from interp_plugins.core.errors import InputError, ModelError
from interp_plugins.core.multi_target import Unconverged, each_target
from interp_plugins.core.tensors import accumulation_dtype, as_tuple, check_inputs, is_float, like

_FEW_STEPS = 5  # of a path per noisy copy, where copies go on to a tolerance: their errors average out
_GROUP_ELEMENTS = 2**20  # elements of noisy input handed to the inner method at a time; it chunks on its own


@dataclass(frozen=True)
class Smoothing:
    """How to draw the copies and what to make of their maps.

    Attributes:
        nt_type: which statistic of the maps: "smoothgrad", "smoothgrad_sq" or "vargrad".
        draws: how many copies, and when to stop; antithetic copies come in pairs.
        group: copies handed to the inner method at a time; None: as many as fit.
        stdevs: of the noise, as `as_stdevs` takes them.
        draw_baseline: draw a baseline for each copy from the rows of `baselines`.
        delta: the inner method returns deltas, which are wanted.
        generator: what the numbers are drawn from.
    """

    nt_type: str
    draws: Draws
    group: int | None
    stdevs: float | tuple[float | None, ...] | None
    draw_baseline: bool
    delta: bool
    generator: torch.Generator

    def average(self, method: Any, inputs: Any, kwargs: Mapping[str, Any], at: tuple[Tensor, ...] = ()) -> Any:
        """Run the method on noisy copies, a group of copies at a time; keep running sums only.

        With tensors `at` (a layer's), the inputs stay clean, and noise of those shapes goes into the last arguments.
        """
        xs, pair, targets = check_inputs(inputs), self.draws.companions, each_target(kwargs.get("target"))
        n = xs[0].shape[0]
        # Nodes are not shifted for squares: those of inexact maps are too large on average, however many they are.
        shift = self.draws.tol is not None and self.nt_type == "smoothgrad"
        alone, method, kwargs = copies_alone(method, xs, kwargs)
        if alone is not None and pair > 1:
            raise InputError(
                f"antithetic copies go through side by side, and the rows of this model feel each other ({alone}). "
                "Leave antithetic out."
            )
        inner = Inner.of(method, xs, kwargs, shift=shift, pooled=not self.draw_baseline)
        if inner.draws:  # copy by copy from the one stream, so that the seed decides, not the group
            kwargs = {**kwargs, "generator": self.generator}
        if inner.shift:
            kwargs = {"n_steps": _FEW_STEPS, **kwargs}
        pool = as_tuple(kwargs["baselines"]) if self.draw_baseline and kwargs.get("baselines") is not None else None
        copies = _Copies(xs, at, as_stdevs(self.stdevs, at or xs), kwargs, pair, pool, inner, self.generator)
        averages = _KINDS[self.nt_type](n * len(targets))  # a sample's targets stand together
        layout: Any = None

        def evaluate(asked: Unconverged, draws: int) -> tuple[list[Tensor], Tensor | None]:
            nonlocal layout
            noisy, arguments = copies.draw(asked, draws)
            of_copies = for_copies(method, asked.samples.repeat(draws * pair), n)
            found = of_copies.attribute(like(inputs, noisy), **arguments)
            maps, delta = found if self.delta else (found, None)
            leaves, layout = pytree.tree_flatten(maps)  # (copies * samples * targets, ...) each
            return _apart(leaves, draws * pair), delta

        group = self.group or max(1, _GROUP_ELEMENTS // (n * sum(x[0].numel() for x in xs)))
        if (inner.draws and inner.ahead is None) or (alone is not None and self.group is None):
            group = pair
        whole = alone is not None and self.group is None
        delta = average_draws(averages, self._pairs, targets, evaluate, lambda _: max(1, group // pair), whole)
        error = pytree.tree_unflatten(averages.standard_error(), layout)
        report_reached(pair * averages.count, averages.map_error(), error, self.draws.tol, "copies")
        maps = pytree.tree_unflatten(averages.result(), layout)
        return (maps, delta) if self.delta else maps

    @property
    def _pairs(self) -> Draws:
        """The draws, which count copies, in pairs where copies are antithetic."""
        pair = self.draws.companions
        n_samples, max_samples = (-(-m // pair) for m in (self.draws.n_samples, self.draws.max_samples))
        return replace(self.draws, n_samples=n_samples, max_samples=max_samples)


def _apart(maps: list[Tensor], copies: int) -> list[Tensor]:
    """The maps, if those of the copies can be told apart."""
    merged = next((m for m in maps if m.shape[0] % copies), None)
    if merged is not None:
        raise ModelError(
            f"A map of shape {tuple(merged.shape)} came for {copies} noisy copies: the model gives one value for the "
            "whole batch, so that copies cannot share a call. Use nt_samples_batch_size=1, without antithetic."
        )
    return maps


@dataclass(frozen=True)
class _Numbers:
    """What is random in a copy, or an antithetic pair of copies, of the whole batch: one after the other, (pair * N).

    Attributes:
        noisy: the noisy tensors, or the noise itself for a layer's, (pair * N, ...) each.
        pick: the row of the baselines, (pair * N,), or None.
        offset: how far the nodes of a path are into their cells, (pair * N,), or None.
        inner: the inner method's own numbers for pair * N samples, or None.
    """

    noisy: list[Tensor]
    pick: Tensor | None
    offset: Tensor | None
    inner: Any


@dataclass(frozen=True)
class _Copies:
    """Makes noisy copies of a batch, and the inner method's arguments for them.

    Attributes:
        xs: the inputs, (N, ...) each.
        at: a layer's tensors that take the noise in place of the inputs, or none.
        stdevs: of the noise, one per tensor that takes it.
        kwargs: the inner method's arguments for the batch.
        pair: 2 for antithetic copies, else 1.
        pool: baselines to draw from, (n_baselines, ...) each; None: they are given.
        inner: what matters of the inner method.
        generator: what the numbers are drawn from.
    """

    xs: tuple[Tensor, ...]
    at: tuple[Tensor, ...]
    stdevs: tuple[float, ...]
    kwargs: Mapping[str, Any]
    pair: int
    pool: tuple[Any, ...] | None
    inner: Inner
    generator: torch.Generator

    def draw(self, asked: Unconverged, draws: int) -> tuple[list[Tensor], dict[str, Any]]:
        """Inputs (copies * samples, ...) of so many more draws, for the samples asked for, and their arguments."""
        n, samples = self.xs[0].shape[0], asked.samples
        drawn = [self._numbers() for _ in range(draws)]
        rows = samples.repeat(draws * self.pair)  # (copies * samples,): whose copy it is
        # The same rows' places in what is drawn for the whole batch, (copies * N, ...).
        here = torch.cat([samples + k * n for k in range(draws * self.pair)])
        given = {**self.kwargs, "target": asked.target}
        arguments = expanded(given, rows, n, keep=("baselines",) if self.inner.pooled else ())
        if self.pool is not None:
            pick = torch.cat([d.pick for d in drawn if d.pick is not None]).cpu()[here]
            bases = [b.index_select(0, pick.to(b.device)) for b in self.pool]
            arguments["baselines"] = like(self.kwargs["baselines"], bases)
        if self.inner.shift:
            arguments["offsets"] = torch.cat([d.offset for d in drawn if d.offset is not None]).cpu()[here]
        if self.inner.ahead is not None:
            numbers = [d.inner for d in drawn]
            arguments["generator"] = type(numbers[0]).joined(numbers).at(here)
        joined = [torch.cat(column) for column in zip(*(d.noisy for d in drawn), strict=True)]
        noisy = [t.index_select(0, here.to(t.device)) for t in joined]
        if not self.at:
            return noisy, arguments
        arguments["additional_forward_args"] = (*arguments["additional_forward_args"], *noisy)
        return [x.index_select(0, rows.to(x.device)) for x in self.xs], arguments

    def _numbers(self) -> _Numbers:
        """The next numbers, in this order: noise of each tensor, rows of the baselines, offsets, the inner method's."""
        n = self.xs[0].shape[0]
        source: dict[str, Any] = {"generator": self.generator, "device": self.generator.device}
        noisy = []
        for x, std in zip(self.at or self.xs, self.stdevs, strict=True):
            clean = torch.zeros_like(x) if self.at else x
            noise = std * self._normal(x) if is_float(x) else torch.zeros_like(x)
            noisy.append(torch.cat([clean + noise, clean - noise]) if self.pair == 2 else clean + noise)
        pick = offset = numbers = None
        if self.pool is not None:
            pick = torch.cat([torch.randint(len(self.pool[0]), (n,), **source) for _ in range(self.pair)])
        if self.inner.shift:
            offset = torch.rand(n, **source)
            offset = torch.cat([offset, 1 - offset]) if self.pair == 2 else offset
        if self.inner.ahead is not None:
            numbers = self.inner.ahead(self.generator, n * self.pair, self.xs[0].dtype)
        return _Numbers(noisy, pick, offset, numbers)

    def _normal(self, x: Tensor) -> Tensor:
        device, wide = self.generator.device, accumulation_dtype(x.dtype)  # half precision: the same noise, rounded
        return torch.randn(x.shape, generator=self.generator, dtype=wide, device=device).to(x)


class _Squares(Averages):
    """The mean of the squared maps."""

    def add(self, maps: Sequence[Tensor], draws: int, companions: int, samples: Tensor) -> None:
        """Maps as `Averages` takes them."""
        super().add([m**2 for m in maps], draws, companions, samples)


class _Variance(Averages):
    """The variance of the maps, from the means of the first four powers of their distance from the first map.

    Its standard error is that of the mean of (map - mean)^2.
    """

    _first: list[Tensor] | None = None

    def add(self, maps: Sequence[Tensor], draws: int, companions: int, samples: Tensor) -> None:
        """Maps as `Averages` takes them, without companions."""
        if self._first is None:
            self._first = [m[: m.shape[0] // draws].clone() for m in maps]
        powers: list[list[Tensor]] = [[], [], [], []]
        for m, first in zip(maps, self._first, strict=True):
            if first.shape[0] % self.samples == 0:  # not of a model that merges the batch
                first = first.unflatten(0, (self.samples, -1))[samples.to(first.device)].flatten(0, 1)
            away = (m.unflatten(0, (draws, -1)) - first).flatten(0, 1)
            for k, power in enumerate(powers, start=1):
                power.append(away**k)
        super().add([one for power in powers for one in power], draws, companions, samples)

    def _moments(self) -> list[tuple[Tensor, Tensor]]:
        """Variance and fourth central moment per part."""
        means = super().values()
        parts = len(means) // 4
        out = []
        for one, two, three, four in zip(*(means[k * parts : (k + 1) * parts] for k in range(4)), strict=True):
            out.append((two - one**2, four - 4 * one * three + 6 * one**2 * two - 3 * one**4))
        return out

    def values(self) -> list[Tensor]:
        """Variances, of all draws as of a whole population."""
        return [variance for variance, _ in self._moments()]

    def errors(self) -> list[Tensor]:
        """Standard errors of the variances, in the shapes of the maps."""
        n = self.parts[0].count[:, None]
        return [
            torch.where(n > 1, ((fourth - variance**2).clamp_min(0) / n.to(fourth)).sqrt(), math.inf)
            for variance, fourth in self._moments()
        ]


_KINDS: dict[str, type[Averages]] = {"smoothgrad": Averages, "smoothgrad_sq": _Squares, "vargrad": _Variance}
