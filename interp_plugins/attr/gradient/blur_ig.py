"""Blur Integrated Gradients (Xu, Venugopalan, Sundararajan, CVPR 2020, arXiv:2004.03383): from blurred to sharp.

    integral of dF/dz(gamma(a)) * d gamma(a), a in [0, 1],   gamma(a) = the input blurred with sigma (1 - a) max_sigma

No colour stands for "nothing", as a baseline's does: details are what is missing at the start. Cost: one forward and
one backward pass per step and sample.
"""

from __future__ import annotations

from typing import Any

from interp_plugins.attr.gradient.any_path import sum_over_intervals
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.base import GradientAttribution, prepared
from interp_plugins.attr.shared.images import blurred, check_one_picture
from interp_plugins.attr.shared.quadrature import check_steps, quadrature
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT, check_float, like


@register(
    "blur_ig",
    aliases=("blur_integrated_gradients",),
    title="Blur IG",
    reference="Xu et al. 2020, arXiv:2004.03383",
    applies_to="image",
    compiles=True,
    cost="n forward, n backward",
    axioms=("linearity", "implementation invariance"),
    assumes="detail is what counts",
)
class BlurIG(GradientAttribution):
    """Path integral of the gradient from a blurred picture to the sharp one."""

    @args_from()
    def attribute(
        self,
        inputs: InputsT,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "riemann_middle",
        internal_batch_size: int | None = None,
        *,
        max_sigma: float | None = None,
        progress: bool | None = None,
    ) -> InputsT:
        """Attributions of the input's shape; they add up to F(x) - F(x blurred with max_sigma).

        Args:
            inputs: one tensor with axes of space, (N, C, H, W) for pictures.
            n_steps: intervals of the path.
            method: rule whose intervals and nodes are used.
            max_sigma: standard deviation of the first blur in pixels; None: 50 for 224 pixels, in proportion to the
                shorter side.

        Raises:
            InputError: several inputs, an input without axes of space, or a sigma that is not positive.
        """
        check_steps(method, n_steps)
        if max_sigma is not None and not (isinstance(max_sigma, (int, float)) and 0 < max_sigma < float("inf")):
            raise InputError(f"max_sigma is a standard deviation in pixels, positive and finite; got {max_sigma!r}.")
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            check_one_picture("Blur IG", xs)
            x, most = xs[0], max_sigma or 50 / 224 * min(xs[0].shape[2:])
            return like(
                inputs,
                sum_over_intervals(
                    forward,
                    xs,
                    lambda rows, alphas: (blurred(x.index_select(0, rows), most * (1 - alphas)),),
                    quadrature(method, n_steps),
                    chunk=check_chunk("internal_batch_size", internal_batch_size),
                    progress=progress,
                ),
            )
