"""Heads refitted out of fold: what a linear layer on the features says of each item when it has not learned that item.

Items are dealt to folds by a seed, each class in equal shares; exact copies go into one fold, since a copy that is
learned gives its twin away. For each fold a head is fitted to the others: softmax or sigmoids by LBFGS on the cross
entropy with a penalty on the weights (its optimum is unique), least squares with a penalty in closed form.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.core.random import make_generator

FOLDS = 5
_PENALTY = 1e-2  # half the sum of squared weights of standardised features, per item
_STEPS = 60
_WIDEST = 512  # features are turned onto so many principal axes at most: a head of more costs minutes


def dealt(groups: Tensor, strata: Tensor, seed: int, folds: int = FOLDS) -> Tensor:
    """The fold of each item (N,): items of a group together, each stratum in shares as equal as they can be.

    Args:
        groups: (N,) whole numbers; exact copies have one.
        strata: (N,) whole numbers, the class; a group's first item decides.
        seed: of the order in which they are dealt.
        folds: how many.
    """
    names, inverse = torch.unique(groups, return_inverse=True)
    first = torch.full((len(names),), len(groups)).scatter_reduce(0, inverse, torch.arange(len(groups)), "amin")
    drawn = torch.randperm(len(names), generator=make_generator(seed))
    order = drawn[strata[first][drawn].argsort(stable=True)]
    fold = torch.empty(len(names), dtype=torch.long)
    fold[order] = torch.arange(len(names)) % folds
    return fold[inverse]


def standardised(features: Tensor) -> Tensor:
    """Features with mean 0 and spread 1, turned onto their principal axes where they are many, and a column of ones."""
    x = features.float()
    x = (x - x.mean(0)) / x.std(0, correction=0).clamp_min(1e-6)
    if x.shape[1] > _WIDEST:
        axes = torch.linalg.eigh((x.T @ x).double() / len(x))[1][:, -_WIDEST:]
        x = x @ axes.float()
    return torch.cat([x, torch.ones(len(x), 1)], 1)


def out_of_fold(features: Tensor, fold: Tensor, fit: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """What the head that has not seen an item's fold says of it, (N, C).

    Args:
        features: (N, D + 1), of `standardised`.
        fold: (N,), of `dealt`.
        fit: features of the items to learn from and their rows -> weights (C, D + 1).
    """
    found: Tensor | None = None
    for one in fold.unique().tolist():
        held = fold == one
        rows = (~held).nonzero().flatten()
        said = features[held] @ fit(features[rows], rows).T
        found = said.new_zeros(len(features), said.shape[1]) if found is None else found
        found[held] = said
    assert found is not None
    return found


def class_probabilities(features: Tensor, labels: Tensor, classes: int, fold: Tensor) -> Tensor:
    """(N, C) probabilities of the classes, out of fold; labels (N,) indices."""

    def fit(x: Tensor, rows: Tensor) -> Tensor:
        y = labels[rows]
        return _minimised(x, classes, lambda z: F.cross_entropy(z, y))

    return out_of_fold(standardised(features), fold, fit).softmax(1)


def label_probabilities(features: Tensor, marks: Tensor, fold: Tensor) -> Tensor:
    """(N, L) probabilities of labels that do not exclude each other, out of fold; marks (N, L) of 0 and 1."""

    def fit(x: Tensor, rows: Tensor) -> Tensor:
        y = marks[rows].float()
        return _minimised(x, marks.shape[1], lambda z: F.binary_cross_entropy_with_logits(z, y))

    return out_of_fold(standardised(features), fold, fit).sigmoid()


def value_predictions(features: Tensor, values: Tensor, fold: Tensor) -> Tensor:
    """(N, K) predictions of values (N, K), out of fold, by least squares with a penalty."""
    y = values.double()

    def fit(x: Tensor, rows: Tensor) -> Tensor:
        x = x.double()
        penalty = torch.full((x.shape[1],), _PENALTY * len(x), dtype=torch.double)
        penalty[-1] = 0.0
        mean = y[rows].mean(0)
        weights = torch.linalg.solve(x.T @ x + torch.diag(penalty), x.T @ (y[rows] - mean))
        weights[-1] += mean
        return weights.T

    return out_of_fold(standardised(features).double(), fold, fit)


def _minimised(x: Tensor, outputs: int, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Weights (outputs, D + 1) that minimise a loss of the logits and the penalty; gradients are always possible."""
    with torch.inference_mode(False), torch.enable_grad():
        weights = torch.zeros(outputs, x.shape[1], requires_grad=True)
        search = torch.optim.LBFGS(
            [weights], max_iter=_STEPS, history_size=10, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
        )

        def value() -> Tensor:
            weights.grad = None
            total = loss(x @ weights.T) + 0.5 * _PENALTY * weights[:, :-1].square().sum()
            total.backward()
            return total

        search.step(value)
        return weights.detach()
