"""Path integrals of the gradient along the straight line from baseline to input: the engine of the path methods.

    integral over a in [0, 1] of dF/dz (x' + a (x - x')) da

where z is the input itself or a layer read on the way. Cost: one forward and one backward pass per node and sample.
All nodes of all samples form one long list of rows, cut into chunks that fit; only the running sum is kept. Where the
model begins with a linear layer the rows start behind it (`engine/plan/first_layer.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.shared.gradients_in_both import GradientsInBoth, in_lower
from interp_plugins.attr.shared.quadrature import Quadrature
from interp_plugins.core.batching import chunks, progress_bar
from interp_plugins.core.errors import LayerError
from interp_plugins.core.forward import Forward, Gradients, gradients
from interp_plugins.core.layers import Layer
from interp_plugins.core.multi_target import repeated
from interp_plugins.core.tensors import accumulation_dtype, expand_rows
from interp_plugins.engine import BehindFirstLayer, behind_first_layer, planned

_STEM_BYTES = 2**25  # held behind the first layer at a time, about
_CHUNKS = 8  # that a group of samples fills, at least


def check_rows(values: Sequence[Tensor], count: int) -> None:
    """Refuse tensors whose first dimension cannot be the batch of `count` rows, or is folded with it.

    Frames folded into the batch, (N * T, C, ...), are told from a batch that stands second, (T, N, C), by their number,
    a multiple of the rows; where that fits both, by the axes behind: (T, N, C) has one.

    Raises:
        LayerError: neither `count` nor a multiple of it, or a batch that stands second, as in (T, N, C).
    """
    for v in values:
        second = v.ndim == 3 and v.shape[0] != count and v.shape[1] == count > 1
        if v.ndim == 0 or v.shape[0] % count or second:
            raise LayerError(
                f"A tensor of shape {tuple(v.shape)} came for {count} rows: its first dimension is not the batch. "
                "Choose a layer whose tensors have the batch first, or explain one sample at a time, one row per "
                "pass (batch_size=1)."
            )


class RowSum:
    """Weighted sums of rows into samples: total[rows[r]] += weight[r] * value[r], in the accumulation dtype.

    Values may have several entries per row (a layer that folds the batch with another axis), but a whole number.
    """

    def __init__(self, n: int):
        self.n = n
        self.totals: list[Tensor] | None = None
        self.shapes: list[tuple[int, ...]] = []

    def add(self, values: Sequence[Tensor], rows: Tensor, weights: Tensor | None = None) -> None:
        """Add values (R * m, ...) of the samples rows (R,) with weights (R,)."""
        count = rows.shape[0]
        check_rows(values, count)
        if self.totals is None:
            self.shapes = [(v.shape[0] // count * self.n, *v.shape[1:]) for v in values]
            self.totals = [
                torch.zeros(self.n, v.numel() // count, dtype=accumulation_dtype(v.dtype), device=v.device)
                for v in values
            ]
        for total, v in zip(self.totals, values, strict=True):
            flat = v.reshape(count, -1).to(total.dtype)  # (R * m, ...) -> (R, m * elements)
            if self.n == 1 and weights is not None:  # one pass over the values
                total.addmm_(weights.to(total)[None], flat)
                continue
            if weights is not None:
                flat = flat * weights.to(total)[:, None]
            total.index_add_(0, rows.to(total.device), flat)

    def result(self) -> tuple[Tensor, ...]:
        """The sums, in the values' shapes."""
        assert self.totals is not None
        return tuple(t.reshape(shape) for t, shape in zip(self.totals, self.shapes, strict=True))


def points(inputs: Sequence[Tensor], baselines: Sequence[Tensor], rows: Tensor, alphas: Tensor) -> tuple[Tensor, ...]:
    """Rows x' + a (x - x') for samples `rows` (R,) at positions `alphas` (R,)."""
    out = []
    for x, b in zip(inputs, baselines, strict=True):
        if x.shape[0] == 1 == b.shape[0]:
            out.append(torch.addcmul(b, expand_rows(alphas.to(x), x), x - b))
            continue
        start = b.index_select(0, rows)
        out.append(start + expand_rows(alphas.to(x), x) * (x.index_select(0, rows) - start))
    return tuple(out)


def points_and_rows(
    inputs: Sequence[Tensor], baselines: Sequence[Tensor], samples: Tensor, alphas: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The points of some samples at places alphas of their paths, and the samples as rows, where the inputs are."""
    x = inputs[0]
    rows = samples.to(x.device)
    return points(inputs, baselines, rows, alphas.to(x.dtype).to(x.device)), rows


def targets_of(rows: Tensor, targets: int) -> Tensor:
    """The numbers of the sample-and-target pairs of some samples, when several targets share a pass."""
    if targets == 1:
        return rows
    return (rows[:, None] * targets + torch.arange(targets, device=rows.device)).reshape(-1)


def grid_rows(start: int, stop: int, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Samples and step numbers of the rows [start, stop) of the list "all samples at step 0, at step 1, ..."."""
    r = torch.arange(start, stop, device=device)
    return r % n, r // n


def path_gradients(
    forward: Forward,
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor],
    rule: Quadrature,
    *,
    offsets: Tensor | None = None,
    wrt: Sequence[Layer] | None = None,
    chunk: int | None = None,
    progress: bool | None = None,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Weighted sum of the gradients over the nodes: (N, ...) per input (or per layer tensor), and tensors per layer.

    Of several targets (N * K, ...). With `offsets` (N,), the nodes are so far into the rule's intervals, in [0, 1],
    instead of where the rule puts them.
    """
    rows = inputs[0].shape[0] * len(rule)
    size = forward.rows_per_pass(inputs, chunk)
    with progress_bar(rows, "gradients", progress) as bar:
        if wrt is None and len(inputs) == 1:
            start = behind_first_layer(forward, inputs, rows=rows, chunk=size)
            if start is not None:
                return (_from_stem(*start, inputs[0], baselines[0], rule, offsets, size, bar),), ()
        forward, wrt = planned(forward, inputs, rows=rows, chunk=size, wrt=wrt, backward=True, states=True)
        credited = None if wrt is not None else times_difference(inputs, baselines)
        return _along(forward, inputs, baselines, rule, offsets, wrt, size, bar, credited)


def times_difference(
    inputs: Sequence[Tensor], baselines: Sequence[Tensor]
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Gradients (R, ...) of samples (R,) times the difference of input and baseline; None for several inputs."""
    if len(inputs) > 1:
        return None

    def credited(g: Tensor, who: Tensor) -> Tensor:
        x, at = inputs[0], who.to(inputs[0].device)
        return g * (x[at] - baselines[0][at % len(baselines[0])])

    return credited


def _from_stem(
    forward: Forward,
    behind: BehindFirstLayer,
    x: Tensor,
    baseline: Tensor,
    rule: Quadrature,
    offsets: Tensor | None,
    size: int,
    bar: Any,
) -> Tensor:
    """The path behind the first linear layer, some samples at a time, and the one pass back through that layer."""
    n, targets = x.shape[0], forward.target.count
    with torch.no_grad():
        held = 2 * (1 + targets) * behind.encode(x[:1]).nbytes  # ends, sums and cotangents of a sample
    # No more samples than fill some chunks: then what is held follows the chunk.
    most = max(1, min(size, -(-_CHUNKS * size // len(rule)), _STEM_BYTES // held))
    group = -(-n // -(-n // most))  # groups of equal size
    grads = x.new_empty(n * targets, *x.shape[1:])
    for start in range(0, n, group):
        stop = min(n, start + group)
        rows = torch.arange(start, stop, device=x.device)
        with torch.no_grad():
            ends = [behind.encode(t[start:stop]) for t in (x, baseline)]
        mine = forward if len(rows) == n else forward.of_rows(rows)
        places = None if offsets is None else offsets[start:stop]

        def credited(g: Tensor, who: Tensor, first: int = start) -> Tensor:
            at = who.to(x.device) + first
            return behind.pull_back(x[at], g.to(x.dtype)) * (x[at] - baseline[at % len(baseline)])

        (summed,), _ = _along(mine, ends[:1], ends[1:], rule, places, None, size, bar, credited)
        (ends_x,) = repeated([x[start:stop]], targets)  # (samples * K, ...), beside the sums of K targets
        grads[start * targets : stop * targets] = behind.pull_back(ends_x, summed.to(x.dtype))
    return grads


def _along(
    forward: Forward,
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor],
    rule: Quadrature,
    offsets: Tensor | None,
    wrt: Sequence[Layer] | None,
    size: int,
    bar: Any,
    credited: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The sums; where gradients run in lower precision, some in both, and all in float32 where that is too much.

    `credited` makes the map's part of a gradient of some samples (gradients, samples).
    """

    def at(rows: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
        return points(inputs, baselines, rows, _places(rule, offsets, rows, steps).to(inputs[0]))

    return in_lower(
        forward,
        lambda: _sums(forward, inputs, baselines, rule, offsets, wrt, size, bar),
        lambda lower: GradientsInBoth(forward, lower, at, rule, wrt, credited, inputs[0].device),
    )


def _places(rule: Quadrature, offsets: Tensor | None, rows: Tensor, steps: Tensor) -> Tensor:
    """Where on their path rows are, in float64: at the rule's nodes, or so far into its intervals."""
    nodes, weights = (torch.tensor(v, dtype=torch.float64) for v in (rule.nodes, rule.weights))
    if offsets is None:
        return nodes[steps.cpu()]
    inside = weights[steps.cpu()] * offsets.cpu().double()[rows.cpu()]
    return (weights.cumsum(0) - weights)[steps.cpu()] + inside


def _sums(
    forward: Forward,
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor],
    rule: Quadrature,
    offsets: Tensor | None,
    wrt: Sequence[Layer] | None,
    size: int,
    bar: Any,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    n, targets = inputs[0].shape[0], forward.target.count
    device = inputs[0].device
    weights = torch.tensor(rule.weights, dtype=torch.float64)
    total = RowSum(n * targets)
    counts: tuple[int, ...] = ()

    def work(start: int, stop: int) -> tuple[Gradients, Tensor, Tensor]:
        rows, steps = grid_rows(start, stop, n, device)
        alphas = (
            _places(rule, offsets, rows, steps)
            .to(inputs[0].dtype if inputs[0].is_floating_point() else torch.float32)
            .to(device)
        )
        at = points(inputs, baselines, rows, alphas)  # (R, ...) of rows (R,) at places alphas (R,)
        return gradients(forward, at, rows, wrt=wrt), rows, steps

    for _, _, (got, rows, steps) in chunks(n * len(rule), size, work, step=n, bar=bar):
        counts = got.counts
        # Gradients (R * K, ...), a row's targets together, go to the maps (N * K, ...).
        total.add(got.grads, targets_of(rows, targets), weights[steps.cpu()].repeat_interleave(targets))
    return total.result(), counts
