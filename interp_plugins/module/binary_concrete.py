"""Gates with a stretched binary concrete distribution (hard concrete)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError
from interp_plugins.module.gates import StochasticGatesBase


class BinaryConcreteStochasticGates(StochasticGatesBase):
    """Gates that are often exactly 0 or exactly 1, with a gradient in between.

    With u uniform in (0, 1), a gate is clamp(s (b - a) + a, 0, 1) of s = sigmoid((log u - log(1 - u) + log alpha) / t),
    and open with probability sigmoid(log alpha - t log(-a / b)).

    Args:
        n_gates: number of gates.
        mask: which gate each element of a sample has; None: a gate per element.
        reg_weight: factor of the penalty.
        temperature: t, between 0 and 1: near 0 gates are switches, with little gradient.
        lower_bound: a, below 0.
        upper_bound: b, above 1.
        eps: how far u stays from 0 and 1.
        reg_reduction: "sum", "mean" or "none".

    Raises:
        InputError: numbers outside of these ranges.

    References:
        Louizos, Welling and Kingma 2018, arXiv:1712.01312, equations 10 to 12.

    Example:
        from interp_plugins.module import BinaryConcreteStochasticGates

        gated, penalty = BinaryConcreteStochasticGates(5, reg_weight=0.01)(torch.randn(3, 5))
        gated.shape  # -> (3, 5)
    """

    def __init__(
        self,
        n_gates: int,
        mask: Tensor | None = None,
        reg_weight: float = 1.0,
        temperature: float = 2 / 3,
        lower_bound: float = -0.1,
        upper_bound: float = 1.1,
        eps: float = 1e-8,
        reg_reduction: str = "sum",
    ) -> None:
        super().__init__(n_gates, mask, reg_weight, reg_reduction)
        if not 0 < temperature < 1:
            raise InputError(f"the temperature should be between 0 and 1, received {temperature}.")
        if not lower_bound < 0:
            raise InputError(f"the stretch lower bound should be smaller than 0, received {lower_bound}.")
        if not upper_bound > 1:
            raise InputError(f"the stretch upper bound should be larger than 1, received {upper_bound}.")
        self.temperature, self.lower_bound, self.upper_bound, self.eps = temperature, lower_bound, upper_bound, eps
        self.log_alpha_param = nn.Parameter(torch.empty(n_gates).normal_(0, 0.01))
        self.active_prob_offset = temperature * math.log(-lower_bound / upper_bound)

    def sampled(self, batch_size: int) -> Tensor:
        """Stretched gates (N, n_gates): draws in training mode, else the means."""
        if not self.training:
            return self.means().expand(batch_size, self.n_gates)
        alpha = self.log_alpha_param
        u = torch.empty(batch_size, self.n_gates, device=alpha.device, dtype=alpha.dtype)
        u.uniform_(self.eps, 1 - self.eps, generator=self.generator)
        least = torch.finfo(u.dtype).eps  # 1 - 1e-8 is 1 in single precision, and its logit infinite
        return self._stretched(torch.sigmoid((torch.logit(u.clamp(least, 1 - least)) + alpha) / self.temperature))

    def means(self) -> Tensor:
        """The stretched gates without noise (n_gates,)."""
        return self._stretched(torch.sigmoid(self.log_alpha_param))

    def probabilities(self) -> Tensor:
        """The probability that each gate is above 0 (n_gates,)."""
        return torch.sigmoid(self.log_alpha_param - self.active_prob_offset)

    def _stretched(self, s: Tensor) -> Tensor:
        return s * (self.upper_bound - self.lower_bound) + self.lower_bound
