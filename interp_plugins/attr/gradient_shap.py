"""GradientShap, also known as expected gradients (Erion et al. 2019, arXiv:1906.10670).

    mean over draws of (x + noise - x') * dF/dx (x' + a (x + noise - x')),   a ~ U(0, 1), x' from the baselines

The primary and the layer variant are one loop: with a layer, the gradient and the difference are read there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.baseline import call_baseline
from ..core.batching import auto_chunk, check_chunk, chunks, progress_bar
from ..core.errors import InputError, InputTypeError
from ..core.forward import Forward, gradients
from ..core.plan import planned
from ..core.random import make_generator
from ..core.registry import register
from ..core.several import repeated
from ..core.site import Layer, run_and_read
from ..core.tensors import as_tuple, check_float, describe, like, own, per_sample_sum
from .base import GradientAttribution, Multiplying, prepared
from .noise_tunnel import _stdevs
from .path import RowSum, points, targets_of


def baseline_pool(baselines: Any, inputs: Any, xs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The distribution to draw baselines from: (n_baselines, ...) per input, the rows of all inputs paired.

    Raises:
        InputTypeError, InputError: no tensors, other shapes than the inputs', or different numbers of rows.
    """
    if callable(baselines) and not isinstance(baselines, Tensor):
        baselines = call_baseline(baselines, inputs)
    many = as_tuple(baselines)
    if len(many) != len(xs):
        raise InputError(f"baselines has {len(many)} tensors for {len(xs)} inputs; give one per input.")
    pool = []
    for i, (b, x) in enumerate(zip(many, xs, strict=True)):
        if not isinstance(b, Tensor):
            raise InputTypeError(
                f"Baselines distribution has to be provided in a form of a torch.Tensor: baselines[{i}] is "
                f"{describe(b)}. "
                "Give a tensor (n_baselines, ...) such as a batch of training data, or a function that returns one."
            )
        b = own(b).to(x)
        if b.ndim != x.ndim or b.shape[1:] != x.shape[1:] or b.shape[0] == 0:
            raise InputError(
                f"baselines[{i}] has shape {tuple(b.shape)}; expected "
                f"(n_baselines, {', '.join(map(str, x.shape[1:]))})."
            )
        pool.append(b)
    if len({b.shape[0] for b in pool}) > 1:
        raise InputError(
            f"The baselines have {[b.shape[0] for b in pool]} rows; row i of all inputs belongs together, so the "
            "numbers must be equal."
        )
    return tuple(pool)


def expected_gradients(
    forward: Forward,
    xs: tuple[Tensor, ...],
    pool: tuple[Tensor, ...],
    *,
    n_samples: int,
    stdevs: Any,
    generator: torch.Generator,
    multiply: bool,
    wrt: Sequence[Layer] | None = None,
    deltas: bool = False,
    chunk: int | None = None,
    progress: bool | None = None,
) -> tuple[tuple[Tensor, ...], Tensor | None, tuple[int, ...]]:
    """Mean over the draws, the deltas (N * n_samples,) sample by sample if asked for, and tensors per layer.

    Random numbers are drawn draw by draw, so the result does not depend on chunk sizes; as many draws as fill a pass
    are held at a time.
    """
    stds = _stdevs(stdevs, xs)
    n, device, targets = xs[0].shape[0], xs[0].device, forward.target.count
    sums = RowSum(n * targets)
    kept: list[Tensor] = []
    counts: tuple[int, ...] = ()
    size = chunk or auto_chunk(list(xs))
    group = max(1, size // n)  # draws that fill a pass
    forward, wrt = planned(forward, xs, rows=n * n_samples, chunk=size, wrt=wrt)
    with progress_bar(n * n_samples, "gradients", progress) as bar:
        for first in range(0, n_samples, group):
            draws = [_draw(xs, pool, stds, generator) for _ in range(min(group, n_samples - first))]
            noisy, starts, alpha = (
                [torch.cat(column) for column in zip(*[d[0] for d in draws])],
                [torch.cat(column) for column in zip(*[d[1] for d in draws])],
                torch.cat([d[2] for d in draws]),
            )

            def work(lo: int, hi: int, noisy: Any = noisy, starts: Any = starts, alpha: Any = alpha) -> Any:
                here = torch.arange(lo, hi, device=device)
                rows = here % n
                got = gradients(forward, points(noisy, starts, here, alpha[lo:hi]), rows, wrt=wrt)
                maps, ends, begins = got.grads, [x[lo:hi] for x in noisy], [b[lo:hi] for b in starts]
                if multiply:
                    read = [repeated(_read(forward, at, rows, wrt), targets) for at in (ends, begins)]
                    maps = tuple((e - b) * g for e, b, g in zip(*read, maps))
                delta = None
                if deltas:
                    change = forward.scores(ends, rows) - forward.scores(begins, rows)
                    delta = per_sample_sum(maps).to(change.dtype) - change
                return targets_of(rows, targets), maps, delta, got.counts

            for _, _, (rows, maps, delta, counts) in chunks(n * len(draws), size, work, step=n, bar=bar):  # noqa: B007
                sums.add(maps, rows)
                if delta is not None:
                    kept.append(delta)
    means = tuple(t / n_samples for t in sums.result())
    return means, torch.cat(kept).reshape(n_samples, n * targets).t().reshape(-1) if deltas else None, counts


def _draw(
    xs: Sequence[Tensor], pool: Sequence[Tensor], stds: Sequence[float], generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """One draw for every sample: noisy inputs, baselines (the same row for all inputs), positions on the path."""
    n, rng, device = xs[0].shape[0], generator.device, xs[0].device
    noisy = [
        x + s * torch.randn(x.shape, generator=generator, dtype=x.dtype, device=rng).to(device) if s else x
        for x, s in zip(xs, stds)
    ]
    pick = torch.randint(pool[0].shape[0], (n,), generator=generator, device=rng).to(device)
    alpha = torch.rand(n, generator=generator, dtype=xs[0].dtype, device=rng).to(device)
    return noisy, [b.index_select(0, pick) for b in pool], alpha


def _read(forward: Forward, at: Sequence[Tensor], rows: Tensor, wrt: Sequence[Layer] | None) -> tuple[Tensor, ...]:
    """The inputs themselves, or the layers' tensors for them."""
    return tuple(at) if wrt is None else layer_tensors(forward, at, rows, wrt)


def layer_tensors(
    forward: Forward, at: Sequence[Tensor], rows: Tensor | None, layers: Sequence[Layer]
) -> tuple[Tensor, ...]:
    """The tensors of some layers for some rows, without gradient, flat over all layers."""
    with torch.no_grad():
        args, kwargs = forward.arguments(list(at), rows)
        forward.passes["forward"] += at[0].shape[0]
        _, found = run_and_read(forward.func, layers, *args, **kwargs)
    return tuple(t for tensors in found for t in tensors)


@register(
    "gradient_shap",
    aliases=("gradshap", "expected_gradients"),
    baselines="distribution",
    reference="Erion et al. 2019, arXiv:1906.10670",
)
class GradientShap(Multiplying, GradientAttribution):
    """Expected gradients over random baselines and random points of the path.

    Args:
        forward_func: model or callable.
        multiply_by_inputs: multiply by (input - baseline), the default.
    """

    shares_targets = True

    def has_convergence_delta(self) -> bool:
        """True."""
        return True

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Expected gradients.

        Args:
            inputs: tensor or tuple of tensors, batch first, floating point.
            baselines: the distribution: tensor (n_baselines, ...), a tuple of these (row i of all belongs together), or
                a function `f(inputs)` or `f()` returning one.
            n_samples: draws per sample.
            stdevs: standard deviation of noise on the inputs; a tuple for several inputs.
            target: see `core.target.as_target`.
            additional_forward_args: further positional arguments of the model.
            return_convergence_delta: also return the delta of every draw (N * n_samples,), sample by sample.
            seed: seed of the draws. None: decided by `torch.manual_seed`; the global state is left as it was.
            generator: draw from this generator instead (it is advanced).
            batch_size: rows per pass; None = automatic.
            progress: None = a bar for long work, True, False.
        """
        check_chunk("n_samples", n_samples)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            maps, delta, _ = expected_gradients(
                forward,
                xs,
                baseline_pool(baselines, inputs, xs),
                n_samples=n_samples,
                stdevs=stdevs,
                generator=make_generator(seed, generator),
                multiply=self._multiply_by_inputs,
                deltas=return_convergence_delta,
                chunk=check_chunk("batch_size", batch_size),
                progress=progress,
            )
            return (like(inputs, maps), delta) if return_convergence_delta else like(inputs, maps)
