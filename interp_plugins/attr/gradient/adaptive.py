"""Adaptive path integral: nodes where the map still changes, each sample on its own, until a tolerance is reached.

The path is cut into panels with one gradient in the middle of each. A panel is refined by cutting it into three; its
old node stays the middle of the middle third, so nothing computed is thrown away.

What can be wrong lies between the nodes. A net with kinks has a gradient that jumps, and where in the gap between two
nodes it jumps is not known. With the nodes' gradients g, the gap d and the panels' border at b in it,

    error^2 = |g_right - g_left|^2 * (integral over the gap of (u - b)^2 du) / d     (|change|^2 d^2 / 12 in mid-gap)

is the expected squared error of the *map* if the jump is anywhere in the gap alike. A change that the slope on either
side explains is smooth, and the midpoint rule integrates that; only the rest counts. Before the first node and after
the last nothing is seen; as much change as elsewhere on the path is assumed. Jumps are nearly independent, so squares
add up. In each round the panels with the largest errors are refined, as many as it takes, all samples together.

Measured behaviour and the check of this estimate against long reference runs: docs/performance.md.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp_plugins.attr.shared.base import batch_scores
from interp_plugins.attr.shared.path import points
from interp_plugins.core.batching import chunks, progress_bar
from interp_plugins.core.errors import ConvergenceWarning, InputError
from interp_plugins.core.forward import Forward, gradients
from interp_plugins.core.report import note
from interp_plugins.core.tensors import accumulation_dtype
from interp_plugins.engine import planned

_START = 9  # nodes of the first estimate: one panel cut into three, twice
_SAFETY = 1.2  # the expected error of a few kinks is often exceeded; this keeps nine maps of ten within 1.5 tol
_NARROW = 1e-9  # a panel that is not refined further: the gradient jumps here, and nothing is left between the nodes
_MEMORY = 2**30  # bytes of stored gradients that one group of samples may take


def check_path_tolerance(tol: float | None, max_steps: int) -> None:
    """Refuse tolerances and caps that make no sense."""
    if tol is not None and not (isinstance(tol, (int, float)) and 0 < tol < 1):
        raise InputError(f"tol must be a relative error between 0 and 1, such as 0.05, got {tol!r}.")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < _START:
        raise InputError(f"max_steps must be an int of at least {_START}, got {max_steps!r}.")


@dataclass
class _Panel:
    """An interval of the path: its middle, its width, gradient and score there, its estimated share of the error."""

    middle: float
    width: float
    grad: Tensor  # flat, over all inputs
    score: float
    slope: float  # of the score along the path: grad . (x - x')
    error: float = math.inf
    lack: float = 0.0  # |what the gaps beside it lack to completeness|


class _Node(NamedTuple):
    """What one pass gives: the gradient, flat over all inputs, and the score."""

    grad: Tensor
    score: float


_Evaluate = Callable[[Sequence[tuple[int, float]], Any], list[_Node]]  # ((sample, position) pairs, bar) -> their nodes


@dataclass
class _Sample:
    """The state of one sample's integral; panels in the order of the path."""

    scale: Tensor  # flat (x - x'), to measure errors in units of the map
    start: float  # F(x')
    end: float  # F(x)
    panels: list[_Panel] = field(default_factory=list)
    gradients: int = 0
    delta: float = math.inf  # the completeness error

    def integral(self) -> Tensor:
        total = torch.zeros_like(self.panels[0].grad)
        for p in self.panels:
            total.add_(p.grad, alpha=p.width)
        return total

    def norm(self) -> float:
        return float((self.integral() * self.scale).norm())

    def error(self) -> float:
        """Estimated relative L2 error of the map."""
        absolute = math.sqrt(sum(p.error**2 for p in self.panels))
        return absolute / max(self.norm(), 1e-30) if absolute > 0 else 0.0

    def incompleteness(self) -> float:
        """The completeness error relative to F(x) - F(x')."""
        return abs(self.delta) / max(abs(self.end - self.start), 1e-30) if self.delta else 0.0

    def to_refine(self, tol: float, budget: int) -> list[_Panel]:
        """The panels to cut: the worst for the map, and, while the sum is not within the tolerance, for the sum."""
        chosen = self._worst_for_map(tol, budget)
        if self.incompleteness() <= tol:
            return chosen
        allowed = tol * abs(self.end - self.start)
        rest = sum(p.lack for p in self.panels)
        for p in sorted(self.panels, key=lambda p: -p.lack)[: max(1, len(self.panels) // 3)]:
            if rest <= allowed or 2 * (len(chosen) + 1) > budget or p.lack == 0:
                break
            if p.width < _NARROW:
                continue
            rest -= p.lack
            if all(p is not other for other in chosen):
                chosen.append(p)
        return chosen

    def _worst_for_map(self, tol: float, budget: int) -> list[_Panel]:
        """The panels with the largest errors, so many that the others together are below the tolerance."""
        allowed = (tol * self.norm()) ** 2
        total = sum(p.error**2 for p in self.panels)
        chosen: list[_Panel] = []
        for p in sorted(self.panels, key=lambda p: -p.error):
            # A refined panel keeps about a ninth of its squared error.
            if total <= allowed or 2 * (len(chosen) + 1) > budget or p.error == 0:
                break
            if p.width < _NARROW:
                continue
            total -= p.error**2 * 8 / 9
            chosen.append(p)
        return chosen

    def panel(self, middle: float, width: float, node: _Node) -> _Panel:
        """A panel around a node."""
        return _Panel(middle, width, node.grad, node.score, float(node.grad @ self.scale))

    def refine(self, panel: _Panel, left: _Node, right: _Node) -> None:
        """Cut a panel into three; its node stays the middle of the middle third."""
        h, at = panel.width / 3, next(k for k, p in enumerate(self.panels) if p is panel)
        middle = _Node(panel.grad, panel.score)
        parts = ((panel.middle - h, left), (panel.middle, middle), (panel.middle + h, right))
        self.panels[at : at + 1] = [self.panel(place, h, node) for place, node in parts]
        self.gradients += 2

    def account(self) -> None:
        """What each gap between nodes lacks to completeness, exactly, shared by the panels beside it."""
        halves = [p.width / 2 * p.slope for p in self.panels]
        scores = [self.start, *(p.score for p in self.panels), self.end]
        given = [halves[0], *(a + b for a, b in pairwise(halves)), halves[-1]]
        lacks = [b - a - g for (a, b), g in zip(pairwise(scores), given, strict=True)]
        self.delta = sum(lacks)
        for p, (left, right) in zip(self.panels, pairwise(lacks), strict=True):
            p.lack = (abs(left) + abs(right)) / 2

    def estimate(self) -> None:
        """Give every panel its share of the error, from the changes between neighbouring nodes."""
        gaps = [b.middle - a.middle for a, b in pairwise(self.panels)]
        changes = [(b.grad - a.grad) * self.scale for a, b in pairwise(self.panels)]
        rates = []  # squared change per length that the slopes beside a gap do not explain
        for k, (gap, change) in enumerate(zip(gaps, changes, strict=True)):
            slopes = [changes[j] * (gap / gaps[j]) for j in (k - 1, k + 1) if 0 <= j < len(gaps)]
            rates.append(min(float(change.norm()), *(float((change - s).norm()) for s in slopes)) ** 2 / gap)
        # Before the first node and after the last nothing is seen: as much as elsewhere on the path is assumed.
        mean = sum(rate * gap for rate, gap in zip(rates, gaps, strict=True))
        rates = [max(rates[0], mean), *rates, max(rates[-1], mean)]
        for p, (left, right) in zip(self.panels, pairwise(rates), strict=True):
            p.error = _SAFETY * math.sqrt((left + right) * (p.width / 2) ** 3 / 3)


def adaptive_path_gradients(
    forward: Forward,
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor],
    tol: float,
    max_steps: int,
    *,
    chunk: int | None = None,
    progress: bool | None = None,
) -> tuple[Tensor, ...]:
    """The mean gradient along the path per input, refined per sample until its map's estimated error is below tol."""
    n, device = inputs[0].shape[0], inputs[0].device
    sizes = [x[0].numel() for x in inputs]
    dtype = accumulation_dtype(inputs[0].dtype)
    size = forward.rows_per_pass(inputs, chunk)
    forward, _ = planned(forward, inputs, rows=n * _START, chunk=size, backward=True)
    group = max(1, int(_MEMORY // (max_steps * sum(sizes) * 4)))
    results, errors, deltas, used = [], [], [], []

    def evaluate(wanted: Sequence[tuple[int, float]], bar: Any) -> list[_Node]:
        """Gradients and scores at (sample, position) pairs."""

        def work(start: int, stop: int) -> list[_Node]:
            rows = torch.tensor([i for i, _ in wanted[start:stop]], device=device)
            alphas = torch.tensor([a for _, a in wanted[start:stop]], dtype=inputs[0].dtype, device=device)
            got = gradients(forward, points(inputs, baselines, rows, alphas), rows)
            # (R, ...) per input -> (R, elements of all inputs)
            flat = torch.cat([g.reshape(stop - start, -1).to(dtype) for g in got.grads], 1)
            return [_Node(*node) for node in zip(flat.unbind(0), got.scores.double().tolist(), strict=True)]

        return [node for _, _, part in chunks(len(wanted), size, work, bar=bar) for node in part]

    ends = [scores.double().tolist() for scores in (batch_scores(forward, b, chunk) for b in (baselines, inputs))]

    with progress_bar(0, "gradients", progress) as bar:
        for first in range(0, n, group):
            rows = range(first, min(n, first + group))
            samples = _start(rows, inputs, baselines, dtype, list(zip(*ends, strict=True)), evaluate, bar)
            _refine_all(samples, tol, max_steps, evaluate, bar)
            for state in samples.values():
                results.append(state.integral())
                errors.append(state.error())
                deltas.append(state.incompleteness())
                used.append(state.gradients)
    note(map_error=errors, n_gradients=used, per_sample=("map_error", "n_gradients"))
    _warn_unreached(errors, deltas, used, tol, max_steps)
    flat = torch.stack(results)
    return tuple(p.reshape(x.shape) for p, x in zip(flat.split(sizes, 1), inputs, strict=True))


def _start(
    rows: range,
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor],
    dtype: torch.dtype,
    ends: Sequence[tuple[float, float]],
    evaluate: _Evaluate,
    bar: Any,
) -> dict[int, _Sample]:
    """The first nested estimates: 3 panels, each cut into three."""
    thirds = (1 / 6, 1 / 2, 5 / 6)
    nodes = evaluate([(i, a) for i in rows for a in thirds], bar)
    samples: dict[int, _Sample] = {}
    for k, i in enumerate(rows):
        scale = torch.cat([(x[i] - b[i]).reshape(-1).to(dtype) for x, b in zip(inputs, baselines, strict=True)])
        state = samples[i] = _Sample(scale, start=ends[i][0], end=ends[i][1], gradients=3)
        state.panels = [state.panel(a, 1 / 3, node) for a, node in zip(thirds, nodes[3 * k : 3 * k + 3], strict=True)]
    return samples


def _refine_all(samples: dict[int, _Sample], tol: float, max_steps: int, evaluate: _Evaluate, bar: Any) -> None:
    """Rounds of refinement: the worst panels of all samples, evaluated together."""
    while True:
        jobs: list[tuple[int, _Panel]] = []
        for i, state in samples.items():
            first = state.gradients < _START
            jobs += [
                (i, p) for p in (list(state.panels) if first else state.to_refine(tol, max_steps - state.gradients))
            ]
        if not jobs:
            return
        wanted = [(i, p.middle + side * p.width / 3) for i, p in jobs for side in (-1, 1)]
        found = evaluate(wanted, bar)
        for k, (i, panel) in enumerate(jobs):
            samples[i].refine(panel, found[2 * k], found[2 * k + 1])
        for i in {i for i, _ in jobs}:
            samples[i].estimate()
            samples[i].account()


def _warn_unreached(errors: list[float], deltas: list[float], used: list[int], tol: float, max_steps: int) -> None:
    worst = [max(pair) for pair in zip(errors, deltas, strict=True)]
    missed = [i for i, e in enumerate(worst) if e > tol]
    if missed:
        i = max(missed, key=worst.__getitem__)
        what = "estimated error of the map" if errors[i] >= deltas[i] else "completeness error"
        warnings.warn(
            f"tol={tol} was not reached for {len(missed)} of {len(errors)} samples within max_steps={max_steps} "
            f"gradients: the worst {what} is {worst[i]:.3g} (sample {i}, {used[i]} gradients). Raise max_steps or tol.",
            ConvergenceWarning,
            stacklevel=4,
        )
