"""Gates with a Gaussian distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError
from interp_plugins.module.gates import StochasticGatesBase


class GaussianStochasticGates(StochasticGatesBase):
    """Gates clamp(mu + std e, 0, 1) with e standard normal, open with probability Phi(mu / std).

    Args:
        n_gates: number of gates.
        mask: which gate each element of a sample has; None: a gate per element.
        reg_weight: factor of the penalty.
        std: standard deviation of the noise, the same for all gates.
        reg_reduction: "sum", "mean" or "none".

    Raises:
        InputError: a deviation that is not positive.

    References:
        Yamada et al. 2020, Feature selection using stochastic gates, arXiv:1810.04247, equations 4 and 5.

    Example:
        from interp_plugins.module import GaussianStochasticGates

        gated, penalty = GaussianStochasticGates(5).eval()(torch.ones(3, 5))
        bool((gated[0] == gated[1]).all())  # -> True
    """

    def __init__(
        self,
        n_gates: int,
        mask: Tensor | None = None,
        reg_weight: float = 1.0,
        std: float = 0.5,
        reg_reduction: str = "sum",
    ) -> None:
        super().__init__(n_gates, mask, reg_weight, reg_reduction)
        if not std > 0:
            raise InputError(f"the standard deviation should be positive, received {std}.")
        self.std = std
        self.mu = nn.Parameter(torch.empty(n_gates).normal_(0.5, 0.01))

    def sampled(self, batch_size: int) -> Tensor:
        """Gates (N, n_gates) before they are cut off: draws in training mode, else the means."""
        if not self.training:
            return self.mu.expand(batch_size, self.n_gates)
        noise = torch.empty(batch_size, self.n_gates, device=self.mu.device, dtype=self.mu.dtype)
        return self.mu + noise.normal_(0, self.std, generator=self.generator)

    def means(self) -> Tensor:
        """The means mu (n_gates,)."""
        return self.mu

    def probabilities(self) -> Tensor:
        """The probability that each gate is above 0 (n_gates,)."""
        return 0.5 * (1 + torch.erf(self.mu / (self.std * math.sqrt(2))))
