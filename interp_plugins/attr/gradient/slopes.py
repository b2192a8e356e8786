"""Conductance by Gauss-Legendre nodes: a gradient at each, and how the layer changes there, from the same passes.

    sum over nodes k of dF/dy(a_k) * change of y around a_k

What y is at a node comes with the gradient, so a pass each way per node and one at each end of the path are all that
is needed. Two rules read it:

- changes over cells that are as long as the rule's weights, y at a cell's ends being the cubic through the four values
  next to it. With kinks it is as exact as passes at the ends would make it.
- weights times the slopes of the one polynomial through all values: exponentially exact where the model is smooth, and
  worse than cells where it has kinks.

With 50 nodes and fewer both are made, and the polynomial is taken for each map on which they agree. Either way the
changes add up to the whole change of the layer, so a linear layer is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from interp_plugins.attr.shared.at_layer import layer_tensors
from interp_plugins.attr.shared.path import RowSum, check_rows, points_and_rows, targets_of
from interp_plugins.attr.shared.quadrature import quadrature
from interp_plugins.core.forward import Forward, gradients
from interp_plugins.core.layers import Layer
from interp_plugins.core.tensors import credit

_MOST = 50  # nodes of a path that are held together,
_BYTES = 2**26  # and what they may take
_AGREE = 0.02  # relative distance of the two maps below which the model is smooth along the path
_NEXT = 4  # values that the cubic goes through


@dataclass(frozen=True)
class Slopes:
    """The two rules with so many nodes; points are the path's start (0), the nodes (1 to n) and its end (n + 1).

    Attributes:
        nodes: (n,).
        first: per cell's end, the first of the points that it is made of (n + 1,).
        shares: what each of these points adds (n + 1, points).
        slopes: weighted slopes at the nodes, of values at all points (n, n + 2); None where nodes are too many.
    """

    nodes: Tensor
    first: Tensor
    shares: Tensor
    slopes: Tensor | None


@lru_cache(maxsize=16)
def slopes_of(count: int) -> Slopes:
    """The rules with so many nodes."""
    rule = quadrature("gausslegendre", count)
    places = np.array([0.0, *rule.nodes, 1.0])
    ends = np.array([0.0, *np.cumsum(rule.weights)[:-1], 1.0])
    width = min(_NEXT, count + 2)
    first = np.clip(np.arange(count + 1) - 1, 0, count + 2 - width)
    shares = np.stack([_through(places[k : k + width], at) for k, at in zip(first, ends, strict=True)])
    apart = places[:, None] - places + np.eye(count + 2)
    slopes = None
    if count <= _MOST:
        sizes = np.log(np.abs(apart)).sum(1)  # of the barycentric formula's weights (Berrut and Trefethen 2004)
        signs = np.sign(apart).prod(1)
        table = signs[:, None] * signs * np.exp(sizes[:, None] - sizes) / apart
        np.fill_diagonal(table, 0.0)
        np.fill_diagonal(table, -table.sum(1))
        slopes = torch.from_numpy(np.array(rule.weights)[:, None] * table[1:-1])
    return Slopes(torch.from_numpy(places[1:-1]), torch.from_numpy(first), torch.from_numpy(shares), slopes)


def _through(places: np.ndarray, at: float) -> np.ndarray:
    """What the values at some places add to that of their polynomial at another place."""
    others = [np.delete(places, i) for i in range(len(places))]
    return np.array([np.prod((at - o) / (p - o)) for p, o in zip(places, others, strict=True)])


@dataclass
class HeldNodes:
    """What one chunk leaves to the next.

    Attributes:
        node: the number of the first node held.
        done: the number of the first cell that has not been added yet.
        grads: gradients at the nodes held (nodes, targets * entries, ...), per layer tensor.
        values: the layers' tensors there (nodes, entries, ...).
        ends: those at start and end of the last path (2, entries, ...).
    """

    node: int = 0
    done: int = 0
    grads: Sequence[Tensor] = ()
    values: Sequence[Tensor] = ()
    ends: Sequence[Tensor] = ()


@dataclass
class NodeChunk:
    """What a chunk of nodes gave.

    Attributes:
        parts: of maps, (R * entries, ...) per layer tensor.
        rows: the maps that they belong to, (R,).
        counts: tensors per layer.
        held: what the next chunk goes on with.
    """

    parts: Sequence[Tensor]
    rows: Tensor
    counts: tuple[int, ...]
    held: HeldNodes


class AlongNodes:
    """The nodes of all paths, in the order "all nodes of sample 0, of sample 1"; to be called for one chunk by one.

    Args:
        forward: what is differentiated.
        inputs: (N, ...) each.
        baselines: where paths start.
        layers: that are read.
        n_steps: nodes of a path.
    """

    def __init__(
        self,
        forward: Forward,
        inputs: Sequence[Tensor],
        baselines: Sequence[Tensor],
        layers: Sequence[Layer],
        n_steps: int,
    ):
        self.forward, self.inputs, self.baselines, self.layers = forward, inputs, baselines, layers
        self.n, self.rules, self.held = n_steps, slopes_of(n_steps), HeldNodes()

    def __call__(self, start: int, stop: int) -> NodeChunk:
        """The nodes [start, stop), and what of the cells that are known by now belongs to which map."""
        nodes, n, held, targets = torch.arange(start, stop), self.n, self.held, self.forward.target.count
        got = gradients(
            self.forward,
            *points_and_rows(self.inputs, self.baselines, nodes // n, self.rules.nodes[nodes % n]),
            wrt=self.layers,
        )
        check_rows(got.grads, len(nodes) * targets)
        grads = _behind(held.grads, [g.unflatten(0, (len(nodes), -1)) for g in got.grads])
        read = [a.unflatten(0, (len(nodes), targets, -1))[:, 0] for a in got.activations]
        values = _behind(held.values, read)
        first, last = held.node // n, (stop - 1) // n
        ends = _behind(held.ends, self._ends(first + bool(held.ends), last + 1))
        whole = self.rules.slopes is not None and sum(t[0].nbytes for t in (*grads, *values)) * n <= _BYTES
        # A cell is known when the last point that it is made of is.
        reach = self.rules.first[1:] + self.rules.shares.shape[1] - 1
        until = stop if stop == (last + 1) * n else last * n + (0 if whole else int((reach <= stop - last * n).sum()))
        until = max(until, held.done)
        rows = torch.arange(held.done, until)
        parts: Sequence[Tensor] = ()
        if len(rows):
            at = [torch.cat([v, e.flatten(0, 1)]) for v, e in zip(values, ends, strict=True)]
            mine = [g[held.done - held.node : until - held.node] for g in grads]
            parts, rows = (self._whole if whole else self._cells)(rows, at, mine, first, len(values[0]))
        keep = until if until % n == 0 else max(until // n * n, until - _NEXT)
        kept = HeldNodes(keep, until)
        if keep < stop:
            kept.grads, kept.values = ([t[keep - held.node :].clone() for t in ts] for ts in (grads, values))
            kept.ends = [e[-1:].clone() for e in ends]
        return NodeChunk(parts, targets_of(rows.to(self.inputs[0].device), targets), got.counts, kept)

    def _cells(
        self, cells: Tensor, at: list[Tensor], grads: list[Tensor], first: int, held: int
    ) -> tuple[list[Tensor], Tensor]:
        """Gradients times changes over cells (R,): parts (R * targets * entries, ...), and the samples (R,)."""
        path, k, parts = cells // self.n, cells % self.n, []
        for values, g in zip(at, grads, strict=True):
            begin, end = (self._at_cell_end(values, path, k + side, first, held) for side in (0, 1))
            parts.append(self._credited(end - begin, g).flatten(0, 2))
        return parts, path

    def _whole(
        self, cells: Tensor, at: list[Tensor], grads: list[Tensor], first: int, held: int
    ) -> tuple[list[Tensor], Tensor]:
        """The maps of whole paths: of slopes where they agree with cells, (paths * targets * entries, ...)."""
        path = (cells // self.n).reshape(-1, self.n)[:, 0]
        sums = []
        for part in self._cells(cells, at, grads, first, held)[0]:
            sums.append(part.unflatten(0, (len(path), self.n, self.forward.target.count, -1)).sum(1))
        parts, slopes, every = [], self.rules.slopes, torch.arange(self.n + 2)
        assert slopes is not None
        for values, g, cell in zip(at, grads, sums, strict=True):
            y = values[self._index(path[:, None], every, first, held).to(values.device)]  # (paths, n + 2, entries, ...)
            y = y - y[:, :1]
            slope = torch.einsum("ij,mj...->mi...", slopes.to(y), y)
            smooth = self._credited(slope.flatten(0, 1), g).unflatten(0, (len(path), self.n)).sum(1)
            away, size = ((t.flatten(2).norm(dim=2)) for t in (smooth - cell, cell))
            take = (away <= _AGREE * size).reshape(*away.shape, *(1,) * (cell.ndim - 2))
            parts.append(torch.where(take, smooth, cell).flatten(0, 2))
        return parts, path

    def _credited(self, change: Tensor, grads: Tensor) -> Tensor:
        """Changes (R, entries, ...) times gradients (R, targets * entries, ...): (R, targets, entries, ...)."""
        g = grads.unflatten(1, (self.forward.target.count, -1))
        return credit(change[:, None].expand_as(g), g)

    def _at_cell_end(self, values: Tensor, path: Tensor, end: Tensor, first: int, held: int) -> Tensor:
        """The layer at ends of cells, from the points next to it: (R, entries, ...)."""
        made = torch.zeros_like(values[:1]).expand(len(path), *values.shape[1:]).clone()
        for j in range(self.rules.shares.shape[1]):
            index = self._index(path, self.rules.first[end] + j, first, held).to(values.device)
            share = self.rules.shares[end, j].to(values)
            made += values[index] * share.reshape(-1, *(1,) * (values.ndim - 1))
        return made

    def _index(self, path: Tensor, point: Tensor, first: int, held: int) -> Tensor:
        """Where points of paths stand in the values: nodes from the first one held, then two ends per path.

        A point that is not held has no share, and any place will do.
        """
        node = (path * self.n + point - 1 - self.held.node).clamp(0, held - 1)
        end = held + 2 * (path - first)
        return torch.where(point == 0, end, torch.where(point == self.n + 1, end + 1, node))

    def _ends(self, first: int, stop: int) -> list[Tensor]:
        """The layers' tensors at start and end of the paths [first, stop): (paths, 2, entries, ...) each."""
        if first == stop:
            return []
        samples = torch.arange(first, stop).repeat_interleave(2)
        read = layer_tensors(
            self.forward,
            *points_and_rows(self.inputs, self.baselines, samples, torch.arange(len(samples)) % 2),
            self.layers,
        )
        check_rows(read, len(samples))
        return [t.unflatten(0, (stop - first, 2, -1)) for t in read]


def _behind(held: Sequence[Tensor], more: Sequence[Tensor]) -> list[Tensor]:
    """What is held, and more of it."""
    if not held or not more:
        return list(held or more)
    return [torch.cat(both) for both in zip(held, more, strict=True)]


def add_along(total: RowSum, along: AlongNodes, found: NodeChunk) -> None:
    """Add a chunk's parts to the maps, and let the next chunk go on from it."""
    along.held = found.held
    if len(found.rows):
        total.add(found.parts, found.rows)
