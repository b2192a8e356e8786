"""IDGI, important direction gradient integration (Yang, Wang, Bilgic, CVPR 2023, arXiv:2303.14242), algorithm 1.

    sum over the intervals of the path of  g^2 / |g|^2 * (F(end) - F(begin)),   g = dF/dz at the interval's node

Only the part of a step along the gradient changes the score; the rest of the step, which integrated gradients credits
as noise, is left out. The map adds up to F(x) - F(x') for any number of steps. Cost: two forward and one backward pass
per step and sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.gradient.any_path import straight, sum_over_intervals
from interp_plugins.attr.gradient.integrated_gradients import IntegratedGradients
from interp_plugins.attr.shared.arguments import args_from, with_delta
from interp_plugins.attr.shared.base import GradientAttribution, convergence_delta, prepared
from interp_plugins.attr.shared.defaults import path_defaults
from interp_plugins.attr.shared.quadrature import check_steps, quadrature
from interp_plugins.core.baseline import as_starts
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.forward import Forward, Gradients
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT, accumulation_dtype, check_float, expand_rows, like, per_sample_sum


@register(
    "idgi",
    title="IDGI",
    reference="Yang, Wang, Bilgic 2023, arXiv:2303.14242",
    defaults=path_defaults,
    fast={"n_steps": 20},
    thorough={"n_steps": 300},
    compiles=True,
    cost="2n forward, n backward",
    axioms=("completeness", "dummy", "implementation invariance"),
    assumes="the baseline stands for nothing",
)
class IDGI(GradientAttribution):
    """Changes of the score along the path, shared out by the squared gradient."""

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
        n_steps: int = 50,
        method: str = "riemann_left",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        progress: bool | None = None,
    ) -> InputsT | tuple[InputsT, Tensor]:
        """Attributions of the inputs' shapes; arguments as in `IntegratedGradients.attribute`.

        Args:
            target: see `core.target.as_target`. The paper takes the probability: `Probability(as_target(c, n))`.
            n_steps: intervals of the path.
            method: where in an interval the gradient is taken; the paper takes its beginning, "riemann_left".
        """
        check_steps(method, n_steps)
        chunk = check_chunk("internal_batch_size", internal_batch_size)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            bs = as_starts(baselines, xs, template=inputs)
            share = _Share(forward, known_begin=method == "riemann_left")
            maps = sum_over_intervals(
                forward, xs, straight(xs, bs), quadrature(method, n_steps), share, chunk=chunk, progress=progress
            )
            if not return_convergence_delta:
                return like(inputs, maps)
            return like(inputs, maps), convergence_delta(forward, maps, xs, bs, chunk)


class _Share:
    """The change of the score over an interval, shared out by the squared gradient."""

    def __init__(self, forward: Forward, known_begin: bool):
        self.forward, self.known_begin = forward, known_begin

    def __call__(
        self, got: Gradients, before: Sequence[Tensor], after: Sequence[Tensor], rows: Tensor
    ) -> Sequence[Tensor]:
        begin = got.scores if self.known_begin else self.forward.scores(before, rows)
        change = self.forward.scores(after, rows) - begin
        squares = [g.abs().square() if g.is_complex() else g.to(accumulation_dtype(g.dtype)) ** 2 for g in got.grads]
        norm = per_sample_sum(squares)
        factor = torch.where(norm > 0, change.to(norm) / norm.where(norm > 0, torch.ones_like(norm)), 0.0)
        return [s * expand_rows(factor.to(s), s) for s in squares]
