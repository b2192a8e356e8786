"""NoiseTunnel: average a method over noisy copies of the input.

smoothgrad: mean of the maps (Smilkov et al. 2017, arXiv:1706.03825). smoothgrad_sq: mean of their squares, without sign
(Hooker et al. 2019, arXiv:1806.10758). vargrad: their variance (Adebayo et al. 2018, arXiv:1810.03292).

How many copies? Those that bring the error of the averaged map below `tol`, for each sample. Around a path method, a
copy need not have an exact integral: with the nodes shifted at random in every copy, the mean over copies tends to the
exact one for any n_steps, and its standard error covers the path as well, so few steps and many copies are best.
All copies and steps of a group form one list of rows for the inner method, which cuts it into chunks.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from interp_plugins.attr.ensembles.inner_method import Folding, Inner, expanded, for_copies
from interp_plugins.attr.shared.average import Average, Averages, Draws, report_reached, rounds
from interp_plugins.attr.shared.base import Attribution, InternalAttribution
from interp_plugins.attr.shared.defaults import path_defaults
from interp_plugins.attr.shared.draws import as_stdevs
from interp_plugins.attr.shared.lookups import at_lookups, has_ids
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError, InputTypeError, unknown
from interp_plugins.core.forward import Call
from interp_plugins.core.guard import frozen
from interp_plugins.core.layers import AtLayer, NoisyAt, resolve_layer
from interp_plugins.core.multi_target import Unconverged, each_target
from interp_plugins.core.random import make_generator
from interp_plugins.core.registry import register
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import accumulation_dtype, as_tuple, check_inputs, describe, is_float, like

NT_TYPES = ("smoothgrad", "smoothgrad_sq", "vargrad")
_FEW_STEPS = 5  # of a path per noisy copy, where copies go on to a tolerance: their errors average out
_GROUP_ELEMENTS = 2**24  # elements of noisy input handed to the inner method at a time; it chunks on its own


def noise_tunnel_defaults(inputs: tuple[Tensor, ...], spec: InputSpec) -> Mapping[str, Any]:
    """What `explain` sets: squares of ten maps, noise of 15 % of each input's range, few steps (errors average out)."""
    return {
        "nt_type": "smoothgrad_sq",
        "nt_samples": 10,
        "stdevs": (None,) * len(inputs),
        "n_steps": 20,
        **path_defaults(inputs, spec),
    }


@register(
    "noise_tunnel",
    aliases=("nt",),
    reference="Smilkov et al. 2017, arXiv:1706.03825",
    defaults=noise_tunnel_defaults,
)
class NoiseTunnel(Attribution):
    """A method made of another method, averaged over noise.

    Args:
        attribution_method: any object with `attribute(inputs, ...)`: ours, Captum's, or your own.

    Example:
        smooth = NoiseTunnel(IntegratedGradients(model)).attribute(
            x, nt_type="smoothgrad_sq", nt_samples=4, stdevs=0.1, target=3, n_steps=10, seed=0
        )
        smooth.shape  # -> (2, 3, 24, 24)
    """

    def __init__(self, attribution_method: Any):
        if not callable(getattr(attribution_method, "attribute", None)):
            raise InputTypeError(
                f"NoiseTunnel needs a method object with `attribute(inputs, ...)`, got {describe(attribution_method)}. "
                "For example NoiseTunnel(IntegratedGradients(model))."
            )
        self.attribution_method = attribution_method
        super().__init__(getattr(attribution_method, "forward_func", attribution_method.attribute))

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the inner method's maps multiply by the inputs."""
        return bool(getattr(self.attribution_method, "multiplies_by_inputs", False))

    @property
    def shares_targets(self) -> bool:  # type: ignore[override]
        """That of the inner method: the noise is drawn once for all targets."""
        return bool(getattr(self.attribution_method, "shares_targets", False))

    @property
    def shares_tolerance(self) -> bool:  # type: ignore[override]
        """As `shares_targets`: passes are shared by the targets whose maps have not settled yet."""
        return self.shares_targets

    @property
    def compiles(self) -> bool:  # type: ignore[override]
        """That of the inner method."""
        return bool(getattr(self.attribution_method, "compiles", False))

    @property
    def embeds_ids(self) -> bool:  # type: ignore[override]
        """That of the inner method: then the noise goes to the rows that ids are looked up as."""
        return bool(getattr(self.attribution_method, "embeds_ids", False))

    def has_convergence_delta(self) -> bool:
        """Whether the inner method gives a completeness error."""
        inner = getattr(self.attribution_method, "has_convergence_delta", None)
        return bool(inner()) if inner is not None else False

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: float | tuple[float | None, ...] | None = 1.0,
        draw_baseline_from_distrib: bool = False,
        *,
        antithetic: bool = False,
        tol: float | None = None,
        max_samples: int = 1000,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        noise_at: Any = "input",
        progress: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Average the inner method over noisy inputs.

        Args:
            inputs: tensor or tuple of tensors, batch first. Integer inputs get their noise where gradient methods
                look them up, on the rows of the table; other methods leave them as they are.
            nt_type: "smoothgrad", "smoothgrad_sq" or "vargrad".
            nt_samples: noisy copies per sample.
            nt_samples_batch_size: copies handed to the inner method at a time; None = automatic. The noise, and so the
                result, does not depend on it.
            stdevs: standard deviation of the noise in the input's units (for ids: in those of the embedding); a tuple
                for several inputs. The paper advises 10 to 20 % of the input's range; None takes 15 %.
            draw_baseline_from_distrib: draw a baseline for each copy from the rows of `baselines`, the same row for
                all inputs, so that baselines of several inputs stay paired.
            antithetic: draw the copies in pairs, x + noise and x - noise: the same expectation, less variance where the
                maps are near linear in the noise. nt_samples and max_samples are rounded up to whole pairs. Not for
                vargrad, which is about single copies.
            tol: go on, nt_samples copies at a time, until each sample's averaged map has, with 90 % confidence, a
                relative L2 error below this (`attr/shared/average.py`). smoothgrad around IntegratedGradients shifts
                the nodes of each copy at random, and n_steps is 5 where none is given. What was reached is reported
                (`core.report`: n_draws, map_error, standard_error), without a tolerance as well.
            max_samples: at most so many copies; a warning says when tol was not reached.
            seed: seed of the noise. None: decided by `torch.manual_seed`; the global state is left as it was.
            generator: draw from this generator instead (it is advanced).
            noise_at: "input"; "layer": at the layer of a layer method (for token inputs, which cannot carry noise); or
                any layer (module, dotted name, `core.layers.Layer`), for any method that has a `forward_func`.
            progress: handed to the inner method, whose bar counts the work: None = for long work, True, False.
            **kwargs: the inner method's arguments. Those with a row per sample follow their samples.

        Returns:
            What the inner method returns, averaged; with `return_convergence_delta`, the deltas of all copies
            (N * nt_samples,), sample by sample; with `tol`, their mean (N,).

        Raises:
            InputError: an unknown nt_type, or arguments that do not go together.
        """
        if nt_type not in NT_TYPES:
            raise unknown("nt_type", nt_type, NT_TYPES)
        check_chunk("nt_samples", nt_samples)
        draws = Draws(nt_samples, tol, max_samples, antithetic)
        if antithetic and nt_type == "vargrad":
            raise InputError("vargrad is the variance of single copies, and antithetic copies are not independent.")
        smoothing = _Smoothing(
            nt_type=nt_type,
            draws=draws,
            group=check_chunk("nt_samples_batch_size", nt_samples_batch_size),
            stdevs=stdevs,
            draw_baseline=draw_baseline_from_distrib,
            delta=bool(kwargs.get("return_convergence_delta")) and self.has_convergence_delta(),
            generator=make_generator(seed, generator),
        )
        method = self.attribution_method
        if progress is not None and "progress" in inspect.signature(method.attribute).parameters:
            kwargs["progress"] = progress
        if isinstance(noise_at, str) and noise_at == "layer" and not hasattr(method, "layer"):
            raise InputError(
                f"noise_at='layer' needs a method at a layer (such as LayerIntegratedGradients), not "
                f"{type(method).__name__}. Use noise_at='input', or name a layer."
            )
        with frozen(self.forward_func):  # the inner method need not be one of ours
            if isinstance(noise_at, str) and noise_at == "input":
                if self.embeds_ids and has_ids(inputs):
                    return _average_at_lookups(smoothing, method, inputs, kwargs)
                return smoothing.average(method, inputs, kwargs)
            if isinstance(noise_at, str) and noise_at == "layer":
                if hasattr(method, "at_layer"):
                    at = method.at_layer(inputs, **kwargs)
                    return at.formatted(smoothing.average(at.method, at.inputs, at.kwargs))
                noise_at = method.layer
            return _average_at(smoothing, method, noise_at, inputs, kwargs)


def _average_at_lookups(smoothing: _Smoothing, method: Any, inputs: Any, kwargs: dict[str, Any]) -> Any:
    """Average with noise on float inputs and on the rows of ids; what is averaged is one number per id."""
    given = {**kwargs, "stdevs": smoothing.stdevs}
    problem = at_lookups(method, inputs, given)
    rest = {k: v for k, v in problem.kwargs.items() if k != "stdevs"}
    return replace(smoothing, stdevs=problem.kwargs["stdevs"]).average(Folding(problem), problem.inputs, rest)


def _average_at(smoothing: _Smoothing, method: Any, layer: Any, inputs: Any, kwargs: Mapping[str, Any]) -> Any:
    """Average with noise on a layer's tensors while the inputs stay as they are."""
    func = method.forward_func
    bound = func if isinstance(func, Call) else Call(func)
    sites = [resolve_layer(func, one) for one in (layer if isinstance(layer, list) else [layer])]
    args = kwargs.get("additional_forward_args")
    extra = () if args is None else as_tuple(args)
    at = AtLayer(bound.func, sites)
    tensors = at.encode(*check_inputs(inputs), *extra, **bound.kwargs)
    noisy = copy.copy(method)
    noisy.forward_func = Call(NoisyAt(at), bound.kwargs, bound.output)
    if isinstance(noisy, InternalAttribution):
        noisy.layer = (
            [resolve_layer(func, one) for one in noisy.layer] if isinstance(noisy.layer, list) else noisy.layer
        )
    return smoothing.average(noisy, inputs, {**kwargs, "additional_forward_args": extra}, tensors)


@dataclass(frozen=True)
class _Smoothing:
    """How to draw the copies and what to make of their maps."""

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
        xs = check_inputs(inputs)
        stdevs = as_stdevs(self.stdevs, at or xs)
        n, pair = xs[0].shape[0], self.draws.companions
        targets = each_target(kwargs.get("target"))
        group = self.group or max(1, _GROUP_ELEMENTS // (n * sum(x[0].numel() for x in xs)))
        # Nodes are not shifted for squares: those of inexact maps are too large on average, however many they are.
        shift = self.draws.tol is not None and self.nt_type == "smoothgrad"
        inner = Inner.of(method, xs, kwargs, shift=shift, pooled=not self.draw_baseline)
        if inner.draws and inner.ahead is None:
            group = pair
        if inner.draws:  # copy by copy from the one stream, so that the seed decides, not the group
            kwargs = {**kwargs, "generator": self.generator}
        if inner.shift:
            kwargs = {"n_steps": _FEW_STEPS, **kwargs}
        count = n * len(targets)  # maps: a sample's targets stand together
        averages, shortfall = _KINDS[self.nt_type](count), Average(count)
        deltas: list[Tensor] = []
        layout: Any = None
        sizes = [-(-m // pair) for m in (self.draws.n_samples, self.draws.max_samples)]
        for due, unsettled in rounds(averages.map_error, count, self.draws.tol, *sizes):
            asked = Unconverged.of(unsettled, targets)
            active = asked.samples
            given = {**kwargs, "target": asked.target}
            for first in range(0, due, max(1, group // pair)):
                draws = min(max(1, group // pair), due - first)
                noisy, drawn = self._draw(xs, stdevs, given, draws, at, active, inner)
                result = for_copies(method, active.repeat(draws * pair), n).attribute(like(inputs, noisy), **drawn)
                maps, delta = result if self.delta else (result, None)
                leaves, layout = pytree.tree_flatten(maps)
                averages.add([asked.pick(m, draws * pair) for m in leaves], draws, pair, unsettled)
                if delta is not None:
                    deltas.append(asked.pick(delta, draws * pair).reshape(draws * pair, len(unsettled), -1))
                    shortfall.add(deltas[-1], unsettled)
        error = pytree.tree_unflatten(averages.standard_error(), layout)
        report_reached(pair * averages.count, averages.map_error(), error, self.draws.tol, "copies")
        maps = pytree.tree_unflatten(averages.result(), layout)
        if not self.delta:
            return maps
        each = (
            shortfall.mean.reshape(-1) if self.draws.tol is not None else torch.cat(deltas).transpose(0, 1).reshape(-1)
        )
        return maps, each

    def _draw(
        self,
        xs: tuple[Tensor, ...],
        stdevs: tuple[float, ...],
        kwargs: Mapping[str, Any],
        draws: int,
        at: tuple[Tensor, ...],
        samples: Tensor,
        inner: Inner,
    ) -> tuple[list[Tensor], dict[str, Any]]:
        """Noisy inputs (copies * samples, ...) and the arguments that go with them.

        The numbers are drawn copy by copy for the whole batch, whatever the group and whoever has settled.
        """
        n, pair = xs[0].shape[0], self.draws.companions
        rows = samples.repeat(draws * pair)
        here = torch.cat([samples + k * n for k in range(draws * pair)])
        drawn = expanded(dict(kwargs), rows, n, keep=("baselines",) if inner.pooled else ())
        noisy: list[list[Tensor]] = [[] for _ in at or xs]
        picks, offsets, numbers = [], [], []
        pool = kwargs.get("baselines") if self.draw_baseline else None
        for _ in range(draws):
            for column, x, std in zip(noisy, at or xs, stdevs, strict=True):
                clean = torch.zeros_like(x) if at else x
                noise = std * self._normal(x) if is_float(x) else torch.zeros_like(x)
                column.extend([clean + noise, clean - noise][:pair])
            if pool is not None:
                size = as_tuple(pool)[0].shape[0]
                for _ in range(pair):
                    picks.append(torch.randint(size, (n,), generator=self.generator, device=self.generator.device))
            if inner.shift:
                offset = torch.rand(n, generator=self.generator, device=self.generator.device)
                offsets.extend([offset, 1 - offset][:pair])
            if inner.ahead is not None:
                numbers.append(inner.ahead(self.generator, n * pair, xs[0].dtype))
        if pool is not None:
            pick = torch.cat(picks).cpu()[here]
            drawn["baselines"] = like(pool, [b.index_select(0, pick.to(b.device)) for b in as_tuple(pool)])
        if inner.shift:
            drawn["offsets"] = torch.cat(offsets).cpu()[here]
        if numbers:
            drawn["generator"] = type(numbers[0]).joined(numbers).at(here)
        joined = [torch.cat(column).index_select(0, here.to(column[0].device)) for column in noisy]
        if not at:
            return joined, drawn
        drawn["additional_forward_args"] = (*drawn["additional_forward_args"], *joined)
        return [x.index_select(0, rows.to(x.device)) for x in xs], drawn

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
