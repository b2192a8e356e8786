"""GradientShap, also known as expected gradients (Erion et al. 2019, arXiv:1906.10670).

    mean over draws of (x + noise - x') * dF/dx (x' + a (x + noise - x')),   a ~ U(0, 1), x' from the baselines

The primary and the layer variant are one loop: with a layer, the gradient and the difference are read there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.gradient.captum_draws import CaptumDraws, captum_draws
from interp_plugins.attr.shared.arguments import with_delta
from interp_plugins.attr.shared.at_layer import layer_tensors
from interp_plugins.attr.shared.average import Averages, Draws, average_draws, error_asked, report_reached
from interp_plugins.attr.shared.base import (
    GradientAttribution,
    MultipliesByInputs,
    batch_scores,
    completeness_error,
    prepared,
    shared_error,
)
from interp_plugins.attr.shared.draws import as_stdevs, baseline_pool
from interp_plugins.attr.shared.gradients_in_both import PartsInBoth, in_lower
from interp_plugins.attr.shared.path import check_rows, points
from interp_plugins.core.batching import check_chunk, chunks, progress_bar
from interp_plugins.core.forward import Forward, gradients
from interp_plugins.core.layers import Layer
from interp_plugins.core.multi_target import Unconverged, each_target, repeated
from interp_plugins.core.random import make_generator
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT, accumulation_dtype, as_tuple, check_float, credit, like
from interp_plugins.engine import planned


@dataclass(frozen=True)
class PathDraws:
    """The random numbers of some draws per sample, made before they are used; taken in place of a generator.

    NoiseTunnel makes them copy by copy from its one stream of numbers, and then explains many copies in one call.

    Attributes:
        pick: which row of the baselines, (N, D).
        alpha: the place on the path, (N, D).
    """

    pick: Tensor
    alpha: Tensor

    @classmethod
    def joined(cls, parts: Sequence[PathDraws]) -> PathDraws:
        """The random numbers for the samples of all parts, one part after the other."""
        return cls(torch.cat([p.pick for p in parts]), torch.cat([p.alpha for p in parts]))

    def at(self, rows: Tensor) -> PathDraws:
        """The random numbers of the given samples alone."""
        return PathDraws(*(t.index_select(0, rows.to(t.device)) for t in (self.pick, self.alpha)))


PAIRS = {"n_samples": 3, "antithetic": True}  # what `explain` sets: six gradients, of a quadratic score exact


class DrawsAhead:
    """Methods on `expected_gradients`: their random numbers can be drawn before they run."""

    def draws_ahead(
        self, baselines: Any, n_samples: int = 5, **kwargs: Any
    ) -> Callable[[torch.Generator, int, torch.dtype], PathDraws]:
        """A function (generator, samples, dtype) -> `PathDraws`: what `attribute` would draw of that generator.

        The baselines are tensors; the other arguments are those of `attribute`, without noise of its own.
        """
        size = len(as_tuple(baselines)[0])
        check_chunk("n_samples", n_samples)

        def draw(generator: torch.Generator, samples: int, dtype: torch.dtype) -> PathDraws:
            # n_samples pairs of (N,) -> two of (N, n_samples).
            made = [_places(samples, size, dtype, generator) for _ in range(n_samples)]
            return PathDraws(*(torch.stack(column, 1) for column in zip(*made, strict=True)))

        return draw


def expected_gradients(
    forward: Forward,
    xs: tuple[Tensor, ...],
    pool: tuple[Tensor, ...],
    draws: Draws,
    *,
    stdevs: Any,
    generator: torch.Generator | PathDraws,
    seeded: bool,
    multiply: bool,
    wrt: Sequence[Layer] | None = None,
    deltas: bool = False,
    chunk: int | None = None,
    progress: bool | None = None,
) -> tuple[tuple[Tensor, ...], Tensor | None, tuple[int, ...]]:
    """Mean over the draws, their deltas if asked for, and tensors per layer.

    The deltas are (N * n_samples * companions,), sample by sample; with a tolerance, where samples have different
    numbers of draws, their mean (N,).

    Random numbers are drawn draw by draw for the whole batch, so the result does not depend on chunk sizes nor on which
    samples have settled; as many draws as fill a pass are held at a time. A generator that is `PathDraws` holds the
    numbers of all draws.
    """
    stds, targets = as_stdevs(stdevs, xs), each_target(forward.target)
    numbers = captum_draws(xs, [len(b) for b in pool], stds, draws, seeded) or generator
    n, runs, size = xs[0].shape[0], draws.companions, forward.rows_per_pass(xs, chunk)
    rows = n * draws.planned * runs
    plain = forward
    forward, wrt = planned(forward, xs, rows=rows, chunk=size, wrt=wrt, backward=True, states=True)
    known = _known_scores(plain, xs, pool, stds, chunk) if deltas else None
    before = numbers.get_state() if isinstance(numbers, torch.Generator) else torch.empty(0)
    least = runs * draws.n_samples  # rows of each sample, or more to a tolerance

    def run() -> tuple[list[Tensor], Averages, Tensor | None, tuple[int, ...]]:
        if isinstance(numbers, torch.Generator):
            numbers.set_state(before)
        means = Averages(n * len(targets))  # a sample's targets stand together, and settle on their own
        with progress_bar(rows, "gradients", progress) as bar:
            evaluate = _Evaluate(forward, xs, pool, stds, draws, numbers, multiply, wrt, known, size, bar)
            # As many draws at a time as fill a pass.
            delta = average_draws(means, draws, targets, evaluate, lambda n: max(1, size // (n * runs)), plain.whole)
        return [least * m for m in means.result()], means, delta, evaluate.counts

    alike = _Evaluate(forward, xs, pool, stds, draws, numbers, multiply, wrt, None, size, None)
    _, means, delta, counts = in_lower(
        forward, run, lambda lower: PartsInBoth(forward, lower, least, alike.other_draws, xs[0].device)
    )
    if error_asked(draws.tol):
        errors = means.standard_error()
        report_reached(means.count, means.map_error(), errors if len(errors) > 1 else errors[0], draws.tol, "draws")
    return means.result(), delta, counts


@dataclass
class _Evaluate:
    """Maps and deltas of some more draws, for `average_draws`.

    Attributes:
        known: scores of all samples at the ends and at the beginnings of their paths, where these do not depend on the
            draw (`_known_scores`); None: no deltas are asked for.
        counts: tensors per layer, once the first draws have been evaluated.
    """

    forward: Forward
    xs: tuple[Tensor, ...]
    pool: tuple[Tensor, ...]
    stds: tuple[float, ...]
    draws: Draws
    generator: torch.Generator | PathDraws | CaptumDraws
    multiply: bool
    wrt: Sequence[Layer] | None
    known: tuple[Tensor | None, Tensor | None] | None
    size: int
    bar: Any
    counts: tuple[int, ...] = ()
    drawn: int = 0

    def __call__(self, asked: Unconverged, count: int) -> tuple[list[Tensor], Tensor | None]:
        """Maps (count * companions * samples * targets, ...) and deltas of as many entries, draw by draw."""
        n, who = self.xs[0].shape[0], asked.samples.to(self.xs[0].device)
        # Drawn for the whole batch, (count * companions * N); taken for the samples asked for.
        here = torch.cat([who + k * n for k in range(count * self.draws.companions)])
        noisy, starts, alpha = _made(self.xs, self.pool, self._numbers(count), self.draws, here)
        forward = replace(self.forward, target=asked.target)

        def work(lo: int, hi: int) -> tuple[tuple[Tensor, ...], Tensor | None, tuple[int, ...]]:
            at = points(noisy, starts, torch.arange(lo, hi, device=here.device), alpha[lo:hi])
            ends, begins = ([t[lo:hi] for t in tensors] for tensors in (noisy, starts))
            return self._rows(forward, at, ends, begins, here[lo:hi] % n, asked.which)

        parts = [p for _, _, p in chunks(len(here), self.size, work, step=len(who), bar=self.bar)]
        maps, deltas, counts = zip(*parts, strict=True)
        self.counts = counts[0]
        joined = [torch.cat(column) for column in zip(*maps, strict=True)]
        return joined, None if self.known is None else torch.cat(deltas)

    def other_draws(self, rows: Tensor, steps: Tensor) -> Sequence[Tensor]:
        """What one draw each adds to the sum of the maps of samples (R,): draws of the same kind, always the same."""
        source = torch.Generator().manual_seed(int(steps.sum()))
        xs = [x.index_select(0, rows) for x in self.xs]
        noise = [_noise(x, s, source) for x, s in zip(xs, self.stds, strict=True)]
        pick, alpha = _places(len(rows), len(self.pool[0]), xs[0].dtype, source)
        noisy = [x if e is None else x + e for x, e in zip(xs, noise, strict=True)]
        starts = [b.index_select(0, pick.to(b.device)) for b in self.pool]
        at = points(noisy, starts, torch.arange(len(rows), device=rows.device), alpha.to(rows.device))
        return self._rows(self.forward, at, noisy, starts, rows, rows[:0])[0]

    def _numbers(self, count: int) -> _Numbers:
        """The next random numbers, for every sample, draw by draw."""
        made, of = self.generator, slice(self.drawn, self.drawn + count)
        self.drawn += count
        if isinstance(made, CaptumDraws):
            noise = [None if e is None else e[:, of].transpose(0, 1) for e in made.noise]
            return _Numbers(noise, [p[:, of].t() for p in made.picks], made.alpha[:, of].t())
        nothing: list[Tensor | None] = [None] * len(self.xs)
        if isinstance(made, PathDraws):
            return _Numbers(nothing, [made.pick[:, of].t()] * len(self.xs), made.alpha[:, of].t())
        drawn = []
        for _ in range(count):
            noise = [_noise(x, s, made) for x, s in zip(self.xs, self.stds, strict=True)]
            drawn.append((noise, *_places(len(self.xs[0]), len(self.pool[0]), self.xs[0].dtype, made)))
        noises, picks, alphas = zip(*drawn, strict=True)
        noise = [None if e[0] is None else torch.stack(e) for e in zip(*noises, strict=True)]
        return _Numbers(noise, [torch.stack(picks)] * len(self.xs), torch.stack(alphas))

    def _rows(
        self,
        forward: Forward,
        at: tuple[Tensor, ...],
        ends: list[Tensor],
        begins: list[Tensor],
        rows: Tensor,
        which: Tensor,
    ) -> tuple[tuple[Tensor, ...], Tensor | None, tuple[int, ...]]:
        """Maps (R * K, ...), deltas (R * K,) and tensors per layer, at points (R, ...) of the samples rows (R,)."""
        got, targets = gradients(forward, at, rows, wrt=self.wrt), forward.target.count
        maps = got.grads
        if self.multiply:  # (R, ...) differences beside the gradients of K targets
            read = [repeated(_read(forward, p, rows, self.wrt), targets) for p in (ends, begins)]
            maps = tuple(credit(e - b, g) for e, b, g in zip(*read, maps))
        check_rows(maps, len(rows) * targets)
        if self.known is None:
            return maps, None, got.counts
        end, begin = (
            _scores(forward, p, rows, scores, which) for p, scores in zip((ends, begins), self.known, strict=True)
        )
        apart = [m.reshape(len(end), -1) for m in maps]  # also where a layer has several rows per sample
        return maps, shared_error(forward, completeness_error(apart, end, begin)), got.counts


def _known_scores(
    forward: Forward, xs: Sequence[Tensor], pool: Sequence[Tensor], stds: Sequence[float], chunk: int | None
) -> tuple[Tensor | None, Tensor | None]:
    """The scores at the ends and at the beginnings of the paths, where they are those of the samples on their own.

    Without noise a path ends at the sample, and with one baseline all begin at it: other methods need these, too.
    """
    alike = all(bool((b == b[:1]).all()) for b in pool)
    one = [b[:1].expand_as(x).contiguous() for b, x in zip(pool, xs, strict=True)] if alike else None
    end = None if any(stds) else batch_scores(forward, xs, chunk)
    return end, None if one is None else batch_scores(forward, one, chunk)


def _scores(forward: Forward, at: Sequence[Tensor], rows: Tensor, known: Tensor | None, which: Tensor) -> Tensor:
    """The scores (R * K,) of rows, looked up where those of all samples and targets are known: of the targets which."""
    if known is None:
        return forward.scores(at, rows)
    table = known.reshape(forward.n, -1)  # (N, all targets)
    return table.index_select(0, rows).index_select(1, which.to(rows.device)).reshape(-1)


def _noise(x: Tensor, std: float, generator: torch.Generator) -> Tensor | None:
    if not std:
        return None
    wide, device = accumulation_dtype(x.dtype), generator.device
    return std * torch.randn(x.shape, generator=generator, dtype=wide, device=device).to(x)


def _places(samples: int, size: int, dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a row of `size` baselines and a place on the path for each sample."""
    pick = torch.randint(size, (samples,), generator=generator, device=generator.device)
    wide = accumulation_dtype(dtype)  # half precision: the same places, rounded
    return pick, torch.rand(samples, generator=generator, dtype=wide, device=generator.device).to(dtype)


@dataclass(frozen=True)
class _Numbers:
    """Random numbers of some draws.

    Attributes:
        noise: per input, (draws, N, ...) or None.
        picks: per input, which of its baselines, (draws, N): the same row for all but in Captum's draws.
        alpha: places on the path, (draws, N).
    """

    noise: Sequence[Tensor | None]
    picks: Sequence[Tensor]
    alpha: Tensor


def _made(
    xs: Sequence[Tensor], pool: Sequence[Tensor], numbers: _Numbers, draws: Draws, here: Tensor
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Rows of the draws and their companions: noisy inputs, baselines, places on the path, (R, ...) each.

    Companion c of draw k of sample i is row (k * companions + c) * N + i; those of `here` (R,) are made. Antithetic:
    the noise with the other sign, the place from the other end, the baseline from the other half of the pool.
    Stratified into s: places a part of the path apart, baselines a part of the pool apart, each part of the one beside
    another part of the other.
    """
    device, n, runs = xs[0].device, len(xs[0]), draws.companions
    draw, run, sample = here // (n * runs), here // n % runs, here % n
    alpha = numbers.alpha.to(device)[draw, sample]
    if draws.stratified:
        step = _stride(runs)
        alpha = (alpha + torch.tensor([c * step % runs / runs for c in range(runs)], device=device).to(alpha)[run]) % 1
    elif draws.antithetic:
        alpha = torch.where(run == 1, 1 - alpha, alpha)
    noisy, starts = [], []
    for x, b, e, pick in zip(xs, pool, numbers.noise, numbers.picks, strict=True):
        rows = x.index_select(0, sample)
        if e is not None:
            noise = e[draw, sample]
            rows = rows + torch.where((run % 2 == 1).reshape(-1, *(1,) * (x.ndim - 1)), -noise, noise)
        noisy.append(rows)
        moved = torch.tensor([c * len(b) // runs for c in range(runs)], device=b.device)[run.to(b.device)]
        starts.append(b.index_select(0, (pick.to(b.device)[draw, sample] + moved) % len(b)))
    return noisy, starts, alpha


def _stride(strata: int) -> int:
    """How many parts of the path lie between neighbours in the pool: from eight on about the golden section of all."""
    if strata < 8:
        return 1
    return min(
        (s for s in range(1, strata) if math.gcd(s, strata) == 1), key=lambda s: abs(s / strata - (5**0.5 - 1) / 2)
    )


def _read(forward: Forward, at: Sequence[Tensor], rows: Tensor, wrt: Sequence[Layer] | None) -> tuple[Tensor, ...]:
    """The inputs themselves, or the layers' tensors for them."""
    return tuple(at) if wrt is None else layer_tensors(forward, at, rows, wrt)


@register(
    "gradient_shap",
    aliases=("gradshap", "expected_gradients"),
    baselines="distribution",
    reference="Erion et al. 2019, arXiv:1906.10670",
    defaults=PAIRS,
    shares_targets=True,
    shares_tolerance=True,
    compiles=True,
    game="aumann_shapley",
    cost="n forward, n backward",
    axioms=("completeness", "linearity", "dummy", "symmetry", "implementation invariance"),
    assumes="baselines from the data",
)
class GradientShap(DrawsAhead, MultipliesByInputs, GradientAttribution):
    """Expected gradients over random baselines and random points of the path.

    Args:
        forward_func: model or callable.
        multiply_by_inputs: multiply by (input - baseline), the default.

    Example:
        baselines = torch.zeros(5, 3, 24, 24)  # a row for each baseline that may be drawn
        maps = GradientShap(model).attribute(x, baselines, n_samples=20, stdevs=0.1, target=3, seed=0)
        maps.shape  # -> (2, 3, 24, 24)
    """

    @with_delta
    def attribute(
        self,
        inputs: InputsT,
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        *,
        antithetic: bool = False,
        stratified: bool | int = False,
        tol: float | None = None,
        max_samples: int = 1000,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT | tuple[InputsT, Tensor]:
        """Expected gradients.

        Args:
            inputs: tensor or tuple of tensors, batch first, floating point.
            baselines: the distribution: tensor (n_baselines, ...), a tuple of these (row i of all belongs together), or
                a function `f(inputs)` or `f()` returning one.
            n_samples: draws per sample.
            stdevs: standard deviation of noise on the inputs; a tuple for several inputs.
            target: see `core.target.as_target`.
            additional_forward_args: further positional arguments of the model.
            return_convergence_delta: also return the delta of every draw (N * n_samples,), sample by sample; with
                `tol`, the mean over each sample's draws (N,).
            antithetic: follow each draw by its mirror image: the noise with the other sign, the point of the path from
                its other end, a baseline from the other half (n_samples counts pairs). The expectation is the same.
            stratified: draw in fours, from each quarter of the path and of the baselines (n_samples counts fours). A
                number: draw in sets of so many, from as many parts of both (n_samples counts sets), which has less
                variance at the same cost the more parts there are, most of all from the number of baselines on. One
                set has no estimate of its error (infinite); give two or more where it matters.
            tol: go on, n_samples draws at a time, until each sample's map has, with 90 % confidence, a relative L2
                error below this (`attr/shared/average.py`). What was reached is reported (`core.report`: n_draws,
                map_error, standard_error), without a tolerance as well.
            max_samples: at most so many draws (pairs, fours); a warning says when tol was not reached.
            seed: seed of the draws. None: decided by `torch.manual_seed`; the global state is left as it was.
            generator: draw from this generator instead (it is advanced).
            batch_size: rows per pass; None = automatic.
            progress: None = a bar for long work, True, False.
        """
        draws = Draws(n_samples, tol, max_samples, antithetic, stratified)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            maps, delta, _ = expected_gradients(
                forward,
                xs,
                baseline_pool(baselines, inputs, xs),
                draws,
                stdevs=stdevs,
                generator=generator if isinstance(generator, PathDraws) else make_generator(seed, generator),
                seeded=seed is not None or generator is not None,
                multiply=self._multiply_by_inputs,
                deltas=return_convergence_delta,
                chunk=check_chunk("batch_size", batch_size),
                progress=progress,
            )
            return like(inputs, maps) if delta is None else (like(inputs, maps), delta)
