"""Path integrals on any path: intervals that cover it, a gradient in each, and what each interval contributes.

    sum over intervals of contribution(gradient at the node, the path's two points at the interval's ends)

A path is a function of (samples, positions in [0, 1]); the intervals are as long as the rule's weights, so that with
the change of the input over the interval as its weight, a linear model is exact on every path.
`attr/shared/path.py` is the straight path, where the change is the same for all intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from interp_plugins.attr.shared.gradients_in_both import PartsInBoth, in_lower
from interp_plugins.attr.shared.path import RowSum, grid_rows, points
from interp_plugins.attr.shared.quadrature import Quadrature
from interp_plugins.core.batching import chunks, progress_bar
from interp_plugins.core.forward import Forward, Gradients, gradients
from interp_plugins.core.tensors import credit
from interp_plugins.engine import planned

_ROWS = 10  # of a sample that run in lower precision and in float32: scores change in few intervals

Path = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
Contribution = Callable[[Gradients, Sequence[Tensor], Sequence[Tensor], Tensor], Sequence[Tensor]]


def straight(inputs: Sequence[Tensor], baselines: Sequence[Tensor]) -> Path:
    """The line from baseline to input."""
    return lambda rows, alphas: points(inputs, baselines, rows, alphas)


def times_change(got: Gradients, before: Sequence[Tensor], after: Sequence[Tensor], rows: Tensor) -> Sequence[Tensor]:
    """Gradient times the change of the input over the interval."""
    return [credit(b - a, g) for g, a, b in zip(got.grads, before, after, strict=True)]


def sum_over_intervals(
    forward: Forward,
    inputs: Sequence[Tensor],
    path: Path,
    rule: Quadrature,
    contribution: Contribution = times_change,
    *,
    chunk: int | None = None,
    progress: bool | None = None,
) -> tuple[Tensor, ...]:
    """The sum of the intervals' contributions per sample, one tensor per input."""
    n, device, dtype = inputs[0].shape[0], inputs[0].device, inputs[0].dtype
    nodes = torch.tensor(rule.nodes, dtype=torch.float64)
    edges = torch.tensor([0.0, *accumulate(rule.weights)], dtype=torch.float64).clamp_max(1.0)
    edges[-1] = 1.0
    size = forward.rows_per_pass(inputs, chunk)
    forward, _ = planned(forward, inputs, rows=n * len(rule), chunk=size, backward=True, states=True)

    def parts(rows: Tensor, steps: Tensor) -> Sequence[Tensor]:
        at, before, after = (
            path(rows, positions.to(dtype).to(device))
            for positions in (nodes[steps.cpu()], edges[steps.cpu()], edges[steps.cpu() + 1])
        )
        return contribution(gradients(forward, at, rows), before, after, rows)

    def work(start: int, stop: int) -> tuple[Tensor, Sequence[Tensor]]:
        rows, steps = grid_rows(start, stop, n, device)
        return rows, parts(rows, steps)

    def run() -> tuple[tuple[Tensor, ...]]:
        total = RowSum(n)
        with progress_bar(n * len(rule), "gradients", progress) as bar:
            for _, _, (rows, made) in chunks(n * len(rule), size, work, step=n, bar=bar):
                total.add(made, rows)
        return (total.result(),)

    return in_lower(forward, run, lambda lower: PartsInBoth(forward, lower, len(rule), parts, device, _ROWS))[0]
