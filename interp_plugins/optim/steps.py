"""Optimisers that work number by number, so that rows stay independent, and can leave.

References:
    Kingma, Ba 2015, Adam, arXiv:1412.6980; Dozat 2016, Incorporating Nesterov momentum into Adam (without its schedule
    of momenta).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_BETAS, _EPS = (0.9, 0.999), 1e-8


class Adam:
    """Adam that climbs; the gradient of each row is measured by the row's first one, and so is its small constant.

    Args:
        leaves: (R, ...) each; changed in place.
        lr: size of a step.
        nesterov: look one step of the momentum ahead (NAdam).
    """

    def __init__(self, leaves: Sequence[Tensor], lr: float, nesterov: bool = False):
        self.leaves, self.lr, self.nesterov = list(leaves), lr, nesterov
        self.first = [torch.zeros_like(x) for x in leaves]
        self.second = [torch.zeros_like(x) for x in leaves]
        self.count = torch.zeros(len(leaves[0]), device=leaves[0].device, dtype=leaves[0].dtype)
        self.unit = torch.zeros_like(self.count)

    def step(self, grads: Sequence[Tensor]) -> None:
        """Take one step up."""
        largest = torch.stack([g.abs().flatten(1).amax(1) for g in grads]).amax(0)
        self.unit = torch.where(self.unit > 0, self.unit, largest)
        moving = self.unit > 0
        self.count += moving
        one, two = _BETAS
        steps = self.count.clamp(min=1)
        for x, g, m, v in zip(self.leaves, grads, self.first, self.second, strict=True):
            shape = (-1, *[1] * (x.ndim - 1))
            g = g / torch.where(moving, self.unit, torch.ones_like(self.unit)).reshape(shape)
            m.mul_(one).add_(g, alpha=1 - one)
            v.mul_(two).addcmul_(g, g, value=1 - two)
            root = (v / (1 - two**steps).reshape(shape)).sqrt_().add_(_EPS)
            if self.nesterov:
                ahead = one * m / (1 - one ** (steps + 1)).reshape(shape)
                ahead = ahead + (1 - one) * g / (1 - one**steps).reshape(shape)
            else:
                ahead = m / (1 - one**steps).reshape(shape)
            x.add_(ahead / root, alpha=self.lr)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows."""
        self.leaves, self.first, self.second = ([t[rows] for t in ts] for ts in (self.leaves, self.first, self.second))
        self.count, self.unit = self.count[rows], self.unit[rows]


class UsersOptimiser:
    """A `torch.optim` optimiser of the user's choice, which has to work number by number for rows to stay independent.

    Args:
        leaves: (R, ...) each.
        factory: leaves -> optimiser.
    """

    def __init__(self, leaves: Sequence[Tensor], factory: Callable[[list[Tensor]], Any]):
        self.factory = factory
        self._begin([x.detach().clone().requires_grad_() for x in leaves])

    def _begin(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self.inner = self.factory(parameters)

    @property
    def leaves(self) -> list[Tensor]:
        """The values as they are now."""
        return [p.detach() for p in self.parameters]

    def step(self, grads: Sequence[Tensor]) -> None:
        """Take one step up."""
        for p, g in zip(self.parameters, grads, strict=True):
            p.grad = -g
        self.inner.step()

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows: what the optimiser keeps per number is cut along."""
        before, states = self.parameters, [self.inner.state.get(p, {}) for p in self.parameters]
        self._begin([p.detach()[rows].clone().requires_grad_() for p in before])
        for old, new, state in zip(before, self.parameters, states, strict=True):
            for name, value in state.items():
                own = isinstance(value, Tensor) and value.shape == old.shape
                self.inner.state[new][name] = value[rows] if own else value
