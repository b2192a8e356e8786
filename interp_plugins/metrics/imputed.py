"""Removed pixels filled in from their neighbours: each becomes the weighted mean of the eight around it.

Sides weigh 1/6 and corners 1/12, as far as they lie in the picture, so that with all eight they sum to one. The removed
pixels of a picture then solve a linear system, which is symmetric once each row is multiplied by its sum of weights:
conjugate gradients solve it for all pictures and channels at once, begun from what another picture with fewer removed
pixels gave. Whole pictures are kept and the known pixels stay zero in the unknowns, so that a product with the matrix
is a few shifted sums.

Reference: Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, 2022, arXiv:2202.00449.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_plugins.metrics.rows import row_sum

TOLERANCE = 1e-5  # residual, relative to the picture's spread: errors up to some 2e-3 of it
_MOST = 2000  # iterations
_TINY = 1e-6  # of the largest value, for pictures without any spread
_EVERY = 8  # iterations between looks at which pictures are done


def neighbours(v: Tensor) -> Tensor:
    """Sums over the eight neighbours, sides weighing 2 and corners 1: of (..., H, W), zeros beyond the border.

    The weights are the product of (1, 2, 1) with itself, without its centre.
    """
    rows = 2 * v
    rows[..., 1:, :] += v[..., :-1, :]
    rows[..., :-1, :] += v[..., 1:, :]
    both = 2 * rows
    both[..., 1:] += rows[..., :-1]
    both[..., :-1] += rows[..., 1:]
    return both.sub_(v, alpha=4)


def imputed(x: Tensor, removed: Tensor, empty: Tensor, start: Tensor | None = None, tol: float = TOLERANCE) -> Tensor:
    """Pictures whose removed pixels are the weighted means of their neighbours.

    Args:
        x: (R, C, H, W), real.
        removed: bool (R, 1, H, W).
        empty: what stands where nothing is known, broadcastable to x: for pictures of which all is removed.
        start: a first guess, of x's shape; None: the mean of the pixels that are known.
        tol: largest residual, relative to the spread of what is known.

    Returns:
        (R, C, H, W): x where it is known.
    """
    unknown = removed.to(x.dtype)
    known = 1 - unknown
    degree = neighbours(torch.ones_like(x[:1, :1]))
    count = _sums(known)
    seen = x * known
    mean = row_sum(seen.flatten(2).flatten(0, 1)).reshape(*x.shape[:2], 1, 1) / count.clamp_min(1)
    spread = (_sums((seen - mean * known).square()) / (count * x.shape[1]).clamp_min(1)).sqrt()
    spread = spread + _TINY * seen.abs().amax((1, 2, 3), keepdim=True)
    bound = (tol * spread * degree.max()).square() * _sums(unknown) * x.shape[1]
    guess = (mean if start is None else start) * unknown
    found = _solved(neighbours(seen) * unknown, unknown, degree, guess, bound)
    return torch.where(removed, torch.where(count > 0, found, empty.to(x)), x)


def _sums(v: Tensor) -> Tensor:
    """Sums per picture, (R, 1, 1, 1), to the bit the same whatever the other pictures."""
    return row_sum(v.flatten(1))[:, None, None, None]


def _solved(right: Tensor, unknown: Tensor, degree: Tensor, guess: Tensor, bound: Tensor) -> Tensor:
    """Solve degree v - neighbours(v) = right on the unknown pixels, each picture until its residual is small."""
    found, live = guess.clone(), torch.arange(len(guess), device=guess.device)
    v, mask, limit = guess, unknown, bound
    residual = right - (degree * v - neighbours(v)) * mask
    step = residual / degree
    old = _sums(residual * step)
    for k in range(_MOST):
        if k % _EVERY == 0:
            going = ((_sums(residual.square()) > limit) & (old > 0)).flatten()
            found[live] = v
            if not bool(going.any()):
                break
            if not bool(going.all()):
                live, v, mask, limit = live[going], v[going], mask[going], limit[going]
                residual, step, old = residual[going], step[going], old[going]
        image = (degree * step - neighbours(step)) * mask
        length = old / _sums(step * image).clamp_min(torch.finfo(v.dtype).tiny)
        v = v + length * step
        residual = residual - length * image
        scaled = residual / degree
        new = _sums(residual * scaled)
        step = scaled + (new / old.clamp_min(torch.finfo(v.dtype).tiny)) * step
        old = new
    found[live] = v
    return found
