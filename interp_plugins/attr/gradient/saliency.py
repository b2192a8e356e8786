"""Gradient methods: one forward and one backward pass per sample.

Saliency: |dF/dx| (Simonyan, Vedaldi, Zisserman 2013, arXiv:1312.6034).
InputXGradient: x * dF/dx (Shrikumar et al. 2016, arXiv:1605.01713).
"""

from __future__ import annotations

from typing import Any

from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.base import GradientAttribution, batch_gradients, prepared
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.multi_target import repeated
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT, credit, like


@register(
    "saliency",
    unsigned=True,
    aliases=("gradient", "grad"),
    reference="Simonyan et al. 2013, arXiv:1312.6034",
    shares_targets=True,
    begins_with_gradient=True,
    game="gradient",
    cost="1 forward, 1 backward",
    axioms=("dummy", "symmetry", "implementation invariance"),
    assumes="small changes tell",
)
class Saliency(GradientAttribution):
    """Gradient of the score with respect to the input.

    Example:
        def square(x):
            return (x**2).sum(1)

        Saliency(square).attribute(torch.tensor([[3.0, -1.0]]))  # -> [[6.0, 2.0]]
        Saliency(square).attribute(torch.tensor([[3.0, -1.0]]), abs=False)  # -> [[6.0, -2.0]]
    """

    def attribute(
        self,
        inputs: InputsT,
        target: Any = None,
        abs: bool = True,
        additional_forward_args: Any = None,
        *,
        batch_size: int | None = None,
    ) -> InputsT:
        """The gradient, absolute by default.

        Args:
            inputs: tensor or tuple of tensors, batch first, floating point.
            target: see `core.target.as_target`.
            abs: return absolute values; False keeps the sign.
            additional_forward_args: further positional arguments of the model; batched tensors follow the batch.
            batch_size: samples per pass; None = automatic.

        Returns:
            Tensor or tuple of the inputs' shapes.

        Raises:
            InputTypeError, InputError, TargetError, ModelError: each says what came and what was expected.
        """
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            grads = batch_gradients(forward, xs, chunk=check_chunk("batch_size", batch_size)).grads
            return like(inputs, [g.abs() for g in grads] if abs else grads)


@register(
    "input_x_gradient",
    first_look=("image", "volume", "clip", "tabular", "series", "sequence", "text", "generic"),
    aliases=("ixg", "gradient_x_input"),
    reference="Shrikumar et al. 2016, arXiv:1605.01713",
    shares_targets=True,
    begins_with_gradient=True,
    game="gradient",
    cost="1 forward, 1 backward",
    axioms=("linearity", "dummy", "symmetry", "implementation invariance"),
    assumes="nearly linear between zero and the input",
)
class InputXGradient(GradientAttribution):
    """Input times gradient: exact for linear models without a bias.

    Example:
        def weighted(x):
            return 2 * x[:, 0] - x[:, 1]

        InputXGradient(weighted).attribute(torch.tensor([[3.0, 5.0]]))  # -> [[6.0, -5.0]]
    """

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: a global attribution."""
        return True

    @args_from(Saliency.attribute)
    def attribute(
        self, inputs: InputsT, target: Any = None, additional_forward_args: Any = None, *, batch_size: int | None = None
    ) -> InputsT:
        """Input times gradient; arguments, shapes and errors as in `Saliency.attribute`."""
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            grads = batch_gradients(forward, xs, chunk=check_chunk("batch_size", batch_size)).grads
            return like(inputs, [credit(x, g) for x, g in zip(repeated(xs, forward.target.count), grads, strict=True)])
