"""FGSM: one step along the sign of the gradient (Goodfellow, Shlens and Szegedy 2015, arXiv:1412.6572)."""

from __future__ import annotations

from typing import Any

import torch

from interp_plugins.attr.shared.base import prepared
from interp_plugins.core.tensors import InputsT, like
from interp_plugins.robust.bounds import check_masks
from interp_plugins.robust.climb import Climb, tell_if_flat
from interp_plugins.robust.gradient_attack import GradientAttack
from interp_plugins.robust.norms import check_size, steepest


class FGSM(GradientAttack):
    """One step of a given size along the sign of the loss's gradient.

    Without a loss function the attack climbs what turns the model away from the target class most: the margin of the
    other classes over it, of logits and probabilities alike, which steps as cross entropy does and is never flat where
    the model is sure. What is no class is lowered. The model is left as it was; dropout and batch norm are off.

    Args:
        forward_func: an `nn.Module` or any callable.
        loss_func: (outputs, target) -> a loss per row, or one number; climbed, or descended where `targeted`.
        lower_bound: smallest value of the inputs, a number or a tensor that broadcasts over them.
        upper_bound: largest value of the inputs, a number or a tensor that broadcasts over them.

    Attributes:
        bound: puts perturbed inputs back between the bounds; may be replaced by a function of a tensor.
        zero_thresh: elements of the gradient up to this size are taken for zero; 0.

    Example:
        FGSM(model, lower_bound=0.0, upper_bound=1.0).perturb(x.sigmoid(), epsilon=0.1, target=3).shape == x.shape
    """

    def perturb(
        self,
        inputs: InputsT,
        epsilon: float,
        target: Any,
        additional_forward_args: Any = None,
        targeted: bool = False,
        mask: Any = None,
    ) -> InputsT:
        """The inputs after one step.

        Args:
            inputs: tensor or tuple of tensors, batch first, between the bounds.
            epsilon: size of the step in every element, in units of the inputs; 0 or more.
            target: the true class (index, tuple for outputs with places, or one per sample), or with `targeted` the
                class to be reached; any target of an explanation, whose score is then lowered. With `loss_func`: what
                it takes.
            additional_forward_args: further arguments of the model.
            targeted: step towards the target.
            mask: 1 where an element may change, 0 where not; shapes that broadcast over the inputs.

        Returns:
            Tensors of the inputs' shapes, detached.

        Raises:
            InputError: a negative size, values outside of the bounds, a mask that is none.

        Example:
            FGSM(model).perturb(x, epsilon=0.1, target=3).sub(x).abs().max() < 0.1001  # -> True
        """
        size = check_size("epsilon", epsilon)
        with prepared(self.forward_func, inputs, None, additional_forward_args) as (xs, forward):
            if self.bound is self._bounds:
                self._bounds.check(xs)
            free = check_masks(mask, xs)
            climb = Climb.of(forward, self.loss_func, target, targeted, self.zero_thresh)
            grads = climb.gradient(xs)
            tell_if_flat(grads)
            moved = [steepest(g * m, "Linf").reshape(x.shape) * size for x, g, m in zip(xs, grads, free, strict=True)]
            with torch.no_grad():
                return like(inputs, [self.bound(x + step) for x, step in zip(xs, moved, strict=True)])
