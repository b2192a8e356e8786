"""Exact nearest neighbours by cosine: products of blocks with a running top-k, so that no matrix of all pairs is held.

Rows are unit vectors, so a block's products are its cosines. Equal cosines are ordered by the row's number.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.tensors import describe

_PAIRS = 2**22  # products that are held at once, about


class Neighbours(NamedTuple):
    """The nearest rows of each query, the nearest first.

    Attributes:
        cosines: (Q, k) cosines, `-inf` where fewer than k rows may be neighbours.
        rows: (Q, k) numbers of the rows, -1 where there is none.
    """

    cosines: Tensor
    rows: Tensor


def unit(features: Tensor) -> Tensor:
    """Rows of length 1 in float32; a row of zeros stays as it is."""
    rows = features.detach().float()
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def nearest(
    queries: Tensor,
    among: Tensor,
    k: int,
    *,
    groups: tuple[Tensor, Tensor] | None = None,
    pairs: int = _PAIRS,
) -> Neighbours:
    """The k rows of `among` with the largest cosine to each query, found exactly.

    Args:
        queries: (Q, D) features, of any length.
        among: (N, D) features.
        k: neighbours per query; fewer where `among` has fewer rows.
        groups: (Q,) and (N,) whole numbers: a row of a query's own group is no neighbour of it (itself, the other
            pixels of its picture); None: all rows may be.
        pairs: products that are held at once, about.

    Returns:
        Cosines and row numbers (Q, min(k, N)). The result does not depend on `pairs` but for the last bits of a cosine.

    Raises:
        InputError: features that are no matrices of one width, or no k.

    Example:
        from interp_plugins.influence.neighbours import nearest

        found = nearest(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.1], [1.0, 1.0]]), 2)
        found.rows.tolist()  # -> [[1, 2]]
    """
    if queries.ndim != 2 or among.ndim != 2 or queries.shape[1] != among.shape[1]:
        raise InputError(
            f"Neighbours are sought among rows of one width (N, D); got {describe(queries)} and {describe(among)}."
        )
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(f"k must be a number of neighbours of at least 1, got {k!r}.")
    q, rows = unit(queries), unit(among)
    k = min(k, len(rows))
    high = max(1, min(len(q), 512))
    wide = max(k, pairs // high)
    found = [_of_block(q[at : at + high], rows, k, wide, groups, at) for at in range(0, len(q), high)]
    if not found:
        return Neighbours(q.new_zeros(0, k), torch.zeros(0, k, dtype=torch.long))
    return Neighbours(torch.cat([f.cosines for f in found]), torch.cat([f.rows for f in found]))


def _of_block(
    q: Tensor, rows: Tensor, k: int, wide: int, groups: tuple[Tensor, Tensor] | None, first: int
) -> Neighbours:
    """The neighbours of some queries, the first of which has number `first`."""
    best = q.new_full((len(q), k), -torch.inf)
    at = torch.full((len(q), k), -1, dtype=torch.long)
    for start in range(0, len(rows), wide):
        cosines = q @ rows[start : start + wide].T
        if groups is not None:
            own = groups[0][first : first + len(q), None] == groups[1][None, start : start + wide]
            cosines.masked_fill_(own, -torch.inf)
        numbers = torch.arange(start, start + cosines.shape[1]).expand(len(q), -1)
        if cosines.shape[1] > k:
            cosines, order = cosines.topk(k, dim=1)
            numbers = order + start
        best, at = _merged(torch.cat([best, cosines], 1), torch.cat([at, numbers], 1), k)
    return Neighbours(best, at.masked_fill(best == -torch.inf, -1))


def _merged(cosines: Tensor, numbers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, equal ones by their number."""
    by_number = numbers.argsort(dim=1, stable=True)
    cosines, numbers = cosines.gather(1, by_number), numbers.gather(1, by_number)
    order = cosines.argsort(dim=1, descending=True, stable=True)[:, :k]
    return cosines.gather(1, order), numbers.gather(1, order)
