"""PGD: FGSM again and again within a ball around the inputs (Madry et al. 2018, arXiv:1706.06083)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.shared.base import prepared
from interp_plugins.core.errors import InputError
from interp_plugins.core.random import make_generator
from interp_plugins.core.tensors import InputsT, like
from interp_plugins.robust.bounds import check_masks
from interp_plugins.robust.climb import Climb, tell_if_flat
from interp_plugins.robust.gradient_attack import GradientAttack
from interp_plugins.robust.norms import check_norm, check_size, into_ball, random_in_ball, steepest


class PGD(GradientAttack):
    """Steps along the gradient, each put back into a ball around the input and between the bounds.

    In Linf a step goes along the gradient's sign, in L2 along the gradient, in L1 along its largest elements: what
    climbs a linear function most. Of several inputs each has a ball of its own.

    Args:
        forward_func: an `nn.Module` or any callable.
        loss_func: as for `FGSM`; None: what turns the model away from the target class most.
        lower_bound: smallest value of the inputs, a number or a tensor that broadcasts over them.
        upper_bound: largest value of the inputs, a number or a tensor that broadcasts over them.

    Attributes:
        bound: puts perturbed inputs back between the bounds; may be replaced by a function of a tensor.
        zero_thresh: elements of the gradient up to this size are taken for zero; 0.

    Example:
        PGD(model).perturb(x, radius=0.1, step_size=0.03, step_num=5, target=3, norm="L2").shape == x.shape  # -> True
    """

    def perturb(
        self,
        inputs: InputsT,
        radius: float,
        step_size: float,
        step_num: int,
        target: Any,
        additional_forward_args: Any = None,
        targeted: bool = False,
        random_start: bool = False,
        norm: str = "Linf",
        mask: Any = None,
        *,
        seed: int | None = None,
    ) -> InputsT:
        """The inputs after all steps.

        Args:
            inputs: tensor or tuple of tensors, batch first, between the bounds.
            radius: largest change of a sample, in the norm, in units of the inputs.
            step_size: size of a step, in the same norm.
            step_num: number of steps, at least 1.
            target: as for `FGSM.perturb`.
            additional_forward_args: further arguments of the model.
            targeted: step towards the target.
            random_start: begin at a random point, uniform in the ball, instead of at the input.
            norm: "Linf", "L2" or "L1".
            mask: 1 where an element may change, 0 where not; shapes that broadcast over the inputs.
            seed: of the random start; None: as torch's global generator stands, which is left as it was.

        Returns:
            Tensors of the inputs' shapes, detached.

        Raises:
            InputError: a negative size, no steps, an unknown norm, values outside of the bounds, a mask that is none.

        Example:
            moved = PGD(model).perturb(x, 0.5, 0.1, 10, target=3, norm="L2") - x
            bool((moved.flatten(1).norm(dim=1) < 0.5001).all())  # -> True
        """
        reach, step, norm = check_size("radius", radius), check_size("step_size", step_size), check_norm(norm)
        if isinstance(step_num, bool) or not isinstance(step_num, int) or step_num < 1:
            raise InputError(f"step_num must be a positive int, got {step_num!r}.")
        with prepared(self.forward_func, inputs, None, additional_forward_args) as (xs, forward):
            if self.bound is self._bounds:
                self._bounds.check(xs)
            free = check_masks(mask, xs)
            climb = Climb.of(forward, self.loss_func, target, targeted, self.zero_thresh)
            flat = [x.reshape(len(x), -1) for x in xs]
            change = [torch.zeros_like(f) for f in flat]
            if random_start:
                generator = make_generator(seed)
                change = [random_in_ball(f, m, reach, norm, generator) for f, m in zip(flat, free, strict=True)]
                change = self._inside(xs, change)
            for k in range(step_num):
                grads = climb.gradient([x + c.reshape(x.shape) for x, c in zip(xs, change, strict=True)])
                if k == 0:
                    tell_if_flat(grads)
                moved = [c + step * steepest(g * m, norm) for c, g, m in zip(change, grads, free, strict=True)]
                change = self._inside(xs, [into_ball(c, reach, norm) for c in moved])
            return like(inputs, [self.bound(x + c.reshape(x.shape)) for x, c in zip(xs, change, strict=True)])

    def _inside(self, inputs: Sequence[Tensor], change: Sequence[Tensor]) -> list[Tensor]:
        """Changes that stay between the bounds; since the inputs do, none becomes larger."""
        return [(self.bound(x + c.reshape(x.shape)) - x).reshape(c.shape) for x, c in zip(inputs, change, strict=True)]
