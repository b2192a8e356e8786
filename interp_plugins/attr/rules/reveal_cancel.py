"""DeepLIFT's RevealCancel rule (Shrikumar et al. 2017, arXiv:1704.02685, sections 3.5.1 and 3.5.3).

A nonlinearity y = f(z) behind a linear layer z = sum_i w_i x_i + b sees two changes: d+ the sum of the positive
contributions w_i (x_i - x'_i), d- that of the negative ones, z - z' = d+ + d-. Each explains what it changes, averaged
over the two orders (the Shapley value of the two groups):

    e+ = (f(z' + d+) - f(z') + f(z) - f(z' + d-)) / 2,      e- = (f(z' + d-) - f(z') + f(z) - f(z' + d+)) / 2.

The multiplier of an input is w_i e+ / d+ where its contribution is positive, and w_i e- / d- where it is negative. So
contributions that cancel in z are seen, where rescale, which knows z - z' alone, shows none. Sums stay complete.

In the backward pass the two multipliers of z must reach the linear layer apart: the first arrives as its gradient, and
the second minus the first is left for it by the nonlinearity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.errors import ModelError
from .call import Call, Rule, call_behind
from .names import ELEMENTWISE, WEIGHTED
from .paired import PairedMode
from .relevance import Weights
from .rescale import bases, significant


class RevealCancelMode(PairedMode):
    """Rescale's mode, but nonlinearities take the contributions of the linear layer before them apart."""

    def __init__(self, eps: float = 1e-10):
        super().__init__(eps)
        self.eps = eps
        self.left: dict[int, Tensor] = {}

    def _fixed(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Linear layers are recorded here: their contributions are asked for."""
        return name not in WEIGHTED and super()._fixed(name, args, kwargs)

    def choose(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], carrying: list[Tensor]) -> Rule | None:
        """RevealCancel for a linear layer and the nonlinearity behind it; rescale's rule for the rest.

        Raises:
            ModelError: a nonlinearity that does not stand behind a linear layer or convolution with weights of its own.
        """
        if self.position is not None and len(carrying) == 1:
            if name in WEIGHTED and carrying[0] is (args[0] if args else kwargs.get("input")):
                return self.linear
            if name in ELEMENTWISE:
                source = call_behind(carrying[0])
                if source is None or source.rule != self.linear:
                    raise ModelError(
                        f"RevealCancel takes apart what a linear layer or convolution adds up, and {name!r} stands "
                        "behind none in this model (a batch or layer normalization, a sum or the input itself lies "
                        "between). Fold batch norms into the convolutions, or use rule='rescale'."
                    )
                return _Nonlinearity(source, self)
        return super().choose(name, args, kwargs, carrying)

    def linear(self, call: Call, grads: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
        """Weights times the multiplier of the sign that each contribution has."""
        (plus,), x = grads, call.xs[0]
        if id(call) not in self.left:
            return call.pull(grads)
        minus = plus + self.left.pop(id(call))
        change = x - bases(call)[0]
        up = _pulled(call, plus, minus)  # of an input that rose: positive weights contribute to d+
        down = _pulled(call, minus, plus)
        return [torch.where(change > 0, up, torch.where(change < 0, down, (up + down) / 2))]


class _Nonlinearity:
    """The rule of a call f(z) behind the linear call that made z."""

    def __init__(self, source: Call, mode: RevealCancelMode):
        self.source, self.mode = source, mode

    def __call__(self, call: Call, grads: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
        """The multiplier e+ / d+, times g; what negative contributions get more is left for the linear layer."""
        (z,), (base,), (g,) = call.xs, bases(call), grads
        up, down = (d.reshape(z.shape) for d in _changes(self.source))
        (y,), (y_base,) = call.run(), call.run([base])
        (y_up,), (y_down,) = call.run([base + up]), call.run([base + down])
        effects = (y_up - y_base + y - y_down) / 2, (y_down - y_base + y - y_up) / 2
        plain = None
        found = []
        for effect, change in zip(effects, (up, down), strict=True):
            moved = significant(change, z, base, self.mode.eps)
            if not bool(moved.all()) and plain is None:
                plain = call.pull(grads)[0]
            ratio = g * effect / torch.where(moved, change, 1)
            found.append(ratio if plain is None else torch.where(moved, ratio, plain))
        key, more = id(self.source), found[1] - found[0]
        self.mode.left[key] = self.mode.left[key] + more if key in self.mode.left else more
        return [found[0]]


def _weights(call: Call) -> Weights:
    linear = Weights.of(call)
    assert linear is not None
    return linear


def _changes(call: Call) -> tuple[Tensor, Tensor]:
    """d+ and d-: the sums of the positive and of the negative contributions to each output."""
    linear, change = _weights(call), call.xs[0] - bases(call)[0]
    high, low = linear.weight.clamp(min=0), linear.weight.clamp(max=0)
    rise, fall = change.clamp(min=0), change.clamp(max=0)
    up = linear.apply(rise, high, None) + linear.apply(fall, low, None)
    return up, linear.apply(rise, low, None) + linear.apply(fall, high, None)


def _pulled(call: Call, for_positive: Tensor, for_negative: Tensor) -> Tensor:
    """Transposed weights, the positive ones times one gradient and the negative ones times another."""
    linear = _weights(call)
    with torch.enable_grad():
        x = linear.x.detach().clone().requires_grad_()
        total = (linear.apply(x, linear.weight.clamp(min=0), None) * for_positive).sum()
        total = total + (linear.apply(x, linear.weight.clamp(max=0), None) * for_negative).sum()
        return torch.autograd.grad(total, x)[0]
