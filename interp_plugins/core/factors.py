"""Gradients of every sample with respect to a weight, kept as what they are products of.

The gradient of a sample's loss with respect to a matrix that maps a to y, t = 1..T times per sample, is
G = sum_t d_t a_t', d the gradient at y. G has I * O numbers, its factors T * (I + O): dot products and norms are taken
of the factors where that is less work (for T = 1 always: <G, H> = (a . a')(d . d')), and G is formed in pieces where it
is not. A weight that is used several times has several parts, whose sum its gradient is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_PIECE = 2**23  # elements of gradients that are formed at once


@dataclass(frozen=True)
class Outer:
    """A gradient sum_t d_t a_t' per sample; where a convolution has groups, one such block for each.

    Attributes:
        a: (B, G, T, I).
        d: (B, G, T, O).
        shape: of the weight.
        bias: name of the bias of the same call, if it has one; its gradient is the sum of d over t.
    """

    a: Tensor
    d: Tensor
    shape: torch.Size
    bias: str | None = None

    def formed(self) -> Tensor:
        """The gradients as they are, (B, *shape)."""
        return (self.d.transpose(-1, -2) @ self.a).reshape(len(self.a), *self.shape)

    def summed(self) -> Tensor:
        """The sum over the samples, without forming each."""
        a, d = self.a, self.d
        g = torch.einsum("ngti,ngto->goi", a, d) if a.shape[1] > 1 else d.flatten(0, 2).T @ a.flatten(0, 2)
        return g.reshape(self.shape)

    def rows(self, begin: int, end: int) -> Outer:
        """Some of the samples."""
        return Outer(self.a[begin:end], self.d[begin:end], self.shape, self.bias)

    def dots(self, other: Outer) -> Tensor:
        """Dot products with each of another batch's, (B, B2), of the factors."""
        a, b = self.a, other.a
        n, g, t, _ = a.shape
        m, _, s, _ = b.shape
        if t == s == 1:
            found = [(a[:, k, 0] @ b[:, k, 0].T) * (self.d[:, k, 0] @ other.d[:, k, 0].T) for k in range(g)]
            return found[0] if g == 1 else torch.stack(found).sum(0)
        total = a.new_zeros(n, m)
        for k in range(g):
            left = a[:, k].reshape(n * t, -1) @ b[:, k].reshape(m * s, -1).T
            right = self.d[:, k].reshape(n * t, -1) @ other.d[:, k].reshape(m * s, -1).T
            total += (left * right).view(n, t, m, s).sum((1, 3))
        return total

    def squares(self) -> Tensor:
        """Squared norms of each sample, (B,)."""
        if self.a.shape[2] == 1:
            return (self.a.square().sum(-1) * self.d.square().sum(-1)).sum((1, 2))
        return ((self.a @ self.a.transpose(-1, -2)) * (self.d @ self.d.transpose(-1, -2))).sum((1, 2, 3))

    def work_of_dots(self, other: Outer) -> tuple[float, float]:
        """Multiplications of `dots` per sample of ours, and of forming ours and multiplying it."""
        _, g, t, i = self.a.shape
        o, s, m = self.d.shape[-1], other.a.shape[2], len(other.a)
        return g * t * s * (i + o) * m, g * (t + m) * i * o


@dataclass(frozen=True)
class LookedUp:
    """A gradient of a table of which a sample reads rows: d_t is added to row ids_t.

    Attributes:
        ids: (B, T).
        d: (B, T, D).
        shape: of the table (V, D).
    """

    ids: Tensor
    d: Tensor
    shape: torch.Size

    def formed(self) -> Tensor:
        """The gradients as they are, (B, V, D)."""
        n, t = self.ids.shape
        out = self.d.new_zeros(n * self.shape[0], self.shape[1])
        at = self.ids + self.shape[0] * torch.arange(n, device=self.ids.device)[:, None]
        return out.index_add_(0, at.reshape(-1), self.d.reshape(n * t, -1)).reshape(n, *self.shape)

    def summed(self) -> Tensor:
        """The sum over the samples, without forming each."""
        out = self.d.new_zeros(self.shape)
        return out.index_add_(0, self.ids.reshape(-1), self.d.reshape(-1, self.shape[1]))

    def rows(self, begin: int, end: int) -> LookedUp:
        """Some of the samples."""
        return LookedUp(self.ids[begin:end], self.d[begin:end], self.shape)

    def dots(self, other: LookedUp) -> Tensor:
        """Dot products with each of another batch's, (B, B2): those of the gradients of equal ids."""
        n, t = self.ids.shape
        m, s = other.ids.shape
        same = self.ids.reshape(-1, 1) == other.ids.reshape(1, -1)
        products = self.d.reshape(n * t, -1) @ other.d.reshape(m * s, -1).T
        return (products * same).view(n, t, m, s).sum((1, 3))

    def squares(self) -> Tensor:
        """Squared norms of each sample, (B,)."""
        same = self.ids[:, :, None] == self.ids[:, None]
        return ((self.d @ self.d.transpose(-1, -2)) * same).sum((1, 2))

    def work_of_dots(self, other: LookedUp) -> tuple[float, float]:
        """Multiplications of `dots` per sample of ours, and of forming ours and multiplying it."""
        t, s, m = self.ids.shape[1], other.ids.shape[1], len(other.ids)
        return t * s * self.shape[1] * m, (1 + m) * math.prod(self.shape)


@dataclass(frozen=True)
class Formed:
    """Gradients as they are, (B, *shape)."""

    g: Tensor

    def formed(self) -> Tensor:
        """The gradients as they are, (B, *shape)."""
        return self.g

    def summed(self) -> Tensor:
        """The sum over the samples."""
        return self.g.sum(0)

    def rows(self, begin: int, end: int) -> Formed:
        """Some of the samples."""
        return Formed(self.g[begin:end])


Part = Outer | LookedUp | Formed


@dataclass
class Factors:
    """Gradients of a batch of samples, by the name of the parameter.

    Attributes:
        parts: per parameter what its gradient is the sum of; empty where the output does not depend on it.
        shapes: of the parameters.
        n: number of samples.
        values: what was differentiated, (B,).
        output: the model's output, detached.
    """

    parts: dict[str, list[Part]]
    shapes: dict[str, torch.Size]
    n: int
    values: Tensor
    output: Any = None
    _whole: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def formed(self, name: str, begin: int = 0, end: int | None = None) -> Tensor:
        """The gradient with respect to one parameter, (B, *shape), of some of the samples."""
        end = self.n if end is None else end
        total: Tensor | None = None
        for part in self.parts[name]:
            g = part.rows(begin, end).formed()
            total = g if total is None else total + g
        return self.values.new_zeros(end - begin, *self.shapes[name]) if total is None else total

    def kept(self, name: str) -> Tensor:
        """`formed` of all samples, flat (B, P), remembered: for queries, which meet every batch."""
        if name not in self._whole:
            self._whole[name] = self.formed(name).reshape(self.n, -1)
        return self._whole[name]

    def flat(self, names: Sequence[str] | None = None) -> Tensor:
        """All gradients side by side (B, P), in the order of the parameters."""
        return torch.cat([self.formed(k).reshape(self.n, -1) for k in (names or self.shapes)], 1)

    def pieces(self, name: str) -> Iterator[tuple[int, int, Tensor]]:
        """(begin, end, gradients (b, P)) of one parameter, not too many at once."""
        step = max(1, _PIECE // max(1, math.prod(self.shapes[name])))
        for begin in range(0, self.n, step):
            end = min(self.n, begin + step)
            yield begin, end, self.formed(name, begin, end).reshape(end - begin, -1)

    def _single(self, name: str) -> Part | None:
        parts = self.parts[name]
        return parts[0] if len(parts) == 1 else None

    def dots(self, queries: Factors, weight: Callable[[str], float] | None = None) -> Tensor:
        """Dot products of every sample's gradient with every query's, (B, Q).

        Args:
            queries: gradients with respect to the same parameters.
            weight: a number per parameter by which its part counts; None: 1.
        """
        total = self.values.new_zeros(self.n, queries.n)
        for name in self.shapes:
            if self.parts[name] and queries.parts[name]:
                found = self._dots_of(name, queries)
                total += found if weight is None else weight(name) * found
        return total

    def _dots_of(self, name: str, queries: Factors) -> Tensor:
        mine, theirs = self._single(name), queries._single(name)
        if isinstance(mine, Outer) and isinstance(theirs, Outer) and _cheaper(mine.work_of_dots(theirs)):
            return mine.dots(theirs)
        if isinstance(mine, LookedUp) and isinstance(theirs, LookedUp) and _cheaper(mine.work_of_dots(theirs)):
            return mine.dots(theirs)
        return self.against(name, queries.kept(name))

    def against(self, name: str, fixed: Tensor) -> Tensor:
        """Products with fixed vectors, one parameter: (B, Q) of fixed (Q, P)."""
        return torch.cat([g @ fixed.T for _, _, g in self.pieces(name)])

    def squares(self) -> Tensor:
        """Squared norms of the whole gradients (B,)."""
        total = self.values.new_zeros(self.n)
        for name in self.shapes:
            part = self._single(name)
            ghost = isinstance(part, Outer) and _cheaper((part.a.shape[2] ** 2 * sum(_io(part)), _product(part)))
            if isinstance(part, LookedUp) or (ghost and isinstance(part, Outer)):
                total += part.squares()
            elif self.parts[name]:
                total += torch.cat([g.square().sum(1) for _, _, g in self.pieces(name)])
        return total


def _io(part: Outer) -> tuple[int, int]:
    return part.a.shape[-1], part.d.shape[-1]


def _product(part: Outer) -> float:
    return part.a.shape[2] * math.prod(_io(part))


def _cheaper(work: tuple[float, float]) -> bool:
    return work[0] <= work[1]


def merged(batches: Sequence[Factors]) -> Factors:
    """Several batches as one."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    parts: dict[str, list[Part]] = {}
    for name in first.parts:
        columns = [b.parts[name] for b in batches]
        alike = len({tuple(_look(p) for p in column) for column in columns}) == 1
        if alike:
            parts[name] = [_together(list(same)) for same in zip(*columns)]
        else:
            parts[name] = [Formed(torch.cat([b.formed(name) for b in batches]))]
    return Factors(parts, first.shapes, sum(b.n for b in batches), torch.cat([b.values for b in batches]))


def _look(part: Part) -> Any:
    if isinstance(part, Outer):
        return Outer, part.a.shape[1:], part.d.shape[1:], part.bias
    return (LookedUp, part.d.shape[1:]) if isinstance(part, LookedUp) else (Formed, part.g.shape[1:])


def _together(parts: list[Any]) -> Part:
    first = parts[0]
    if isinstance(first, Outer):
        return Outer(torch.cat([p.a for p in parts]), torch.cat([p.d for p in parts]), first.shape, first.bias)
    if isinstance(first, LookedUp):
        return LookedUp(torch.cat([p.ids for p in parts]), torch.cat([p.d for p in parts]), first.shape)
    return Formed(torch.cat([p.g for p in parts]))
