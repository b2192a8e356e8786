"""Adaptive path integral: nodes where the map still changes, each sample on its own, until a tolerance is reached.

The path is cut into panels with one gradient in the middle of each. A panel is refined by cutting it into three; its
old node stays the middle of the middle third, so nothing computed is thrown away. With g the gradient at a node and h
the panel's width,

    change(panel) = h/3 (g_left + g_right - 2 g_middle)

is the difference of two nested estimates of the *map*, and so a measured error of the coarse one. For nets with kinks
the midpoint rule's error falls with the panel's width, so the three children together are given a third of the change
they revealed. The panels' errors are nearly independent, so the error of the whole is the root of their sum of
squares. In each round the panels with the largest errors are refined, as many as it takes, all samples together.

Measured behaviour and the check of this estimate against long reference runs: docs/performance.md.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.batching import auto_chunk, chunks, progress_bar
from ..core.errors import ConvergenceWarning, InputError
from ..core.forward import Forward, gradients
from ..core.report import note
from ..core.tensors import accumulation_dtype
from .path import points

_START = 9  # nodes of the first estimate: one panel cut into three, twice
_MEMORY = 2**30  # bytes of stored gradients that one group of samples may take


def check_tolerance(tol: float | None, max_steps: int) -> None:
    """Refuse tolerances and caps that make no sense."""
    if tol is not None and not (isinstance(tol, (int, float)) and 0 < tol < 1):
        raise InputError(f"tol must be a relative error between 0 and 1, such as 0.05, got {tol!r}.")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < _START:
        raise InputError(f"max_steps must be an int of at least {_START}, got {max_steps!r}.")


@dataclass
class _Panel:
    """An interval of the path: its middle, its width, the map contribution's gradient there, its estimated error."""

    middle: float
    width: float
    grad: Tensor  # flat, over all inputs
    error: float = math.inf


@dataclass
class _Sample:
    """The state of one sample's integral."""

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
        h = panel.width / 3
        change = float(((left + right - 2 * panel.grad) * self.scale).norm()) * h
        child = change / 3 / math.sqrt(3)
        self.panels.remove(panel)
        for middle, grad in ((panel.middle - h, left), (panel.middle, panel.grad), (panel.middle + h, right)):
            self.panels.append(_Panel(middle, h, grad, child))


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
            unknown = [p for p in state.panels if p.error == math.inf]
            chosen = unknown or state.to_refine(tol, max_steps - state.gradients)
            jobs += [(i, p) for p in chosen]
        if not jobs:
            return
        wanted = [(i, p.middle + side * p.width / 3) for i, p in jobs for side in (-1, 1)]
        found = evaluate(wanted, bar)
        for k, (i, panel) in enumerate(jobs):
            samples[i].refine(panel, found[2 * k], found[2 * k + 1])
            samples[i].gradients += 2


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
