"""Changes of pictures that can be seen: smooth ones, since small ones of single pixels explain nothing.

The change is a sum of waves whose slow ones move most, in colours that are decorrelated as those of photographs (Olah
et al. 2017, doi:10.23915/distill.00007), and the model is asked at places that jitter. Where the model does not yet say
what it should, a step climbs towards it; where it does, the change shrinks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.batching import chunks, progress_bar
from interp_plugins.core.errors import InputError
from interp_plugins.core.random import make_generator
from interp_plugins.core.tensors import like
from interp_plugins.optim.colour import natural_matrix
from interp_plugins.optim.params import Fourier
from interp_plugins.robust.aim import Aim, ValueAim
from interp_plugins.robust.opening import Opened
from interp_plugins.robust.perturbed import Perturbed

_RATE = 0.02
_SURE = 5.0  # nats behind the boundary that are aimed at, so that a change is one that the model is sure of
_ENOUGH = 2.5  # nats, from where on the change may shrink
_JITTER = 0.03  # of the picture's side
_AMPLITUDE = 1.0  # of the picture's range, for coefficients of size one
_TINY = 1e-12  # the root of nothing has no slope
_HALVINGS = 10


def visible(subject: Opened, aim: Aim | ValueAim, steps: int, smoothness: float, progress: bool | None) -> Perturbed:
    """Smooth changes of all pictures that the model says otherwise of.

    Raises:
        InputError: no pictures.
    """
    x = subject.raw[0]
    if x.ndim != 4 or len(subject.raw) > 1:
        raise InputError(
            f"kind='visible' is of pictures (N, C, H, W), and the inputs have shape {tuple(x.shape)}; take 'minimal'."
        )
    return _Waves(subject, aim, smoothness).result(steps, progress)


class _Waves:
    """Changes made of waves, and the best of them for each picture."""

    def __init__(self, subject: Opened, aim: Aim | ValueAim, smoothness: float):
        self.subject, self.aim = subject, aim
        x = subject.raw[0]
        n, channels, height, width = x.shape
        low, high = subject.spec.value_range
        self.space, self.param = (height, width), Fourier(smoothness)
        spread = self.param.scale(self.space).square().mean().sqrt()
        self.scale = _AMPLITUDE * (high - low) / float(spread)
        self.colours = natural_matrix().to(x) if channels == 3 else None
        self.waves = torch.zeros(n, channels, height, width // 2 + 1, 2, dtype=x.dtype, device=x.device)
        self.width = high - low
        self.best = torch.zeros_like(x)
        self.size = torch.full((n,), torch.inf, dtype=x.dtype, device=x.device)
        self.height = torch.zeros(n, dtype=x.dtype, device=x.device)
        self.steps = torch.zeros(n, dtype=torch.long)

    def moved(self, waves: Tensor, rows: Tensor) -> Tensor:
        """Pictures of some rows, changed by waves."""
        x = self.subject.raw[0][rows]
        change = self.scale * self.param.image([waves], self.space)
        if self.colours is not None:
            change = torch.einsum("dc,nchw->ndhw", self.colours, change)
        change = change * self.subject.free[0][rows].reshape(x.shape)
        return self.subject.bounds(x + change)

    def result(self, steps: int, progress: bool | None) -> Perturbed:
        """All steps; the smallest change that was found, shortened along its own line."""
        x, generator = self.subject.raw[0], make_generator(self.subject.asking.seed)
        everyone = torch.arange(len(x), device=x.device)
        done = self.aim.reached(self.subject.prediction.output, everyone)
        leaf = self.waves.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([leaf], lr=_RATE)
        reach = max(1, round(_JITTER * min(x.shape[2:])))
        with progress_bar(steps, "counterfactual", progress) as bar:
            for k in range(steps):
                shift = tuple(int(s) for s in torch.randint(-reach, reach + 1, (2,), generator=generator))
                leaf.grad = self._slope(leaf.detach(), everyone, shift)
                optimiser.step()
                self._keep(leaf.detach(), everyone, k + 1)
                bar.update(1)
        self.best[done] = 0
        self._shorten((self.size < torch.inf) & ~done)
        return self._told(done, steps)

    def _height(self, points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        output = self.subject.forward.raw([points], rows)
        return self.aim.height(output, rows), output

    def _slope(self, waves: Tensor, rows: Tensor, shift: tuple[int, ...]) -> Tensor:
        """The gradient of what shrinks: the way to the goal, or where that is reached the size of the change."""
        found: list[Tensor] = []

        def work(start: int, stop: int) -> Tensor:
            some = rows[start:stop]
            leaf = waves[start:stop].clone().requires_grad_(True)
            points = self.moved(leaf, some)
            height, _ = self._height(points.roll(shift, (2, 3)), some)
            size = ((points - self.subject.raw[0][some]).square().flatten(1).mean(1) + _TINY).sqrt()
            total = torch.where(height < _SURE, -height, 10 * size / self.width).sum()
            (grad,) = torch.autograd.grad(total, leaf)
            return torch.nan_to_num(grad)

        size = self.subject.forward.samples_per_pass(self.subject.raw, self.subject.asking.batch_size)
        for _, _, slope in chunks(len(rows), size, work):
            found.append(slope)
        return torch.cat(found)

    def _keep(self, waves: Tensor, rows: Tensor, step: int) -> None:
        with torch.no_grad():
            points = self.moved(waves, rows)
            height, output = self._height(points, rows)
            change = points - self.subject.raw[0]
            size = change.flatten(1).norm(dim=1)
        reached, sure = self.aim.reached(output, rows), height >= _ENOUGH
        before = self.height >= _ENOUGH
        better = reached & torch.where(sure & before, size < self.size, (sure & ~before) | (height > self.height))
        self.best[better], self.size[better] = change[better], size[better]
        self.height[better] = height[better].to(self.height)
        self.steps[better.cpu()] = step

    def _shorten(self, wanted: Tensor) -> None:
        """Back along each line as far as the model stays as sure."""
        rows, x = torch.arange(len(wanted), device=wanted.device), self.subject.raw[0]
        low, high = torch.zeros_like(self.size), torch.ones_like(self.size)
        for _ in range(_HALVINGS if bool(wanted.any()) else 0):
            middle = (low + high) / 2
            with torch.no_grad():
                points = self.subject.bounds(x + middle.reshape(-1, 1, 1, 1) * self.best)
                height, output = self._height(points, rows)
            now = self.aim.reached(output, rows) & (height >= self.height.clamp_max(_ENOUGH) * (1 - 1e-5))
            low, high = torch.where(now, low, middle), torch.where(now, middle, high)
        self.best = torch.where(wanted.reshape(-1, 1, 1, 1), high.reshape(-1, 1, 1, 1) * self.best, self.best)

    def _told(self, done: Tensor, steps: int) -> Perturbed:
        subject, aim = self.subject, self.aim
        rows, x = torch.arange(len(done), device=done.device), subject.raw[0]
        points = subject.bounds(x + self.best)
        low = subject.spec.value_range[0]
        with torch.no_grad():
            height, output = self._height(points, rows)
            levels = ((points - low) / self.width * 255).round() / 255 * self.width + low
            rounded = aim.reached(self._height(levels, rows)[1], rows)
        clean, reached = subject.prediction.output, aim.reached(output, rows).tolist()
        state = [
            "already" if d else "turned" if r else "none found" for d, r in zip(done.tolist(), reached, strict=True)
        ]
        return Perturbed(
            inputs=like(subject.given, [subject.xs[0].cpu()]),
            perturbed=like(subject.given, [subject.func.normalised([points])[0].cpu()]),
            delta=like(subject.given, [(points - x).cpu()]),
            state=tuple(state),
            target_label=aim.words(aim.left),
            goal_label=None if aim.goal is None else aim.words(aim.goal),
            prediction=aim.said(clean),
            prediction_after=aim.said(output),
            margin=-aim.height(clean, rows).cpu(),
            margin_after=-height.cpu(),
            steps=self.steps,
            success_after_rounding=rounded.cpu(),
            params={"attack": "visible", "eps": math.inf, "norm": "L2", "steps": steps},
            spec=subject.spec,
        )


def check_visible(steps: Any, smoothness: Any) -> None:
    """Refuse counts and exponents that are none.

    Raises:
        InputError: no positive int, no number from 0.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps must be a positive int, got {steps!r}.")
    if isinstance(smoothness, bool) or not isinstance(smoothness, (int, float)) or not 0 <= smoothness < math.inf:
        raise InputError(f"smoothness must be a number from 0, got {smoothness!r}.")
