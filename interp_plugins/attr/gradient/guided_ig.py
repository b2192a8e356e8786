"""Guided Integrated Gradients (Kapishnikov et al., CVPR 2021, arXiv:2106.09788): the path of least resistance.

At every step the features with the smallest |dF/dx| move first, so that the path avoids regions where the gradient is
large for reasons of no concern. The path stays within `max_dist` of the straight line (in units of the way from
baseline to input); its remaining L1 length falls evenly. Features that move are credited gradient times move. Cost: one
forward and one backward pass per step and sample; the steps of a sample come one after the other, its batch mates
together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.gradient.integrated_gradients import IntegratedGradients
from interp_plugins.attr.shared.arguments import args_from, with_delta
from interp_plugins.attr.shared.base import GradientAttribution, convergence_delta, prepared
from interp_plugins.attr.shared.defaults import path_defaults
from interp_plugins.attr.shared.images import check_real
from interp_plugins.attr.shared.quadrature import check_steps
from interp_plugins.core.baseline import as_starts
from interp_plugins.core.batching import check_chunk, chunks, progress_bar
from interp_plugins.core.errors import InputError
from interp_plugins.core.forward import Forward, gradients
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT, accumulation_dtype, check_float, like


class _Walk:
    """The state of a batch of walks from baseline to input, flat over all inputs: (B, D)."""

    def __init__(self, start: Tensor, end: Tensor, fraction: float, max_dist: float):
        self.start, self.end, self.at = start, end, start.clone()
        self.way = end - start
        self.length = self.way.abs().sum(1, keepdim=True)
        self.fraction, self.max_dist = fraction, max_dist

    def step(self, grad: Tensor, done: float) -> Tensor:
        """Walk until the part `done` of the length is behind; the credit (B, D) of the step."""
        before = self.at.clone()
        low, high = (self.start + min(1.0, max(0.0, done + s * self.max_dist)) * self.way for s in (-1, 1))
        goal = self.length * (1 - done)
        self.at = torch.where((self.at - low) * self.way.sign() < 0, low, self.at)  # the slowest catch up
        size = grad.abs()
        while True:
            left = (self.end - self.at).abs().sum(1, keepdim=True) - goal
            room = (high - self.at).abs()
            room = room.where((high - self.at) * self.way.sign() > 0, torch.zeros_like(room))
            free = room > 0
            going = (left > 1e-9 * self.length) & free.any(1, keepdim=True)
            if not bool(going.any()):
                return grad * (self.at - before)
            chosen = free & (size <= self._threshold(size, free)) & going
            part = (left / (room * chosen).sum(1, keepdim=True).clamp_min(1e-30)).clamp(0, 1)
            moved = torch.where(chosen, self.at + part * (high - self.at), self.at)
            moved = torch.where(chosen & (part >= 1), high, moved)
            if torch.equal(moved, self.at):  # what is left is rounding
                return grad * (self.at - before)
            self.at = moved

    def _threshold(self, size: Tensor, free: Tensor) -> Tensor:
        """The |gradient| below which the given fraction of the free features lies, (B, 1)."""
        ordered = size.masked_fill(~free, float("inf")).sort(1).values
        rank = (self.fraction * free.sum(1, keepdim=True)).ceil().long().clamp_min(1) - 1
        return ordered.gather(1, rank)


@register(
    "guided_ig",
    aliases=("guided_integrated_gradients", "gig"),
    title="Guided IG",
    reference="Kapishnikov et al. 2021, arXiv:2106.09788",
    defaults=path_defaults,
    fast={"n_steps": 20},
    thorough={"n_steps": 300},
    cost="n forward, n backward",
    axioms=("completeness", "dummy", "implementation invariance"),
    assumes="the baseline stands for nothing",
)
class GuidedIG(GradientAttribution):
    """Integrated gradients along a path that moves the features of small gradient first."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: a global attribution."""
        return True

    @with_delta
    @args_from(IntegratedGradients.attribute)
    def attribute(
        self,
        inputs: InputsT,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 100,
        return_convergence_delta: bool = False,
        *,
        fraction: float = 0.25,
        max_dist: float = 0.02,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT | tuple[InputsT, Tensor]:
        """Attributions of the inputs' shapes.

        Args:
            n_steps: steps of the walk, one gradient each.
            fraction: part of the features that move at a time, those of the smallest gradients; 1 moves all at once.
            max_dist: how far a feature may be from the straight path, as a part of its way; 0 is integrated gradients.
            batch_size: samples per pass; None = automatic.

        Raises:
            InputError: fraction outside (0, 1], max_dist outside [0, 1].
        """
        check_steps("riemann_left", n_steps)
        if not 0 < fraction <= 1 or not 0 <= max_dist <= 1:
            raise InputError(
                f"fraction must be in (0, 1] and max_dist in [0, 1], got fraction={fraction!r}, max_dist={max_dist!r}."
            )
        chunk = check_chunk("batch_size", batch_size)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            check_real("Guided IG", xs)
            bs = as_starts(baselines, xs, template=inputs)
            maps = _guided(forward, xs, bs, n_steps, fraction, max_dist, chunk, progress)
            if not return_convergence_delta:
                return like(inputs, maps)
            return like(inputs, maps), convergence_delta(forward, maps, xs, bs, chunk)


def _guided(
    forward: Forward,
    xs: tuple[Tensor, ...],
    bs: tuple[Tensor, ...],
    n_steps: int,
    fraction: float,
    max_dist: float,
    chunk: int | None,
    progress: bool | None,
) -> tuple[Tensor, ...]:
    n, device, dtype = xs[0].shape[0], xs[0].device, accumulation_dtype(xs[0].dtype)
    sizes = [x[0].numel() for x in xs]

    def flat(tensors: Any) -> Tensor:
        return torch.cat([t.reshape(len(t), -1).to(dtype) for t in tensors], 1)

    def work(start: int, stop: int) -> Tensor:
        rows = torch.arange(start, stop, device=device)
        walk = _Walk(flat([b[start:stop] for b in bs]), flat([x[start:stop] for x in xs]), fraction, max_dist)
        credit = torch.zeros_like(walk.at)
        for k in range(n_steps):
            at = [p.reshape(stop - start, *x.shape[1:]).to(x.dtype) for p, x in zip(walk.at.split(sizes, 1), xs)]
            credit += walk.step(flat(gradients(forward, at, rows).grads), (k + 1) / n_steps)
        return credit

    with progress_bar(n, "samples", progress) as bar:
        parts = [part for _, _, part in chunks(n, forward.rows_per_pass(xs, chunk), work, bar=bar)]
    return tuple(p.reshape(x.shape) for p, x in zip(torch.cat(parts).split(sizes, 1), xs, strict=True))
