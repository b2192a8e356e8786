"""`StochasticGatesBase`: what both kinds of gates share: masks, the penalty, and when they draw."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.tensors import describe

_REDUCTIONS = ("none", "mean", "sum")


class StochasticGatesBase(nn.Module, ABC):
    """Base class of gates that are drawn in training mode and are their means in eval mode.

    A subclass says how a gate is drawn (`sampled`), its mean (`means`) and its probability of being open
    (`probabilities`).

    Args:
        n_gates: number of gates.
        mask: which gate each element of a sample has, whole numbers from 0 to n_gates - 1 that broadcast over the
            input; None: a gate per element.
        reg_weight: factor of the penalty.
        reg_reduction: "sum" or "mean" of the probabilities over the gates, or "none".

    Raises:
        InputError: a mask without the last gate, an unknown reduction.
    """

    mask: Tensor | None

    def __init__(
        self, n_gates: int, mask: Tensor | None = None, reg_weight: float = 1.0, reg_reduction: str = "sum"
    ) -> None:
        super().__init__()
        if mask is not None:
            check_mask(mask, n_gates)
        if reg_reduction not in _REDUCTIONS:
            raise InputError(f"reg_reduction must be one of [none, mean, sum], received: {reg_reduction!r}.")
        self.n_gates, self.reg_weight, self.reg_reduction = n_gates, reg_weight, reg_reduction
        self.register_buffer("mask", None if mask is None else mask.detach().clone().long())
        self.generator: torch.Generator | None = None

    def forward(self, input_tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply the input by its gates.

        In training mode gates are drawn for each sample, from `self.generator` where one is set, else from torch's
        global generator as layers of dropout draw; in eval mode nothing is drawn.

        Args:
            input_tensor: (N, ...).

        Returns:
            The gated input, and the penalty: the probability that gates are open, times `reg_weight`.

        Raises:
            InputError: without a mask, another number of elements per sample than gates.
        """
        n = input_tensor.shape[0] if input_tensor.ndim else 0
        if self.mask is None and (input_tensor.ndim < 2 or input_tensor[:1].numel() != self.n_gates):
            raise InputError(
                f"{self.n_gates} gates for an input of shape {tuple(input_tensor.shape)}: without mask= a sample needs "
                f"as many elements as there are gates, (N, {self.n_gates})."
            )
        gates = self.sampled(n).clamp(0, 1)
        if self.mask is not None:
            gates = gates.gather(1, self.mask.expand(input_tensor.shape).reshape(n, -1))
        return input_tensor * gates.reshape(input_tensor.shape).to(input_tensor.dtype), self._penalty()

    def _penalty(self) -> Tensor:
        p = self.probabilities()
        reduced = p.sum() if self.reg_reduction == "sum" else p.mean() if self.reg_reduction == "mean" else p
        return reduced * self.reg_weight

    def get_gate_values(self, clamp: bool = True) -> Tensor:
        """The gates as they are in eval mode, (n_gates,).

        Args:
            clamp: between 0 and 1; False: the means themselves, which order gates that are wide open or shut.
        """
        found = self.means()
        return (found.clamp(0, 1) if clamp else found).detach().clone()

    def get_gate_active_probs(self) -> Tensor:
        """The probability that each gate is open, that is above 0, in training mode (n_gates,)."""
        return self.probabilities().detach()

    @abstractmethod
    def sampled(self, batch_size: int) -> Tensor:
        """Gates for so many samples (N, n_gates), not yet between 0 and 1: draws in training mode, else the means."""

    @abstractmethod
    def means(self) -> Tensor:
        """The mean of each gate's distribution before it is cut off at 0 and 1, (n_gates,)."""

    @abstractmethod
    def probabilities(self) -> Tensor:
        """The probability that each gate is open, with its gradient (n_gates,)."""


def check_mask(mask: Tensor, n_gates: int) -> None:
    """Refuse what does not name gates.

    Args:
        mask: as for `StochasticGatesBase`.
        n_gates: number of gates.

    Raises:
        InputTypeError: no tensor of whole numbers.
        InputError: numbers outside of the gates, or no element with the last one.
    """
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
        raise InputTypeError(f"mask must be a tensor of whole numbers, got {describe(mask)}.")
    low, high = (int(mask.min()), int(mask.max())) if mask.numel() else (0, -1)
    if low < 0 or high != n_gates - 1:
        raise InputError(
            f"mask holds gates from {low} to {high}, and there are {n_gates}: the maximum mask index should be the "
            "number of gates - 1, and none is below 0."
        )
