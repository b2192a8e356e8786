"""Two independent votes on every label: its nearest neighbours', and a head's that has not learned it.

The votes are margins, large where a label fits. What is done with them (ranks, thresholds) is the same for all kinds:
classes, labels that do not exclude each other, values, and the places of segmented pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp_plugins.influence import heads
from interp_plugins.influence.features import ItemFeatures
from interp_plugins.influence.neighbours import Neighbours, nearest

_POWER = 8  # votes are cosine^8: a neighbour at 0.9 counts 0.43, one at 0.5 0.004
_FAR = 3.0  # robust standard deviations from which both votes take a value for wrong
_SHARE = 0.25  # of a picture's places, from which its mask is likely wrong
_FEWEST = 3  # items of a class, below which nothing can be said of them


@dataclass(frozen=True)
class Votes:
    """The votes, in the items' order.

    Attributes:
        knn: (N,) the neighbours' margin for the label.
        head: (N,) the margin of a head that has not learned the item.
        given: the label of each item: an index, a tuple of indices, a number or several.
        suggested: the label of each item that both votes together prefer, of the same kind as `given`.
        likely: (N,) whether both prefer one other label, the head with more than the usual confidence.
        probabilities: (N, C) of the head out of fold; None for values.
        known: (N,) whether anything can be said.
        more: further columns.
    """

    knn: Tensor
    head: Tensor
    given: list[Any]
    suggested: list[Any]
    likely: Tensor
    probabilities: Tensor | None
    known: Tensor
    more: dict[str, Tensor] = field(default_factory=dict)


def ranks(values: Tensor) -> Tensor:
    """Ranks in (0, 1], equal values sharing the mean of theirs; float64."""
    _, inverse, counts = torch.unique(values.double(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return ((last - (counts - 1) / 2) / len(values))[inverse]


def class_margins(shares: Tensor, labels: Tensor) -> Tensor:
    """The share (or probability) of the label less the largest of another class: (N,) from -1 to 1."""
    own = shares.gather(1, labels[:, None])[:, 0]
    return own - shares.scatter(1, labels[:, None], -torch.inf).amax(1)


def vote_shares(near: Neighbours, marks: Tensor, known: Tensor | None = None) -> Tensor:
    """(Q, C) the neighbours' weighted mean of marks (N, C): shares of classes, of labels, or a mean value.

    Args:
        near: the neighbours of each query.
        marks: what each of them says.
        known: (N,) which of them say something; None: all.
    """
    there = near.rows >= 0
    if known is not None:
        there = there & known[near.rows.clamp_min(0)]
    weights = near.cosines.clamp(0, None).pow(_POWER).masked_fill(~there, 0.0)
    weights = weights.where(weights.sum(1, keepdim=True) > 0, there.to(weights)).to(marks.dtype)
    total = weights.sum(1, keepdim=True).clamp_min(1e-12)
    found = marks.new_zeros(len(weights), marks.shape[1])
    for j in range(weights.shape[1]):  # one neighbour at a time: (Q, k, C) would be large
        found += weights[:, j : j + 1] * marks[near.rows[:, j].clamp_min(0)]
    return found / total


def thresholds(probabilities: Tensor, labels: Tensor) -> Tensor:
    """(C,) the mean probability that a class has among its own items (Northcutt et al. 2021, section 3.1)."""
    classes = probabilities.shape[1]
    own = probabilities.gather(1, labels[:, None])[:, 0]
    total = own.new_zeros(classes).index_add(0, labels, own)
    count = torch.bincount(labels, minlength=classes)
    return torch.where(count > 0, total / count.clamp_min(1), torch.ones_like(total))


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(N, C) of 0 and 1."""
    return torch.zeros(len(labels), classes).scatter(1, labels[:, None], 1.0)


@dataclass(frozen=True)
class _Cells:
    """Both votes of cells whose label is one class."""

    shares: Tensor
    probabilities: Tensor
    labels: Tensor

    @property
    def likely(self) -> Tensor:
        """Cells of which both prefer one other class, the head as surely as it is of that class's own."""
        best = self.probabilities.argmax(1)
        sure = self.probabilities.amax(1) >= thresholds(self.probabilities, self.labels)[best]
        return (best != self.labels) & (self.shares.argmax(1) == best) & sure


def class_votes(
    features: ItemFeatures, near: Neighbours, labels: Tensor, classes: int, groups: Tensor, seed: int
) -> Votes:
    """Votes where an item has one class; an item without a label, or of a class of one or two items, gets none.

    Args:
        features: of the items.
        near: their neighbours.
        labels: (N,) indices, -1 for none.
        classes: how many there are.
        groups: (N,) exact copies have one number.
        seed: of the folds.
    """
    count = torch.bincount(labels[labels >= 0], minlength=classes)
    known = (labels >= 0) & (count[labels.clamp_min(0)] >= _FEWEST)
    at, n = known.nonzero().flatten(), len(labels)
    own = labels.clamp_min(0)
    shares = vote_shares(near, one_hot(own, classes), known)
    probabilities, likely = torch.zeros(n, classes), torch.zeros(n, dtype=torch.bool)
    knn, head = torch.zeros(n), torch.zeros(n)
    if len(at):
        fold = heads.dealt(groups[at], labels[at], seed)
        cells = _Cells(shares[at], heads.class_probabilities(features.cells[at], labels[at], classes, fold), labels[at])
        probabilities[at], likely[at] = cells.probabilities, cells.likely
        knn[at], head[at] = class_margins(cells.shares, cells.labels), class_margins(cells.probabilities, cells.labels)
    suggested = torch.where(known, (shares + probabilities).argmax(1), labels).tolist()
    return Votes(knn, head, labels.tolist(), suggested, likely, probabilities, known)


def pixel_votes(features: ItemFeatures, classes: int, groups: Tensor, k: int, seed: int) -> Votes:
    """Votes on masks: those of their places, each judged by the places of other pictures."""
    item, labels, n = features.item, features.truth.long(), len(features.numbers)
    count = torch.bincount(item, minlength=n)
    held = torch.zeros(n, classes).index_put((item, labels), torch.ones(len(item)), accumulate=True)
    fold = heads.dealt(groups, held.argmax(1), seed)[item]
    near = nearest(features.cells, features.cells, k, groups=(groups[item], groups[item]))
    shares = vote_shares(near, one_hot(labels, classes))
    cells = _Cells(shares, heads.class_probabilities(features.cells, labels, classes, fold), labels)

    def mean(values: Tensor) -> Tensor:
        return torch.zeros(n).index_add(0, item, values.float()) / count.clamp_min(1)

    best = (cells.shares + cells.probabilities).argmax(1)
    both = (cells.shares.argmax(1) == cells.probabilities.argmax(1)) & (best != labels)
    other = torch.zeros(n, classes).index_put((item[both], best[both]), torch.ones(int(both.sum())), accumulate=True)
    given = held.argmax(1)
    suggested = torch.where(other.sum(1) > 0, other.argmax(1), given)
    return Votes(
        mean(class_margins(cells.shares, labels)),
        mean(class_margins(cells.probabilities, labels)),
        given.tolist(),
        suggested.tolist(),
        mean(cells.likely) >= _SHARE,
        None,
        count > 0,
        {"share": mean(both)},
    )


def label_votes(features: ItemFeatures, near: Neighbours, marks: Tensor, groups: Tensor, seed: int) -> Votes:
    """Votes where an item has any number of labels: on each label by itself; an item's worst label is its vote.

    Args:
        features: of the items.
        near: their neighbours.
        marks: (N, L) of 0 and 1.
        groups: (N,) exact copies have one number.
        seed: of the folds.
    """
    fold = heads.dealt(groups, torch.zeros(len(marks), dtype=torch.long), seed)
    marks = marks.float()
    sign = 2 * marks - 1
    shares, probabilities = vote_shares(near, marks), heads.label_probabilities(features.cells, marks, fold)
    knn, head = sign * (2 * shares - 1), sign * (2 * probabilities - 1)
    doubt = ranks(-knn.flatten()).view_as(knn) + ranks(-head.flatten()).view_as(head)
    worst = doubt.argmax(1, keepdim=True)
    present = (probabilities * marks).sum(0) / marks.sum(0).clamp_min(1)
    absent = ((1 - probabilities) * (1 - marks)).sum(0) / (1 - marks).sum(0).clamp_min(1)
    sure = torch.where(marks > 0, 1 - probabilities >= absent, probabilities >= present)
    against = (knn < 0) & (head < 0)
    suggested = torch.where(against, 1 - marks, marks)
    as_tuples = lambda m: [tuple(row.nonzero().flatten().tolist()) for row in m]  # noqa: E731
    return Votes(
        knn.gather(1, worst)[:, 0],
        head.gather(1, worst)[:, 0],
        as_tuples(marks),
        as_tuples(suggested),
        (against & sure).any(1),
        probabilities,
        torch.ones(len(marks), dtype=torch.bool),
        {"label": worst[:, 0]},
    )


def value_votes(features: ItemFeatures, near: Neighbours, values: Tensor, groups: Tensor, seed: int) -> Votes:
    """Votes on values: how far each lies from its neighbours' and from a head's, in units of the usual distance.

    Args:
        features: of the items.
        near: their neighbours.
        values: (N, K).
        groups: (N,) exact copies have one number.
        seed: of the folds.
    """
    known = values.isfinite().all(1)
    at = known.nonzero().flatten()
    y = values[at].double()
    every = torch.where(known[:, None], values, torch.zeros_like(values)).double()
    mean = vote_shares(near, every, known)[at]
    variance = (vote_shares(near, every.square(), known)[at] - mean.square()).clamp_min(0)
    floor = _usual(y - mean)
    by_knn = (y - mean) / (variance.sqrt() + floor)
    fold = heads.dealt(groups[at], torch.zeros(len(at), dtype=torch.long), seed)
    said = heads.value_predictions(features.cells[at], y, fold)
    by_head = (y - said) / _usual(y - said)
    by_knn = by_knn / _usual(by_knn)
    n, likely = len(values), torch.zeros(len(values), dtype=torch.bool)
    knn, head, best = torch.zeros(n), torch.zeros(n), values.double().clone()
    knn[at], head[at] = -by_knn.abs().amax(1).float(), -by_head.abs().amax(1).float()
    likely[at] = ((by_knn.abs() > _FAR) & (by_head.abs() > _FAR) & (by_knn.sign() == by_head.sign())).any(1)
    best[at] = (mean + said) / 2
    as_values = lambda v: [row[0] if len(row) == 1 else tuple(row) for row in v.tolist()]  # noqa: E731
    return Votes(knn, head, as_values(values.double()), as_values(best), likely, None, known)


def _usual(residuals: Tensor) -> Tensor:
    """(K,) the median distance from zero as a standard deviation: 1.4826 times it, for a normal law."""
    middle = residuals.abs().median(0).values * 1.4826
    return middle.where(middle > 0, residuals.std(0, correction=0)).clamp_min(1e-12)
