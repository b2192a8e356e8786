"""DeepLIFT's rescale rule for whole networks (Shrikumar et al. 2017, arXiv:1704.02685), function by function.

Every call is known at two points: x, and x' in a run on the baseline. A rule gives multipliers m with

    sum over operands of m * (x - x')  =  g * (y - y')                                   (completeness of the call)

for what arrives at the outputs, g; so the sum over the input is F(x) - F(x'), whatever the network is made of.

- element by element: m = (y - y') / (x - x'), and the derivative where x = x' (the paper's rescale rule);
- products: the derivative half-way between x' and x. For a * b it is (b + b')/2 for a and (a + a')/2 for b, which is
  the Shapley value of the two factors;
- the largest of several: what each of the two winners explains; completeness holds for overlapping windows as well;
- softmax: the rescale rule of y_i = 1 / sum_j exp(x_j - x_i), in closed form; see `softmax_rule`;
- anything else: the derivative averaged over the way from x' to x (integrated gradients of that one call).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.backward.rules.call import OpCall
from interp_plugins.attr.backward.rules.names import softmax_dim
from interp_plugins.attr.shared.quadrature import quadrature
from interp_plugins.core.tensors import widest

_ROWS_AT_ONCE = 2**22  # elements of a softmax's pair matrix held at a time


def significant(change: Tensor, x: Tensor, base: Tensor, eps: float) -> Tensor:
    """Where a difference is more than rounding: larger than eps and than a few units in the last place."""
    rounding = 8 * torch.finfo(x.dtype).eps * torch.maximum(x.abs(), base.abs())
    return (change.abs() > eps) & (change.abs() > rounding) & change.isfinite()


def bases(call: OpCall) -> list[Tensor]:
    """The operands in the paired run."""
    assert call.base is not None
    return call.base


class Rescale:
    """Slope of the chord, for functions of one operand that work element by element."""

    def __init__(self, eps: float):
        self.eps = eps

    def __call__(self, call: OpCall, grads: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
        """The multiplier (y - y') / (x - x'), times g."""
        (x,), (base,), (g,) = call.xs, bases(call), grads
        (y,), (y_base,) = call.run(), call.run([base])
        if y.shape != x.shape:
            return along_the_way(call, grads)
        change = x - base
        moved = significant(change, x, base, self.eps)
        chord = _along_chord(g, y - y_base, torch.where(moved, change, 1))
        return [chord if bool(moved.all()) else torch.where(moved, chord, call.pull(grads)[0])]


def _along_chord(g: Tensor, rise: Tensor, change: Tensor) -> Tensor:
    """Multiplier whose credit for the change is that of g for the rise; see `core.tensors.credit` for complex ones."""
    if rise.is_complex():
        return g * (rise / change).conj()
    return g * rise * change / change.abs().square() if change.is_complex() else g * rise / change


class Winner:
    """The rescale rule for the largest (or smallest) of several values.

    From y' to the larger of y and y' is explained by the winner at x, from there to y by the winner at x'. Both have
    moved at least that far, so the multipliers lie between 0 and 1.
    """

    def __init__(self, eps: float, larger: Callable[[Tensor, Tensor], Tensor] = torch.maximum):
        self.eps, self.larger = eps, larger

    def __call__(self, call: OpCall, grads: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
        """Contributions of the two winners, divided by how far they moved."""
        xs, base, g = call.xs, bases(call), grads[0]
        y, y_base = call.run()[0], call.run(base)[0]
        top = self.larger(y, y_base)
        rest = [torch.zeros_like(r) for r in grads[1:]]
        at_x = call.pull([g * (top - y_base), *rest])
        at_base = call.pull([g * (y - top), *rest], base)
        plain = call.pull(grads)
        found = []
        for x, b, one, two, p in zip(xs, base, at_x, at_base, plain, strict=True):
            change = x - b
            moved = significant(change, x, b, self.eps)
            found.append(torch.where(moved, (one + two) / torch.where(moved, change, 1), p))
        return found


def half_way(call: OpCall, grads: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
    """The derivative in the middle: exact for products of two operands; for one operand, plain."""
    if len(call.where) == 1:
        return call.pull(grads)
    return call.pull(grads, [(x + b) / 2 for x, b in zip(call.xs, bases(call), strict=True)])


def along_the_way(call: OpCall, grads: tuple[Tensor, ...], nodes: int = 32) -> Sequence[Tensor | None]:
    """The derivative averaged from x' to x (Gauss-Legendre): exact for polynomials up to degree 2 * nodes - 1."""
    xs, base = call.xs, bases(call)
    ends = call.pull(grads, xs), call.pull(grads, base)
    if all(torch.equal(a, b) for a, b in zip(*ends, strict=True)):
        return ends[0]  # linear
    rule = quadrature("gausslegendre", nodes)
    total = [torch.zeros_like(x) for x in xs]
    for alpha, weight in zip(rule.nodes, rule.weights, strict=True):
        found = call.pull(grads, [b + alpha * (x - b) for x, b in zip(xs, base, strict=True)])
        for t, f in zip(total, found, strict=True):
            t.add_(f, alpha=float(weight))
    return total


def softmax_rule(call: OpCall, grads: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
    """Multipliers of a softmax, row by row: no row depends on another.

    With s_i = 1 / sum_j exp(x_j - x_i), rescaling the exponentials and the reciprocal gives for j != i

        m_ij = -(s_j s'_i - s_i s'_j) / ((x_j - x_i) - (x'_j - x'_i)),      m_ii = -sum of the others.

    It is the Jacobian at x = x', symmetric, adds up to zero (a shift of all logits explains nothing), and for two
    classes is the rescale rule of the sigmoid. No exponential can overflow.
    """
    (x,), (base,), (g,) = call.xs, bases(call), grads
    args, kwargs = call.arguments()
    dim = softmax_dim(args, kwargs, x.ndim)
    # In the widest dtype: differences of far larger logits decide, and the logits' rounding is all of them in float32.
    wide, wide_base, g = (t.to(widest(x.device)).movedim(dim, -1) for t in (x, base, g))
    shape, n = x.movedim(dim, -1).shape, x.shape[dim]
    rows = (wide - wide_base, wide.softmax(-1), wide_base.softmax(-1), g)
    change, s, s_base, grad = (t.reshape(-1, n) for t in rows)
    out = torch.empty_like(s)
    step = max(1, _ROWS_AT_ONCE // max(1, n * n))
    columns = max(1, _ROWS_AT_ONCE // n) if n * n > _ROWS_AT_ONCE else n
    for start in range(0, len(s), step):
        here = slice(start, start + step)
        total = torch.zeros_like(s[here])
        for first in range(0, n, columns):
            part = slice(first, first + columns)
            k = _pairs(change[here], s[here], s_base[here], part)
            total += grad[here] * k.sum(2) - (k @ grad[here, part, None])[..., 0]
        out[here] = total
    return [out.reshape(shape).movedim(-1, dim)]


def _pairs(change: Tensor, s: Tensor, s_base: Tensor, part: slice) -> Tensor:
    """-m_ji for all j and the columns i in `part`: (rows, n, columns)."""
    d = change[:, :, None] - change[:, None, part]
    one, two = s[:, :, None] * s_base[:, None, part], s[:, None, part] * s_base[:, :, None]
    near = ~(d.abs() > 1e-3)  # masked logits (-inf) as well: there both products are zero
    small = d.masked_fill(~near, 0).nan_to_num(0, 0, 0)
    series = one.sqrt() * two.sqrt() * (1 + small * small / 24)
    return torch.where(near, series, (one - two) / d.masked_fill(near, 1))


def logsumexp_rule(call: OpCall, grads: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
    """Multipliers of log(sum(exp(x))): rescaled exponentials and logarithm.

    The row is centred first (a linear step, its weights the mean of both softmaxes), so that the multipliers sum to one
    and a shift of the row is explained by the shift.
    """
    (x,), (base,), (g,) = call.xs, bases(call), grads
    args, kwargs = call.arguments()
    dim: Any = kwargs.get("dim", args[1] if len(args) > 1 else None)
    top, top_base = (torch.logsumexp(t, dim, keepdim=True) for t in (x, base))
    w = ((x - top).exp() + (base - top_base).exp()) / 2
    used = w > 0

    def centred(t: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        middle = torch.where(used, w * t, 0).sum(dim, keepdim=True)
        return t - middle, level - middle

    (c, level), (c_base, level_base) = centred(x, top), centred(base, top_base)
    highest = torch.maximum(level, level_base)
    m = _chord(c - highest, c_base - highest) / _chord(level - highest, level_base - highest)
    m = torch.where(used, m, 0)
    m = m + w * (1 - m.sum(dim, keepdim=True))
    return [g.reshape(top.shape) * m]


def _chord(a: Tensor, b: Tensor) -> Tensor:
    """(exp(a) - exp(b)) / (a - b), for a and b not above zero; exp(a) where they are equal."""
    d = (a - b).abs().nan_to_num(0)
    slope = torch.where(d > 0, -torch.expm1(-d) / torch.where(d > 0, d, 1), 1)
    return torch.maximum(a, b).exp() * slope
