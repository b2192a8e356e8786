"""What is true of a function of a few columns: Shapley values by enumeration, Aumann-Shapley ones by quadrature.

Slow and plain on purpose, in double precision, and apart from the methods that are judged by them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import comb

import numpy as np
import torch
from torch import Tensor, nn

Values = Callable[[Tensor, Tensor], Tensor]  # rows (R, D) and the sample of each (R,) -> (R,)

MOST = 16  # columns that are enumerated: 65,536 coalitions a sample
_NODES, _PARTS, _HALVINGS = 4, 64, 40
_TOLERANCE = 1e-8  # of a part, relative to what happens on the whole path
_ROWS = 2**17  # that go through the model together


def in_double(model: nn.Module, targets: Tensor) -> Values:
    """The model as a function of rows, each for its sample's target, in double precision.

    Args:
        model: (rows, D) -> (rows, outputs); a copy is made.
        targets: (N,) the output that counts.
    """
    twin = copy.deepcopy(model).double().eval()
    return lambda rows, samples: twin(rows).gather(1, targets[samples][:, None])[:, 0]


def shapley_by_enumeration(values: Values, x: Tensor, b: Tensor) -> Tensor:
    """Exact Shapley values of the game in which a column has its own value or the baseline's.

    Args:
        values: rows and the sample of each -> a number per row.
        x: (N, D) float64; D is at most `MOST`.
        b: (N, D) float64.

    Returns:
        (N, D) float64.
    """
    n, d = x.shape
    present = (
        (torch.arange(2**d)[:, None] >> torch.arange(d)[None]) & 1
    ).bool()  # coalition c holds i where bit i is 1
    size = present.sum(1)
    weight = torch.tensor([1 / (d * comb(d - 1, k)) for k in range(d)], dtype=torch.float64)
    result = torch.zeros(n, d, dtype=torch.float64)
    for k in range(n):
        rows = torch.where(present, x[k], b[k])
        with torch.no_grad():
            worth = torch.cat([values(part, torch.full((len(part),), k)) for part in rows.split(_ROWS)])
        for i in range(d):
            without = (~present[:, i]).nonzero()[:, 0]
            result[k, i] = ((worth[without | (1 << i)] - worth[without]) * weight[size[without]]).sum()
    return result


def aumann_shapley(values: Values, x: Tensor, b: Tensor) -> Tensor:
    """Aumann-Shapley values: (x - b) times the mean gradient on the straight path from b to x.

    A part of the path over which the gradient does not account for the change of the output has a kink inside: it is
    halved, again and again.

    Args:
        values: rows and the sample of each -> a number per row.
        x: (N, D) float64.
        b: (N, D) float64.

    Returns:
        (N, D) float64; for piecewise smooth functions exact up to about 1e-6 of the change.
    """
    n = len(x)
    with torch.no_grad():
        everyone = torch.arange(n)
        scale = (values(x, everyone) - values(b, everyone)).abs().max().clamp_min(1e-12)
    sample = torch.arange(n).repeat_interleave(_PARTS)
    low = (torch.arange(_PARTS, dtype=torch.float64) / _PARTS).repeat(n)
    high = low + 1 / _PARTS
    total = torch.zeros_like(x)
    for halving in range(_HALVINGS + 1):
        parts = [_part(values, x, b, *p) for p in zip(*(v.split(_ROWS // _NODES) for v in (sample, low, high)))]
        found, missing = (torch.cat(v) for v in zip(*parts))
        done = (missing.abs() <= _TOLERANCE * scale) | torch.tensor(halving == _HALVINGS)
        total.index_add_(0, sample[done], found[done])
        sample, low, high = sample[~done], low[~done], high[~done]
        if not len(sample):
            break
        middle = (low + high) / 2
        sample, low, high = torch.cat([sample, sample]), torch.cat([low, middle]), torch.cat([middle, high])
    return total


def _part(values: Values, x: Tensor, b: Tensor, sample: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Values (R, D) of R parts of paths, and what of the output's change they leave out (R,)."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(_NODES))
    start, way = b[sample], (x - b)[sample]
    where = low[:, None] + (high - low)[:, None] * (nodes[None] + 1) / 2
    path = (start[:, None] + where[:, :, None] * way[:, None]).flatten(0, 1).requires_grad_()  # (R * nodes, D)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(values(path, sample.repeat_interleave(_NODES)).sum(), path)
    share = weights[None] * (high - low)[:, None] / 2
    found = way * (gradient.reshape(len(sample), _NODES, -1) * share[:, :, None]).sum(1)
    with torch.no_grad():
        ends = [values(start + at[:, None] * way, sample) for at in (high, low)]
    return found, ends[0] - ends[1] - found.sum(1)


def both_games(model: nn.Module, x: Tensor, targets: Tensor, baseline: Tensor) -> dict[str, Tensor]:
    """The two truths about a net of a table, by game.

    Args:
        model: (rows, D) -> (rows, outputs).
        x: (N, D).
        targets: (N,).
        baseline: (1, D).
    """
    values, rows = in_double(model, targets), x.double()
    b = baseline.double().expand_as(rows)
    # in single precision, as maps come: twins that differ in the last bits of a double would have ranks of their own
    games = {"shapley": shapley_by_enumeration, "aumann_shapley": aumann_shapley}
    return {game: found(values, rows, b).float() for game, found in games.items()}
