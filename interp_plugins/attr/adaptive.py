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
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ..core.batching import auto_chunk, chunks, progress_bar
from ..core.errors import ConvergenceWarning, InputError
from ..core.forward import Forward, gradients
from ..core.report import note
from ..core.tensors import accumulation_dtype
from .path import points

_START = 9  # nodes of the first estimate: one panel cut into three, twice
_SAFETY = 1.2  # the expected error of a few kinks is often exceeded; this keeps nine maps of ten within 1.5 tol
_MEMORY = 2**30  # bytes of stored gradients that one group of samples may take


def check_tolerance(tol: float | None, max_steps: int) -> None:
    """Refuse tolerances and caps that make no sense."""
    if tol is not None and not (isinstance(tol, (int, float)) and 0 < tol < 1):
        raise InputError(f"tol must be a relative error between 0 and 1, such as 0.05, got {tol!r}.")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < _START:
        raise InputError(f"max_steps must be an int of at least {_START}, got {max_steps!r}.")


@dataclass
class _Panel:
    """An interval of the path: its middle, its width, the gradient in the middle, its estimated share of the error."""

    middle: float
    width: float
    grad: Tensor  # flat, over all inputs
    error: float = math.inf


@dataclass
class _Sample:
    """The state of one sample's integral; panels in the order of the path."""

    scale: Tensor  # flat (x - x'), to measure errors in units of the map
    panels: list[_Panel] = field(default_factory=list)
    gradients: int = 0

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

    def to_refine(self, tol: float, budget: int) -> list[_Panel]:
        """The panels with the largest errors, so many that the others together are below the tolerance."""
        allowed = (tol * self.norm()) ** 2
        total = sum(p.error**2 for p in self.panels)
        chosen: list[_Panel] = []
        for p in sorted(self.panels, key=lambda p: -p.error):
            # A refined panel keeps about a ninth of its squared error.
            if total <= allowed or 2 * (len(chosen) + 1) > budget or p.error == 0:
                break
            total -= p.error**2 * 8 / 9
            chosen.append(p)
        return chosen

    def refine(self, panel: _Panel, left: Tensor, right: Tensor) -> None:
        """Cut a panel into three; its node stays the middle of the middle third."""
        h, at = panel.width / 3, self.panels.index(panel)
        parts = ((panel.middle - h, left), (panel.middle, panel.grad), (panel.middle + h, right))
        self.panels[at : at + 1] = [_Panel(middle, h, grad) for middle, grad in parts]
        self.gradients += 2

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
    size = chunk or auto_chunk(list(inputs))
    group = max(1, int(_MEMORY // (max_steps * sum(sizes) * 4)))
    results, errors, used = [], [], []

    def evaluate(wanted: list[tuple[int, float]], bar: object) -> list[Tensor]:
        """Gradients at (sample, position) pairs, flat over all inputs."""

        def work(start: int, stop: int) -> Tensor:
            rows = torch.tensor([i for i, _ in wanted[start:stop]], device=device)
            alphas = torch.tensor([a for _, a in wanted[start:stop]], dtype=inputs[0].dtype, device=device)
            got = gradients(forward, points(inputs, baselines, rows, alphas), rows).grads
            return torch.cat([g.reshape(stop - start, -1).to(dtype) for g in got], 1)

        return [row for _, _, part in chunks(len(wanted), size, work, bar=bar) for row in part.unbind(0)]

    with progress_bar(0, "gradients", progress) as bar:
        for first in range(0, n, group):
            samples = _start(range(first, min(n, first + group)), inputs, baselines, dtype, evaluate, bar)
            _refine_all(samples, tol, max_steps, evaluate, bar)
            for state in samples.values():
                results.append(state.integral())
                errors.append(state.error())
                used.append(state.gradients)
    note(map_error=errors, n_gradients=used, per_sample=("map_error", "n_gradients"))
    _warn_unreached(errors, used, tol, max_steps)
    flat = torch.stack(results)
    return tuple(p.reshape(x.shape) for p, x in zip(flat.split(sizes, 1), inputs, strict=True))


def _start(rows, inputs, baselines, dtype, evaluate, bar):  # type: ignore[no-untyped-def]
    """The first nested estimates: 3 panels, each cut into three."""
    thirds = (1 / 6, 1 / 2, 5 / 6)
    grads = evaluate([(i, a) for i in rows for a in thirds], bar)
    samples: dict[int, _Sample] = {}
    for k, i in enumerate(rows):
        scale = torch.cat([(x[i] - b[i]).reshape(-1).to(dtype) for x, b in zip(inputs, baselines, strict=True)])
        panels = [_Panel(a, 1 / 3, g) for a, g in zip(thirds, grads[3 * k : 3 * k + 3], strict=True)]
        samples[i] = _Sample(scale, panels, 3)
    return samples


def _refine_all(samples, tol, max_steps, evaluate, bar):  # type: ignore[no-untyped-def]
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


def _warn_unreached(errors: list[float], used: list[int], tol: float, max_steps: int) -> None:
    missed = [i for i, e in enumerate(errors) if e > tol]
    if missed:
        worst = max(errors[i] for i in missed)
        warnings.warn(
            f"tol={tol} was not reached for {len(missed)} of {len(errors)} samples within max_steps={max_steps} "
            f"gradients: the estimated error of the worst map is {worst:.3g} (sample {errors.index(worst)}, "
            f"{used[errors.index(worst)]} gradients). Raise max_steps or tol.",
            ConvergenceWarning,
            stacklevel=4,
        )
