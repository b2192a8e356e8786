"""`GradientAttack`: what `FGSM` and `PGD` have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from interp_plugins.robust.bounds import Bounds
from interp_plugins.robust.perturbation import Perturbation


class GradientAttack(Perturbation):
    """Base class of attacks that climb a loss by its gradient, between bounds.

    Args:
        forward_func: an `nn.Module` or any callable.
        loss_func: (outputs, target) -> a loss per row, or one number; climbed, or where `targeted` descended. None:
            what turns the model away from the target class most.
        lower_bound: smallest value of the inputs, a number or a tensor that broadcasts over them.
        upper_bound: largest value of the inputs, a number or a tensor that broadcasts over them.

    Attributes:
        bound: puts perturbed inputs back between the bounds; may be replaced by a function of a tensor.
        zero_thresh: elements of the gradient up to this size are taken for zero; 0.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        loss_func: Callable[..., Any] | None = None,
        lower_bound: float | Tensor = float("-inf"),
        upper_bound: float | Tensor = float("inf"),
    ):
        self.forward_func, self.loss_func = forward_func, loss_func
        self._bounds = Bounds(lower_bound, upper_bound)
        self.bound: Callable[[Tensor], Tensor] = self._bounds
        self.zero_thresh = 0.0
