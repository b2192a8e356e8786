"""Order within rows: ranks, ties that are broken by a seed, the k largest, and sums over sets that ties blur."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, unknown
from interp_plugins.metrics.draws import element_keys
from interp_plugins.metrics.rows import ascending, in_order, wide

TIES = ("random", "index")


def average_ranks(rows: Tensor) -> Tensor:
    """Ranks 1..D within each row, ties averaged; NaN in rows that hold NaN."""
    ordered, order = in_order(rows)
    first, last = _groups(ordered)
    ranks = torch.empty_like(rows).scatter_(1, order, (first + last + 2).to(rows.dtype) / 2)
    return torch.where(rows.isnan().any(1, keepdim=True), torch.nan, ranks)


def _groups(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """Of each place in sorted rows, the first and the last place with the same value."""
    n, d = ordered.shape
    at = torch.arange(d, device=ordered.device).expand(n, d)
    new = ordered[:, 1:] != ordered[:, :-1]
    if bool(new.all()):
        return at, at
    first, last = at.clone(), at.clone()
    first[:, 1:] = torch.where(new, at[:, 1:], 0)
    last[:, :-1] = torch.where(new, at[:, :-1], d - 1)
    return first.cummax(1).values, last.flip(1).cummin(1).values.flip(1)


def descending(rows: Tensor, ties: str = "random", seed: int = 0, ids: Tensor | None = None) -> Tensor:
    """Indices (N, D) of the elements of each row, the largest first.

    Args:
        rows: values (N, D).
        ties: what decides among equal values: "random" - a permutation drawn by seed and sample; "index" - the first
            in the row comes first, so that a constant map is a raster scan.
        seed: of the permutations.
        ids: int64 (N,): number of each sample; None: all samples have the same permutation. A sample's permutation
            depends on nothing else, so batch mates and chunks do not move it.

    Raises:
        UnknownNameError: another word for ties.
    """
    if ties not in TIES:
        raise unknown("ties", ties, TIES)
    values, order = rows.sort(dim=1, descending=True, stable=True)
    if ties == "index" or not bool((values[:, 1:] == values[:, :-1]).any()):
        return order
    first = element_keys(seed, ids, rows.shape[1]).to(rows.device).argsort(dim=1, stable=True).expand(rows.shape)
    again = rows.gather(1, first).argsort(dim=1, descending=True, stable=True)
    return first.gather(1, again)


def largest(rows: Tensor, k: int, ties: str = "random", seed: int = 0) -> Tensor:
    """Indices (N, k) of the k largest elements of each row, the largest first; the first k of `descending`."""
    if ties not in TIES:
        raise unknown("ties", ties, TIES)
    top = rows.topk(min(k + 1, rows.shape[1]), dim=1)
    found = top.indices[:, :k]
    tied = (top.values[:, 1:] == top.values[:, :-1]).any(1)
    if bool(tied.any()):
        found = found.clone()
        found[tied] = descending(rows[tied], ties, seed)[:, :k]
    return found


def count_of(k: int | float, total: int, name: str = "k") -> int:
    """How many elements `k` means: a number of them, or a share in (0, 1).

    Raises:
        InputError: none, or more than there are.
    """
    whole = isinstance(k, int) and not isinstance(k, bool)
    if whole and 1 <= k <= total:
        return int(k)
    if isinstance(k, float) and 0 < k < 1:
        return max(1, round(k * total))
    raise InputError(f"{name} must be an int from 1 to the {total} elements of a map, or a share in (0, 1); got {k!r}.")


def expected_inside(rows: Tensor, inside: Tensor, counts: Tensor) -> Tensor:
    """How many of the `counts` largest elements lie inside, ties by expectation: (N,).

    Elements that share the last value taken each belong to the set with the same probability.

    Args:
        rows: values (N, D).
        inside: bool (N, D).
        counts: int64 (N,), from 1 to D.
    """
    last = _at_place(rows, (rows.shape[1] - counts).clamp(0, rows.shape[1] - 1))
    above, tied = rows > last, rows == last
    open_places = wide(counts - above.sum(1))
    return (above & inside).sum(1) + open_places * (tied & inside).sum(1) / tied.sum(1)


def _at_place(rows: Tensor, places: Tensor) -> Tensor:
    """The number that would stand at a place of each row (N,) if it ascended: (N, 1)."""
    if rows.device.type != "cpu":
        return ascending(rows).gather(1, places[:, None])
    found = [np.partition(row, k)[k] for row, k in zip(rows.numpy(), places.tolist())]
    return torch.from_numpy(np.array(found, dtype=rows.numpy().dtype))[:, None]


def inversions(order: Tensor) -> Tensor:
    """Pairs out of order in each row of (N, D), whose rows are permutations of 0..D-1: int64 (N,).

    Rows are sorted from the highest bit down; at each bit a one before a zero, among numbers that share the higher
    bits, is a pair out of order.
    """
    n, d = order.shape
    bits = max(1, (d - 1).bit_length())
    size = 1 << bits
    padding = torch.arange(d, size, device=order.device, dtype=torch.int32).expand(n, -1)
    found = torch.zeros(n, dtype=torch.int64, device=order.device)
    values = torch.cat([order.int(), padding], 1)
    for bit in range(bits - 1, -1, -1):
        blocks = values.reshape(n, -1, 2 << bit)
        ones = (blocks >> bit) & 1
        before = ones.cumsum(2, dtype=torch.int32)
        found += (before * (1 - ones)).sum((1, 2))
        if bit == 0:
            break
        at = torch.arange(2 << bit, device=order.device, dtype=torch.int32)
        place = torch.where(ones == 1, (1 << bit) + before - 1, at - before)
        values = torch.empty_like(blocks).scatter_(2, place.long(), blocks).reshape(n, size)
    return found


def pair_counts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Pairs of elements of two rows: (concordant, discordant, tied in a, tied in b) int64 (N,), and the number of all.

    Args:
        a: values (N, D).
        b: values (N, D).
    """
    d = a.shape[1]
    by_b = _dense(b)
    by_a = _dense(a)
    order = (by_a * d + by_b).argsort(dim=1, stable=True)  # by a, then by b
    sequence = by_b.gather(1, order)
    places = sequence.argsort(dim=1, stable=True).argsort(dim=1)
    swaps = inversions(places)
    tied_a, tied_b, tied_both = _tied(by_a), _tied(by_b), _tied(by_a * d + by_b)
    pairs = d * (d - 1) // 2
    return pairs - tied_a - tied_b + tied_both - swaps, swaps, tied_a, tied_b, pairs


def _dense(rows: Tensor) -> Tensor:
    """Whole numbers 0..D-1 in the order of the values, equal ones for equal values."""
    ordered, order = rows.sort(dim=1)
    return torch.empty_like(order).scatter_(1, order, _groups(ordered)[0])


def _tied(numbers: Tensor) -> Tensor:
    """Pairs of equal numbers per row."""
    first, _ = _groups(numbers.sort(dim=1).values)
    return (torch.arange(numbers.shape[1], device=numbers.device) - first).sum(1)
