"""Deletion and insertion curves: how the score falls without the strongest parts of the input, and rises with them.

The elements of a map are ranked, the largest first. Deletion replaces the first k of them in the input by the
baseline's; insertion puts the first k of them into the baseline. A map that names what the model uses lets the deletion
curve fall early (a small area below it) and the insertion curve rise early (a large one). Both ask the model about
inputs unlike its data, and are relative to the baseline: compare maps of one sample under one baseline.

Reference: Petsiuk, Das and Saenko, RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018,
section 4.3. Cost: 2 (steps + 1) forward rows per sample.
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
from interp_plugins.core.forward import Forward, one_per_row
from interp_plugins.core.guard import frozen
from interp_plugins.core.random import check_seed
from interp_plugins.core.target import as_target
from interp_plugins.core.tensors import Maps, as_tuple, check_inputs
from interp_plugins.metrics.rows import as_rows


@dataclass(frozen=True)
class RemovalCurves:
    """What `removal_curves` gives; K is the number of steps.

    Attributes:
        fraction: (K + 1,) float64, the share of elements removed (or put in), from 0 to 1.
        deletion: (N, K + 1) float64, the score with that share of the input replaced by the baseline.
        insertion: (N, K + 1) float64, the score with that share of the baseline replaced by the input.
    """

    fraction: Tensor
    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_auc(self) -> Tensor:
        """(N,) area below the deletion curve; small is good."""
        return torch.trapezoid(self.deletion, self.fraction)

    @property
    def insertion_auc(self) -> Tensor:
        """(N,) area below the insertion curve; large is good."""
        return torch.trapezoid(self.insertion, self.fraction)


def removal_curves(
    forward_func: Callable[..., Any],
    inputs: Maps,
    attributions: Maps,
    baselines: Any = None,
    *,
    target: Any = None,
    additional_forward_args: Any = None,
    steps: int = 20,
    batch_size: int | None = None,
    seed: int = 0,
) -> RemovalCurves:
    """Deletion and insertion curves of maps; the model is frozen meanwhile and left as it was.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first.
        attributions: one map per input, that broadcasts to it: where the map has size 1 along a dimension, all of the
            input's elements along it are replaced together. A picture's map (N, 1, H, W), summed over the channels,
            removes whole pixels, as in the paper. Ranked by value, the largest first; equal values in their order.
        baselines: what replaces the input: as for a method's `attribute`; None = zeros.
        target: the score: as for a method's `attribute`; `core.target.Probability(class)` for the paper's.
        additional_forward_args: further arguments of the model; tensors with N rows follow the batch.
        steps: points of the curve after the first; fewer where there are fewer elements.
        batch_size: rows per pass; None = automatic, halved when memory runs out.
        seed: seed of models that draw random numbers.

    Raises:
        InputError: maps that do not fit the inputs, or fewer than one step.

    Example:
        curves = removal_curves(model, x, exp.attribution.sum(1, keepdim=True), target=Probability(3))
        curves.insertion_auc - curves.deletion_auc
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps must be a positive int, got {steps!r}.")
    check_chunk("batch_size", batch_size)
    check_seed(seed)
    with frozen(forward_func, seed=seed):
        xs = check_inputs(inputs)
        n = xs[0].shape[0]
        shapes = _fitting(as_tuple(attributions), xs)
        references = as_baselines(baselines, xs, template=inputs)
        forward = Forward.of(forward_func, n, as_target(target, n), additional_forward_args)
        forward.samples = xs = widened(xs, references, forward.selected)
        if any(bool(m.isnan().any()) for m in as_tuple(attributions)):
            raise InputError("The attributions hold NaN, which has no rank among the elements.")
        ranks = as_rows(attributions).argsort(dim=1, descending=True, stable=True).argsort(dim=1).to(xs[0].device)
        total = ranks.shape[1]
        counts = torch.linspace(0, total, min(steps, total) + 1, dtype=torch.float64).round().long()

        def work(start: int, stop: int) -> Tensor:
            """Rows are numbered (curve, step, sample)."""
            at = torch.arange(start, stop)
            rows = (at % n).to(ranks.device)
            first = ranks[rows] < counts[at // n % len(counts)].to(ranks.device)[:, None]
            deleting = (at // (n * len(counts)) == 0).to(ranks.device)[:, None]
            kept = torch.where(deleting, ~first, first)
            parts = kept.split([shape.numel() for shape in shapes], dim=1)
            mixed = [
                torch.where(part.reshape(-1, *shape), x[rows], base[rows])
                for part, shape, x, base in zip(parts, shapes, xs, references)
            ]
            return one_per_row(forward.changed(mixed, rows), len(rows)).detach().cpu().double()

        rows_per_pass = forward.rows_per_pass(xs, batch_size)
        found = torch.cat([scores for _, _, scores in chunks(2 * len(counts) * n, rows_per_pass, work)])
    deletion, insertion = found.reshape(2, len(counts), n).transpose(1, 2)
    return RemovalCurves(counts.double() / total, deletion, insertion)


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
            "for whole pixels). The map of a layer is enlarged first: torch.from_numpy(exp.heatmap(i))[None, None]."
        )
    return [torch.Size(shape[1:]) for shape in shapes]
