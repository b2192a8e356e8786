"""Infidelity: how far a map, times a perturbation, is from what the perturbation does to the score.

Reference: Yeh et al., On the (In)fidelity and Sensitivity of Explanations, 2019, arXiv:1901.09392, definition 2.1: the
mean over perturbations I of (I . a - (f(x) - f(x - I)))^2. `infidelity` has Captum's signature and numbers; the metric
of that name, `map_infidelity`, makes its own perturbations, the same for every map. For maps that are local (gradients)
I is any change of the input; for maps that hold the input as a factor it is a set of elements that are removed.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.baseline import as_baselines
from interp_plugins.core.batching import chunks, progress_bar
from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.core.forward import Forward, one_per_row
from interp_plugins.core.global_random import seeded_now
from interp_plugins.core.guard import frozen
from interp_plugins.core.random import drawing_from, make_generator
from interp_plugins.core.report import note
from interp_plugins.core.target import as_target
from interp_plugins.core.tensors import Maps, as_tuple, check_inputs, describe, own
from interp_plugins.metrics.rows import as_rows, row_sum

Perturb = Callable[..., tuple[Maps, Maps]]


def infidelity(
    forward_func: Callable[..., Any],
    perturb_func: Perturb,
    inputs: Maps,
    attributions: Maps,
    baselines: Any = None,
    additional_forward_args: Any = None,
    target: Any = None,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    normalize: bool = False,
    *,
    seed: int | None = None,
    progress: bool | None = None,
) -> Tensor:
    """Mean of (I . a - (f(x) - f(x - I)))^2 over perturbations I that a function makes; small is good.

    Signature, defaults and numbers are those of `captum.metrics.infidelity`. The model is frozen meanwhile.

    Args:
        forward_func: an `nn.Module` or any callable.
        perturb_func: `f(inputs)`, or `f(inputs, baselines)` where baselines are given, -> (perturbations, perturbed
            inputs), both of the inputs' shapes. It gets each sample several times in a row (`repeat_interleave`), a
            single input as a tensor and several as a tuple. Under `infidelity_perturb_func_decorator` it returns the
            perturbed inputs alone.
        inputs: tensor or tuple of tensors, batch first.
        attributions: maps of the inputs' shapes.
        baselines: handed on to `perturb_func`; tensors with a row per sample are repeated as the inputs are.
        additional_forward_args: further arguments of the model.
        target: the score, as for a method's `attribute`.
        n_perturb_samples: perturbations of each sample.
        max_examples_per_batch: most rows that `perturb_func` gets at once; None: all. Rows per pass of the model follow
            the memory.
        normalize: put the factor on the map that makes the result smallest.
        seed: of what `perturb_func` draws; None: torch's global generator as it stands, which is left as it was.
        progress: show a progress bar; None: for work longer than two seconds.

    Returns:
        (N,) in the score's dtype, on its device.

    Raises:
        InputError: no perturbations, maps of other shapes, or a `perturb_func` that returns something else.

    Example:
        def perturb(inputs):
            noise = 0.1 * torch.randn_like(inputs)
            return noise, inputs - noise

        infidelity(model, perturb, x, exp.attribution, target=3, seed=0).shape  # -> (2,)
    """
    check_number(n_perturb_samples)
    maps = as_tuple(attributions)
    with frozen(forward_func, seed=seed):
        generator = make_generator(seed)
        seeded_now(seed is not None)
        xs = check_inputs(inputs)
        check_maps(maps, xs)
        n = xs[0].shape[0]
        forward = Forward.of(forward_func, n, as_target(target, n), additional_forward_args)
        forward.samples = xs
        clean = _scores(forward, xs, torch.arange(n, device=xs[0].device))
        sums: list[Tensor] = []
        with progress_bar(n_perturb_samples, "infidelity", progress) as bar:
            for count in _counts(n_perturb_samples, n, max_examples_per_batch):
                with drawing_from(generator):
                    perturbations, perturbed = _perturbed(perturb_func, xs, baselines, count)
                rows = torch.arange(n, device=xs[0].device).repeat_interleave(count)
                moved = clean.double()[rows] - _scores(forward, perturbed, rows).double()
                predicted = _products(perturbations, maps, rows)
                sums = added(sums, predicted.reshape(n, count), moved.reshape(n, count))
                bar.update(count)
        note(forward_passes=forward.passes["forward"])
    return (sum_of_squares(sums, normalize) / n_perturb_samples).to(clean.dtype)


def check_number(n: Any) -> None:
    """Refuse a number of perturbations that is no positive int."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"n_perturb_samples must be a positive int, got {n!r}.")


def check_maps(maps: tuple[Any, ...], xs: tuple[Tensor, ...], advice: str = "") -> None:
    """Refuse maps of other shapes than the inputs', and say what to do."""
    shapes = [tuple(getattr(m, "shape", ())) for m in maps]
    if shapes != [tuple(x.shape) for x in xs]:
        raise InputError(
            f"Inputs and corresponding attributions must have matching shapes: maps of {shapes} for inputs of "
            f"{[tuple(x.shape) for x in xs]}. A perturbation has a value for each element of the input."
            f"{advice}"
        )


def _counts(n_perturb_samples: int, n: int, most: int | None) -> Iterator[int]:
    """Perturbations of each sample that are made at once."""
    if most is not None and not n <= most <= n * n_perturb_samples:
        warnings.warn(
            f"max_examples_per_batch is {most}, and is used as if it lay between the {n} samples and their "
            f"{n * n_perturb_samples} rows.",
            InterpWarning,
            stacklevel=3,
        )
    step = n_perturb_samples if most is None else min(max(most // n, 1), n_perturb_samples)
    for start in range(0, n_perturb_samples, step):
        yield min(step, n_perturb_samples - start)


def _perturbed(
    perturb_func: Perturb, xs: tuple[Tensor, ...], baselines: Any, count: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Perturbations and perturbed inputs, each sample `count` times in a row."""
    many = [x.repeat_interleave(count, 0) for x in xs]
    given: list[Any] = [many[0] if len(xs) == 1 else tuple(many)]
    if baselines is not None:
        repeated = [
            b.repeat_interleave(count, 0) if isinstance(b, Tensor) and b.shape[:1] == x.shape[:1] != (1,) else b
            for b, x in zip(as_tuple(baselines), xs)
        ]
        given.append(repeated[0] if len(xs) == 1 else tuple(repeated))
    found = perturb_func(*given)
    if not isinstance(found, tuple) or len(found) != 2:
        raise InputError(
            f"perturb_func must return (perturbations, perturbed inputs), got {describe(found)}. One that returns the "
            "perturbed inputs alone needs @infidelity_perturb_func_decorator(multiply_by_inputs=...)."
        )
    both = tuple(tuple(own(t) for t in as_tuple(part)) for part in found)
    for name, part in zip(("perturbations", "perturbed inputs"), both):
        shapes = [tuple(t.shape) for t in part]
        if shapes != [tuple(x.shape) for x in many]:
            raise InputError(
                f"Perturbed input and corresponding perturbation must have the same shape: the {name} have {shapes}, "
                f"expected {[tuple(x.shape) for x in many]}."
            )
    return both[0], both[1]


def _scores(forward: Forward, inputs: tuple[Tensor, ...], rows: Tensor) -> Tensor:
    """Scores of rows (R,), in the model's dtype."""

    def work(start: int, stop: int) -> Tensor:
        part = [x[start:stop] for x in inputs]
        return one_per_row(forward.changed(part, rows[start:stop]), stop - start).detach()

    size = forward.rows_per_pass(forward.samples)
    return torch.cat([found for _, _, found in chunks(len(rows), size, work)])


def _products(perturbations: tuple[Tensor, ...], maps: tuple[Tensor, ...], rows: Tensor) -> Tensor:
    """I . a for each row."""
    moved, weights = as_rows(perturbations, "perturbations"), as_rows(maps)
    return row_sum(moved * weights[rows.to(weights.device)].to(moved))


def added(sums: list[Tensor], predicted: Tensor, moved: Tensor) -> list[Tensor]:
    """Sums of (p - m)^2, p^2, p m, m^2 over more perturbations: each (N,)."""
    more = [(predicted - moved).square(), predicted.square(), predicted * moved, moved.square()]
    return [row_sum(m) + (sums[k] if sums else 0) for k, m in enumerate(more)]


def sum_of_squares(sums: list[Tensor], normalize: bool) -> Tensor:
    """The sum of (b p - m)^2 for b = 1, or for the best b."""
    squares, pp, pm, mm = sums
    if not normalize:
        return squares
    best = torch.where(pp == 0, 0.0, pm / pp)
    return (mm - best * pm).clamp_min(0.0)


def infidelity_perturb_func_decorator(multiply_by_inputs: bool = True) -> Callable[[Callable[..., Maps]], Perturb]:
    """Decorator for functions that return perturbed inputs alone: the perturbations are found from them.

    Args:
        multiply_by_inputs: whether the maps hold the input as a factor (input times gradient, integrated gradients,
            Shapley values). Then the perturbation is the share of (input - baseline) that is gone; else it is the
            change itself. An element that equals its baseline has no share to lose: it counts as the change, and a
            warning says so.

    Example:
        @infidelity_perturb_func_decorator(multiply_by_inputs=False)
        def noisy(inputs):
            return inputs - 0.1 * torch.randn_like(inputs)

        infidelity(model, noisy, x, exp.attribution, target=3, seed=0).shape  # -> (2,)
    """

    def decorated(perturb_func: Callable[..., Maps]) -> Perturb:
        @functools.wraps(perturb_func)
        def perturb(inputs: Maps, baselines: Any = None) -> tuple[Maps, Maps]:
            found = perturb_func(inputs) if baselines is None else perturb_func(inputs, baselines)
            xs, moved = as_tuple(inputs), as_tuple(found)
            changes = [x - p for x, p in zip(xs, moved)]
            if multiply_by_inputs:
                references = as_baselines(baselines, xs) if baselines is not None else [0] * len(xs)
                changes = [_shares(c, x - b) for c, x, b in zip(changes, xs, references)]
            return tuple(changes), tuple(moved)

        return perturb

    return decorated


def _shares(changes: Tensor, whole: Tensor) -> Tensor:
    """Changes as shares of what can be lost."""
    nothing = whole == 0
    if bool((nothing & (changes != 0)).any()):
        warnings.warn(
            "perturb_func changes elements that equal their baseline, whose change is no share of (input - baseline): "
            "an exact map does not score 0. Leave them as they are, or use multiply_by_inputs=False with maps that do "
            "not hold the input as a factor.",
            InterpWarning,
            stacklevel=3,
        )
    return changes / torch.where(nothing, torch.ones_like(whole), whole)
