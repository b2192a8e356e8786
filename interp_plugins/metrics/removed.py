"""One engine for all that removes parts of the input in the order of a map: which rows are asked, and their scores.

A row is a sample of which the first k features, in the map's order, have been replaced by the baseline ("deleting"), or
are all that is left of it. Features are single elements of the map, or elements with one number in `features`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.baseline import as_baselines, widened
from interp_plugins.core.batching import check_chunk, chunks
from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.features import MaskFeatures
from interp_plugins.core.forward import Forward, one_per_row
from interp_plugins.core.guard import frozen
from interp_plugins.core.random import check_seed
from interp_plugins.core.report import note
from interp_plugins.core.target import as_target
from interp_plugins.core.tensors import as_tuple, check_inputs, widest
from interp_plugins.metrics.masks import enlarged
from interp_plugins.metrics.ranking import descending
from interp_plugins.metrics.rows import as_rows, reduced

# What the engine takes beside the formula's own parameters.
OPTIONS = ("target", "additional_forward_args", "features", "reduce", "ties", "batch_size", "seed", "ids")


@dataclass(frozen=True)
class Removals:
    """Which rows are asked.

    Attributes:
        counts: int64 (N, M), how many features are removed (or kept) in row m of a sample.
        deleting: bool (M,), whether these are removed from the sample; else they are all that is kept.
        asked: bool (N, M), whether the row is asked at all.
    """

    counts: Tensor
    deleting: Tensor
    asked: Tensor


@dataclass(frozen=True)
class Removed:
    """What the model says of the rows.

    Attributes:
        scores: float64 (N, M); NaN where a row was not asked.
        plan: which rows they are.
        totals: int64 (N,), features per sample.
        maps: the maps as rows (N, D).
    """

    scores: Tensor
    plan: Removals
    totals: Tensor
    maps: Tensor


def removed(
    planner: Callable[[Tensor], Removals],
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    target: Any = None,
    additional_forward_args: Any = None,
    features: Any = None,
    reduce: str | None = None,
    ties: str = "random",
    batch_size: int | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
) -> Removed:
    """Scores of inputs without their first features, or with these alone; the model is frozen meanwhile.

    Args:
        planner: features per sample (N,) -> `Removals`.
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first, or an `Explanation`.
        attributions: one map per input; None: those of the `Explanation`.
        baselines: what replaces the input; None: those of the `Explanation`, or zeros.
        target: the score; None: the classes of the `Explanation`, or the model's only output.
        additional_forward_args: further arguments of the model.
        features: numbers of what goes together, int, broadcastable to the maps; None: each element alone.
        reduce: how channels become one value per place, whose elements go together; None: the maps as they are.
        ties: which of equal values goes first.
        batch_size: rows per pass.
        seed: of ties, and of models that draw random numbers.
        ids: numbers of the samples, int64 (N,), for ties.

    Raises:
        InputError: maps that do not fit the inputs, or an `Explanation` whose target is not known.
    """
    check_chunk("batch_size", batch_size)
    check_seed(seed)
    given, maps, baselines, target = _asked(inputs, attributions, baselines, target, reduce)
    with frozen(forward_func, seed=seed):
        xs = check_inputs(given)
        n = xs[0].shape[0]
        shapes = _fitting(maps, xs)
        references = as_baselines(baselines, xs, template=given)
        forward = Forward.of(forward_func, n, as_target(target, n), additional_forward_args)
        forward.samples = xs = widened(xs, references, forward.selected)
        ranks, totals = _ranks(maps, features, ties, seed, ids)
        plan = planner(totals)
        ranks = ranks.to(xs[0].device)
        where = plan.asked.T.nonzero()  # rows are numbered (step, sample)

        def work(start: int, stop: int) -> Tensor:
            steps, rows = where[start:stop, 0], where[start:stop, 1]
            counts, deleting = plan.counts[rows, steps].to(ranks.device), plan.deleting[steps].to(ranks.device)
            rows = rows.to(ranks.device)
            kept = (ranks[rows] < counts[:, None]) ^ deleting[:, None]
            parts = kept.split([shape.numel() for shape in shapes], dim=1)
            mixed = [
                torch.where(part.reshape(-1, *shape), x[rows], base[rows])
                for part, shape, x, base in zip(parts, shapes, xs, references)
            ]
            return one_per_row(forward.changed(mixed, rows), len(rows)).detach().cpu().double()

        per_pass = forward.rows_per_pass(xs, batch_size)
        found = torch.cat([scores for _, _, scores in chunks(len(where), per_pass, work)])
        note(forward_passes=forward.passes["forward"])
    scores = torch.full(plan.counts.shape, torch.nan, dtype=torch.float64)
    scores[where[:, 1], where[:, 0]] = found
    return Removed(scores, plan, totals, as_rows(maps))


def _asked(inputs: Any, attributions: Any, baselines: Any, target: Any, reduce: str | None) -> tuple[Any, ...]:
    """Inputs, maps as a tuple, baselines and target; of an explanation what it knows."""
    exp = inputs if isinstance(inputs, Explanation) else None
    if exp is None:
        if attributions is None:
            raise InputError("attributions are missing: give the maps of these inputs, or an Explanation as inputs.")
        maps = as_tuple(attributions)
        axes = [1 if getattr(one, "ndim", 0) > 2 else None for one in maps]
    else:
        many = as_tuple(exp.inputs)
        specs = [exp.spec.of_input(i, x) for i, x in enumerate(many)]
        axes = [x.ndim - 1 if s.kind == "text" and x.ndim > 2 else s.channel_axis(x.ndim) for s, x in zip(specs, many)]
        maps = as_tuple(exp.attributions if attributions is None else attributions)
        if attributions is None and len(maps) == 1 and exp.layer is not None:
            maps = tuple(one if axes[0] in (None, 1) else one.movedim(1, axes[0]) for one in enlarged(exp))
        baselines = exp.baselines if baselines is None else baselines
        if target is None and exp.target is None:
            raise InputError(
                "The Explanation knows no class index (its target is a function, or the model's only output): give "
                "target= once more, lambda output: output for a model that returns one number per sample."
            )
        target = list(exp.target or ()) if target is None else target
        inputs = exp.inputs
    as_rows(maps)
    return inputs, tuple(_by_place(one, axis, reduce) for one, axis in zip(maps, axes)), baselines, target


def _by_place(one: Tensor, axis: int | None, reduce: str | None) -> Tensor:
    """A map with a channel axis of size 1."""
    if reduce is None:
        return one
    wide = one.detach().as_subclass(Tensor).to(widest(one.device))
    if axis is None or axis >= one.ndim or one.shape[axis] == 1:
        return reduced(wide, (), reduce)
    return reduced(wide, (axis,), reduce).unsqueeze(axis)


def _ranks(maps: tuple[Tensor, ...], features: Any, ties: str, seed: int, ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """When each element goes, int64 (N, D), and how many features there are (N,)."""
    rows = as_rows(maps)
    if features is None:
        order = descending(rows, ties, seed, ids)
        return order.argsort(dim=1), torch.full((rows.shape[0],), rows.shape[1])
    positions = MaskFeatures(maps, features).positions()
    numbers = torch.cat([p.expand(m.shape).reshape(m.shape[0], -1) for p, m in zip(positions, maps)], 1)
    ordered, where = numbers.sort(dim=1)
    new = torch.zeros_like(ordered)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    own = torch.empty_like(ordered).scatter_(1, where, new.cumsum(1))  # numbered within the sample
    totals = own.amax(1) + 1
    sums = rows.new_zeros(rows.shape[0], int(totals.max()))
    sizes = sums.scatter_add(1, own, torch.ones_like(rows))
    means = sums.scatter_add(1, own, rows) / sizes
    means = torch.where(sizes > 0, means, -torch.inf)  # features that only other samples have go last
    return descending(means, ties, seed, ids).argsort(dim=1).gather(1, own), totals.cpu()


def _fitting(maps: tuple[Any, ...], xs: tuple[Tensor, ...]) -> list[torch.Size]:
    """The maps' shapes behind the batch.

    Raises:
        InputError: not one map per input, or one that does not broadcast to it.
    """
    shapes = [tuple(getattr(m, "shape", ())) for m in maps]
    fits = len(maps) == len(xs) and all(
        len(shape) == x.ndim and all(a in (1, b) for a, b in zip(shape[1:], x.shape[1:])) and shape[0] == x.shape[0]
        for shape, x in zip(shapes, xs)
    )
    if not fits:
        raise InputError(
            f"Maps of shapes {shapes} do not fit inputs of shapes {[tuple(x.shape) for x in xs]}: give one map per "
            "input, of its shape, or with size 1 where elements are removed together (attribution.sum(1, keepdim=True) "
            "for whole pixels). The map of a layer is enlarged where an Explanation is given; else first: "
            "torch.from_numpy(exp.heatmap(i))[None, None]."
        )
    return [torch.Size(shape[1:]) for shape in shapes]
