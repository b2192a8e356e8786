"""The rules of layer-wise relevance propagation: how the relevance of an output is shared among the operands.

What goes backward is relevance itself, R. For a linear step z = sum_i x_i w_i + b all rules have one form,

    R_i = sum over groups of  a * x_i' w_i' / stabilized(sum_i x_i' w_i' + b') * R

with changed values x', w', b' (Bach et al. 2015, doi:10.1371/journal.pone.0130140; Montavon et al. 2019, "Layer-Wise
Relevance Propagation: An Overview"). `stabilized(z)` is z + epsilon * sign(z), with sign(0) = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.backward.rules.call import OpCall
from interp_plugins.attr.backward.rules.decompose import STATISTICS
from interp_plugins.attr.backward.rules.names import PRODUCTS, WEIGHTED
from interp_plugins.core.errors import InputError

Change = Callable[[Tensor], Tensor]


def stabilized(z: Tensor, epsilon: float) -> Tensor:
    """The denominator z, moved away from zero by epsilon."""
    return z + epsilon * torch.where(z < 0, -1.0, 1.0).to(z.dtype)


@dataclass
class Account:
    """Where relevance went that the operands did not get.

    Attributes:
        bias: to constants: biases, offsets, running means (for an affine step f, the share of f(0)).
        stabilizer: to the epsilon of denominators.
    """

    bias: float = 0.0
    stabilizer: float = 0.0


class RelevanceRule:
    """Base of the rules: called with a call and the relevance of its outputs, gives that of its operands."""

    def __call__(self, call: OpCall, relevance: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
        """Relevance of the operands."""
        raise NotImplementedError


@dataclass(frozen=True)
class Epsilon(RelevanceRule):
    """Shares in proportion to the contributions x_i * dz/dx_i: LRP-0 for epsilon = 0, LRP-epsilon otherwise.

    It holds for any function: for those that are not linear it is the first-order Taylor expansion at the operands, and
    for products of k operands each gets one k-th (Achtibat et al. 2024, arXiv:2402.05602, equations 8 and 14).

    Args:
        epsilon: stabilizer; larger values absorb small and contradictory contributions.
    """

    epsilon: float = 1e-9

    def __call__(self, call: OpCall, relevance: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
        """The contribution x * dz/dx, times R / stabilized(z)."""
        parts = len(call.where) if call.name in PRODUCTS else 1

        def shares(outputs: list[Tensor]) -> list[Tensor]:
            return [r / stabilized(z, self.epsilon) for r, z in zip(relevance, outputs, strict=True)]

        found = call.pull(shares)
        if call.account is not None:
            outputs, offsets = call.run(), call.run([torch.zeros_like(x) for x in call.xs])
            for r, z, q, offset in zip(relevance, outputs, shares(outputs), offsets, strict=True):
                if offset.isfinite().all():
                    call.account.bias += float((q * offset).sum())
                call.account.stabilizer += float((r - q * z).sum())
        # A masked logit is -inf and has no influence: its share is zero, not inf * 0.
        return [torch.where(c == 0, 0, x * c) / parts for x, c in zip(call.xs, found, strict=True)]


@dataclass(frozen=True)
class Pass(RelevanceRule):
    """Hands the relevance on unchanged, where an operand has the output's shape; shares by Epsilon elsewhere."""

    def __call__(self, call: OpCall, relevance: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
        """The relevance of the output, given to the operand of the same shape."""
        if len(call.where) == 1 and len(relevance) == 1 and relevance[0].shape == call.xs[0].shape:
            return [relevance[0]]
        return Epsilon()(call, relevance)


@dataclass(frozen=True)
class Route(RelevanceRule):
    """Hands the relevance to where the value came from: all of it to the winner of a maximum."""

    def __call__(self, call: OpCall, relevance: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
        """The plain derivative of a selection."""
        return call.pull(relevance)


@dataclass(frozen=True)
class FixedScale(RelevanceRule):
    """A rule for normalizations: the scale 1/sigma counts as a constant, what remains is linear.

    Ali et al. 2022, arXiv:2202.07304 (proposition 3); for an RMS norm the relevance passes unchanged.

    Args:
        epsilon: stabilizer.
    """

    epsilon: float = 1e-9

    def __call__(self, call: OpCall, relevance: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
        """Epsilon on the linear function that the normalization is at this point."""
        take_apart = STATISTICS.get(call.name)
        if take_apart is None or len(call.where) != 1:
            return Epsilon(self.epsilon)(call, relevance)
        (r,), (x,) = relevance, call.xs
        with torch.enable_grad():
            at = x.detach().clone().requires_grad_()
            args, kwargs = call.arguments([at])
            z = take_apart(*args, **kwargs, fixed=True)
            if z is NotImplemented:
                return Epsilon(self.epsilon)(call, relevance)
            q = r / stabilized(z.detach(), self.epsilon)
            (c,) = torch.autograd.grad((z * q).sum(), [at])
        if call.account is not None:
            offset = z.detach() - _directional(call, take_apart, x)
            call.account.bias += float((q * offset).sum())
            call.account.stabilizer += float((r - q * z.detach()).sum())
        return [x * c]


def _directional(call: OpCall, take_apart: Callable[..., Any], x: Tensor) -> Tensor:
    """The linear part's value: z(x) - z(0) for the same fixed scale, by taking the bias away."""
    args, kwargs = call.arguments([x])
    names = ("input", "shape", "weight", "bias") if call.name != "instance_norm" else ("", "", "", "", "bias")
    at = names.index("bias")
    if "bias" in kwargs:
        kwargs = {**kwargs, "bias": None}
    elif len(args) > at and call.name != "rms_norm":
        args = (*args[:at], None, *args[at + 1 :])
    out: Tensor = take_apart(*args, **kwargs, fixed=True)
    return out


# -- rules that change weights ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """One term of a denominator: changed values, weights and biases, and its sign."""

    x: Change
    weight: Change
    bias: Change
    sign: int = 1


@dataclass(frozen=True)
class Group:
    """Terms with one denominator, their factor, and the outputs they are for (0: all; 1, -1: of that sign)."""

    terms: tuple[Term, ...]
    factor: float = 1.0
    of_sign: int = 0


def _as_is(t: Tensor) -> Tensor:
    return t


def _plus(t: Tensor) -> Tensor:
    return t.clamp(min=0)


def _minus(t: Tensor) -> Tensor:
    return t.clamp(max=0)


@dataclass
class Weights:
    """A call that is linear in its one operand, with constant weights.

    Attributes:
        x: the operand's value.
        weight: the weights.
        bias: the bias, or None.
        apply: the function of all three.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]

    @classmethod
    def of(cls, call: OpCall) -> Weights | None:
        """The parts of the call, or None where the function has no weights of its own."""
        if len(call.where) != 1:
            return None
        args, kwargs = call.arguments()
        x = call.xs[0]
        if call.name in WEIGHTED:
            names = ("input", "weight", "bias")
            given = {**dict(zip(names, args)), **{k: v for k, v in kwargs.items() if k in names}}
            rest, more = args[3:], {k: v for k, v in kwargs.items() if k not in names}
            if given.get("input") is not x:
                return None
            return cls(x, given["weight"], given.get("bias"), lambda t, w, b: call.func(t, w, b, *rest, **more))
        if call.name == "addmm" and len(args) == 3 and not kwargs and args[1] is x:
            return cls(x, args[2], args[0], lambda t, w, b: t @ w if b is None else b + t @ w)
        if call.name in ("matmul", "mm", "bmm") and len(args) == 2:
            if args[0] is x:
                return cls(x, args[1], None, lambda t, w, b: t @ w)
            return cls(x, args[0], None, lambda t, w, b: w @ t)
        return None


class WeightRule(RelevanceRule):
    """A rule for linear functions with weights; other functions are shared by Epsilon."""

    stabilizer: float
    zero_bias: bool

    def groups(self, x: Tensor) -> tuple[Group, ...]:
        """The terms of the rule."""
        raise NotImplementedError

    def __call__(self, call: OpCall, relevance: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
        """Sum over the groups."""
        linear = Weights.of(call)
        if linear is None:
            return Epsilon(self.stabilizer)(call, relevance)
        (r,) = relevance
        total = torch.zeros_like(linear.x)
        z = None
        for group in self.groups(linear.x):
            here = r
            if group.of_sign:
                z = linear.apply(linear.x, linear.weight, linear.bias) if z is None else z
                here = r * (z * group.of_sign > 0)
            total += group.factor * self._shared(linear, group, here)
        return [total]

    def _shared(self, linear: Weights, group: Group, r: Tensor) -> Tensor:
        with torch.enable_grad():
            xs = [term.x(linear.x).detach().clone().requires_grad_() for term in group.terms]
            terms = []
            for term, x in zip(group.terms, xs, strict=True):
                bias = None if linear.bias is None or self.zero_bias else term.bias(linear.bias)
                terms.append(term.sign * linear.apply(x, term.weight(linear.weight), bias))
            z = torch.stack([t.detach() for t in terms]).sum(0)
            q = r / stabilized(z, self.stabilizer)
            found = torch.autograd.grad(torch.stack([(t * q).sum() for t in terms]).sum(), xs)
        return torch.stack([x.detach() * c for x, c in zip(xs, found, strict=True)]).sum(0)


@dataclass(frozen=True)
class Gamma(WeightRule):
    """Favours contributions of the output's sign: w + gamma * w+.

    Montavon et al. 2019; for operands of both signs in the form of Andeol et al. 2021 (arXiv:2106.04612), which uses
    contributions of the output's own sign.

    Args:
        gamma: how much; 0 is Epsilon, large values approach ZPlus.
        stabilizer: added to denominators.
        zero_bias: leave the bias out of the denominator.
        signed: False: w + gamma * max(w, 0) for every output, the form for operands that are not negative.
    """

    gamma: float = 0.25
    stabilizer: float = 1e-6
    zero_bias: bool = False
    signed: bool = True

    def _more(self, side: Change) -> Change:
        return lambda t: t + self.gamma * side(t)

    def groups(self, x: Tensor) -> tuple[Group, ...]:
        """One group per sign of the output."""
        up, down = self._more(_plus), self._more(_minus)
        if not self.signed:
            return (Group((Term(_as_is, up, _as_is),)),)
        return (
            Group((Term(_plus, up, up), Term(_minus, down, torch.zeros_like)), of_sign=1),
            Group((Term(_plus, down, down), Term(_minus, up, torch.zeros_like)), of_sign=-1),
        )


@dataclass(frozen=True)
class AlphaBeta(WeightRule):
    """Positive and negative contributions apart: alpha times the one, minus beta times the other (Bach et al. 2015).

    Args:
        alpha: weight of positive contributions; alpha - beta = 1 keeps the sum.
        beta: weight of negative contributions.
        stabilizer: added to denominators.
        zero_bias: leave the bias out of the denominators.
    """

    alpha: float = 2.0
    beta: float = 1.0
    stabilizer: float = 1e-6
    zero_bias: bool = False

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise InputError(
                f"alpha and beta must not be negative and alpha - beta must be 1, so that relevance is kept; got "
                f"alpha={self.alpha!r}, beta={self.beta!r}. Common pairs: (2, 1) and (1, 0)."
            )

    def groups(self, x: Tensor) -> tuple[Group, ...]:
        """Positive contributions, then negative ones."""
        positive = Group((Term(_plus, _plus, _plus), Term(_minus, _minus, torch.zeros_like)), self.alpha)
        negative = Group((Term(_plus, _minus, _minus), Term(_minus, _plus, torch.zeros_like)), -self.beta)
        return (positive, negative) if self.beta else (positive,)


@dataclass(frozen=True)
class ZPlus(AlphaBeta):
    """Positive contributions alone: AlphaBeta with alpha = 1, beta = 0 (Montavon et al. 2017, arXiv:1512.02479)."""

    alpha: float = 1.0
    beta: float = 0.0


@dataclass(frozen=True)
class PositiveWeights(WeightRule):
    """Shares by positive weights, with the bias as it is: Captum's Alpha1_Beta0_Rule."""

    stabilizer: float = 1e-9
    zero_bias: bool = False

    def groups(self, x: Tensor) -> tuple[Group, ...]:
        """One group of one term: inputs and biases as they are, positive weights."""
        return (Group((Term(_as_is, _plus, _as_is),)),)


@dataclass(frozen=True)
class WSquare(WeightRule):
    """Shares by squared weights, whatever the values (Montavon et al. 2017), for the first layer.

    Args:
        stabilizer: added to denominators.
        zero_bias: leave the (squared) bias out of the denominator.
    """

    stabilizer: float = 1e-6
    zero_bias: bool = False

    def groups(self, x: Tensor) -> tuple[Group, ...]:
        """One group, of ones."""
        return (Group((Term(torch.ones_like, torch.square, torch.square),)),)


@dataclass(frozen=True)
class Flat(WeightRule):
    """Shares evenly among all inputs of a unit (Lapuschkin et al. 2019), for the first layer."""

    stabilizer: float = 1e-6
    zero_bias: bool = True

    def groups(self, x: Tensor) -> tuple[Group, ...]:
        """One group, of ones."""
        return (Group((Term(torch.ones_like, torch.ones_like, torch.zeros_like),)),)


@dataclass(frozen=True)
class ZBox(WeightRule):
    """The z^B rule for inputs between two bounds, such as pixels (Montavon et al. 2017): for the first layer.

    Args:
        low: smallest value an input can have (number, or tensor that fits (N, C, ...)); None: each sample's smallest.
        high: largest value an input can have (number, or tensor that fits (N, C, ...)); None: each sample's largest.
        stabilizer: added to denominators.
    """

    low: float | Tensor | None = None
    high: float | Tensor | None = None
    stabilizer: float = 1e-6
    zero_bias: bool = field(default=False, repr=False)

    def groups(self, x: Tensor) -> tuple[Group, ...]:
        """The value's contribution, minus those of the bounds."""

        def bound(value: float | Tensor | None, of_sample: Callable[..., Tensor]) -> Change:
            if value is None:
                own = of_sample(x.flatten(1), 1).reshape(-1, *(1,) * (x.ndim - 1))
                return lambda t: own.expand_as(t)
            return lambda t: torch.as_tensor(value).to(t).expand_as(t)

        low, high = bound(self.low, torch.amin), bound(self.high, torch.amax)
        return (Group((Term(_as_is, _as_is, _as_is), Term(low, _plus, _plus, -1), Term(high, _minus, _minus, -1))),)


HAS_WEIGHTS = WEIGHTED | {"addmm", "matmul", "mm", "bmm"}
