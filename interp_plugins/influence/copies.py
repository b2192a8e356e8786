"""Copies: items that are the same, or nearly, inside a data set and across training and validation (leakage)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from interp_plugins.influence.features import ItemFeatures
from interp_plugins.influence.neighbours import Neighbours, nearest

ALIKE = 0.999  # cosine of features, and correlation of the pooled inputs, from which two items are near copies
_LOOKED = 10  # neighbours of an item that are looked at


class Copy(NamedTuple):
    """Two items that are the same.

    Attributes:
        item: number of the one.
        other: number of the other.
        where: "train": both in the data that were searched; "valid": the other is an item of the validation data.
        exact: whether all numbers of the inputs are equal; otherwise they are nearly so.
        cosine: of their features.
        conflict: whether their labels differ.
    """

    item: int
    other: int
    where: str
    exact: bool
    cosine: float
    conflict: bool


def groups_of(digests: list[bytes]) -> Tensor:
    """(N,) a number per item, the same for exact copies."""
    numbers: dict[bytes, int] = {}
    return torch.tensor([numbers.setdefault(d, len(numbers)) for d in digests], dtype=torch.long)


def copies_inside(features: ItemFeatures, near: Neighbours, labels: Tensor) -> list[Copy]:
    """Copies inside a data set, each pair once.

    Args:
        features: of the items.
        near: their neighbours, exact copies left out.
        labels: (N, ...) what copies should have in common.
    """
    pairs = {}
    first: dict[bytes, int] = {}
    for i, one in enumerate(features.digests):
        j = first.setdefault(one, i)
        if j != i:
            pairs[j, i] = (True, 1.0)
    for i, j, cosine in _alike(features, features, near):
        if i != j:
            pairs.setdefault((min(i, j), max(i, j)), (False, cosine))
    return [
        Copy(features.numbers[i], features.numbers[j], "train", exact, cosine, _differ(labels[i], labels[j]))
        for (i, j), (exact, cosine) in sorted(pairs.items())
    ]


def copies_across(train: ItemFeatures, valid: ItemFeatures, labels: tuple[Tensor, Tensor]) -> list[Copy]:
    """Items of the validation data that are in the training data as well, exactly or nearly."""
    found = {}
    first: dict[bytes, int] = {}
    for i, one in enumerate(train.digests):
        first.setdefault(one, i)
    for j, one in enumerate(valid.digests):
        if one in first:
            found[first[one], j] = (True, 1.0)
    seen = {j for _, j in found}
    near = nearest(valid.of_items, train.of_items, min(_LOOKED, len(train.numbers)))
    for j, i, cosine in _alike(valid, train, near):
        if j not in seen:
            seen.add(j)
            found[i, j] = (False, cosine)
    return [
        Copy(train.numbers[i], valid.numbers[j], "valid", exact, cosine, _differ(labels[0][i], labels[1][j]))
        for (i, j), (exact, cosine) in sorted(found.items())
    ]


def _alike(queries: ItemFeatures, among: ItemFeatures, near: Neighbours) -> Iterator[tuple[int, int, float]]:
    """Pairs whose features and pooled inputs both nearly agree; none where there are no pooled inputs (texts)."""
    a, b = queries.signatures, among.signatures
    if a is None or b is None or a.shape[1] != b.shape[1]:
        return
    cosines, rows = near.cosines[:, :_LOOKED], near.rows[:, :_LOOKED]
    q, place = (cosines > ALIKE).nonzero(as_tuple=True)
    j = rows[q, place]
    agree = (a[q] * b[j]).sum(1) > ALIKE
    yield from zip(q[agree].tolist(), j[agree].tolist(), cosines[q, place][agree].tolist())


def _differ(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and not torch.equal(one, other)


def outlying(near: Neighbours) -> Tensor:
    """(N,) how far an item is from its 10 nearest: the mean of 1 - cosine."""
    cosines, there = near.cosines[:, :_LOOKED], near.rows[:, :_LOOKED] >= 0
    far = (1 - cosines).masked_fill(~there, 0.0).sum(1)
    return far / there.sum(1).clamp_min(1)
