"""Integrated Gradients (Sundararajan, Taly, Yan, ICML 2017, arXiv:1703.01365), equation 1.

    IG_i(x) = (x_i - x'_i) * integral over a in [0, 1] of dF(x' + a (x - x'))/dx_i

Completeness: the attributions sum to F(x) - F(x'). `tol` takes ever finer rules until the map has settled
(`attr/gradient/nested.py`), because no fixed number of steps is right for all samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from interp_plugins.attr.gradient.nested import check_path_tolerance, nested_path_gradients
from interp_plugins.attr.shared.arguments import with_delta
from interp_plugins.attr.shared.base import GradientAttribution, MultipliesByInputs, convergence_delta, prepared
from interp_plugins.attr.shared.defaults import path_defaults
from interp_plugins.attr.shared.path import path_gradients
from interp_plugins.attr.shared.quadrature import check_steps, quadrature
from interp_plugins.core.baseline import as_starts
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT, check_float, credit_in_place, describe, like


def check_offsets(offsets: Any, n: int) -> Tensor | None:
    """Refuse what is no position per sample."""
    if offsets is None:
        return None
    if not isinstance(offsets, Tensor) or offsets.shape != (n,) or not bool(((offsets >= 0) & (offsets <= 1)).all()):
        raise InputError(f"offsets must be a tensor ({n},) of positions from 0 to 1, got {describe(offsets)}.")
    return offsets.detach()


@register(
    "integrated_gradients",
    aliases=("ig",),
    reference="Sundararajan et al. 2017, arXiv:1703.01365",
    defaults=path_defaults,
    fast={"n_steps": 16, "method": "fejer"},
    go_together=("n_steps", "method"),
    thorough={"n_steps": 200},
    shares_targets=True,
    compiles=True,
    game="aumann_shapley",
    cost="n forward, n backward",
    axioms=("completeness", "linearity", "dummy", "symmetry", "implementation invariance"),
    assumes="the baseline stands for nothing",
)
class IntegratedGradients(MultipliesByInputs, GradientAttribution):
    """Path integral of the gradient from a baseline to the input.

    Args:
        forward_func: model or callable.
        multiply_by_inputs: multiply by (input - baseline), "global" attribution (default); False gives the mean
            gradient along the path.

    Example:
        maps, delta = IntegratedGradients(model).attribute(x, target=3, return_convergence_delta=True)

        def square(x):
            return (x**2).sum(1)

        IntegratedGradients(square).attribute(torch.tensor([[3.0, -1.0]]))  # -> [[9.0, 1.0]]
    """

    @with_delta
    def attribute(
        self,
        inputs: InputsT,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        tol: float | None = None,
        max_steps: int = 512,
        offsets: Tensor | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT | tuple[InputsT, Tensor]:
        """Integrated gradients.

        Args:
            inputs: tensor or tuple of tensors, batch first, floating point.
            baselines: start of the path: None (zeros), number, name, tensor, tuple or function; see `as_baselines`.
            target: see `core.target.as_target`.
            additional_forward_args: further positional arguments of the model; batched tensors follow the batch.
            n_steps: nodes of the quadrature, 50 by default. Not used with `tol`.
            method: "gausslegendre", "fejer" or "riemann_left", "_right", "_middle", "_trapezoid". Not used with `tol`.
            internal_batch_size: rows (samples x steps) per pass; None = automatic, halved when memory runs out.
            return_convergence_delta: also return sum(attributions) - (F(x) - F(x')) per sample.
            tol: relative error that each sample's map (L2, estimated) and its sum may have, such as 0.05; the sum's is
                the completeness error, exact, relative to F(x) - F(x') or to a quarter of the map's size (L2),
                whichever is larger.
                Rules of 7, 15, 31, ... nodes follow each other until both are below `tol` for each sample or the next
                would take more than `max_steps` gradients; a `ConvergenceWarning` says when it was not reached. Both,
                because the completeness error alone can be small by luck. The map is the one of `method="fejer"` with
                as many steps, so never worse than this fixed rule.
            max_steps: gradients per sample at most, with `tol`; the last rule is the largest of 7, 15, 31, ... below.
            offsets: positions of the nodes within the rule's intervals, (N,) from 0 to 1, instead of the rule's own.
                Uniform random ones make the expected map exact for any n_steps; averages (NoiseTunnel) use that.
            batch_size: the same as internal_batch_size.
            progress: None = a bar for long work, True, False.

        Returns:
            Attributions in the inputs' layout, or (attributions, delta (N,)). What `tol` reached is in
            `core.report.collect()` ("map_error", "n_gradients" per sample) and in `Explanation.meta`.

        Raises:
            InputTypeError, InputError, TargetError, ModelError: each says what came and what was expected.
        """
        chunk = check_chunk("internal_batch_size", internal_batch_size) or check_chunk("batch_size", batch_size)
        check_steps(method, n_steps)
        check_path_tolerance(tol, max_steps)
        if offsets is not None and tol is not None:
            raise InputError("offsets move the nodes of a fixed rule; with tol, nodes go where they are needed.")
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            bs = as_starts(baselines, xs, template=inputs)
            if tol is None:
                rule = quadrature(method, n_steps)
                places = check_offsets(offsets, len(xs[0]))
                grads, _ = path_gradients(forward, xs, bs, rule, offsets=places, chunk=chunk, progress=progress)
            else:
                grads = nested_path_gradients(forward, xs, bs, tol, max_steps, chunk=chunk, progress=progress)
            maps: Sequence[Tensor] = grads
            if self._multiply_by_inputs:
                maps = [credit_in_place(*one, forward.target.count) for one in zip(xs, bs, grads, strict=True)]
            if not return_convergence_delta:
                return like(inputs, maps)
            return like(inputs, maps), convergence_delta(forward, maps, xs, bs, chunk)
