"""Norms of changes: their size, the step of steepest ascent, the nearest point of a ball, a random point in it.

All work on rows (N, D) of numbers, each row by itself.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError

NORMS = ("Linf", "L2", "L1")
_L1_SHARE = 0.01  # of the elements that an L1 step moves (Tramer and Boneh 2019, arXiv:1904.13000, section 5)


def check_norm(norm: Any) -> str:
    """A norm's name as it is written here; upper and lower case are the same."""
    for known in NORMS:
        if isinstance(norm, str) and norm.lower() == known.lower():
            return known
    raise InputError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}.")


def check_size(name: str, size: Any) -> float:
    """A size of a change: a number from 0."""
    if isinstance(size, bool) or not isinstance(size, (int, float)) or not 0 <= size < math.inf:
        raise InputError(f"{name} must be a number from 0, in units of the inputs, got {size!r}.")
    return float(size)


def sizes(change: Tensor, norm: str) -> Tensor:
    """The norm of each row, (N,)."""
    order = {"Linf": torch.inf, "L2": 2.0, "L1": 1.0}[norm]
    found: Tensor = torch.linalg.vector_norm(change, order, dim=1)
    return found


def dual_sizes(grad: Tensor, norm: str) -> Tensor:
    """How much a linear function of each row's gradient grows over a step of size one, (N,): the dual norm."""
    return sizes(grad, {"Linf": "L1", "L2": "L2", "L1": "Linf"}[norm])


def steepest(grad: Tensor, norm: str, share: float = _L1_SHARE) -> Tensor:
    """The step of size one that climbs a linear function most; zero where the gradient is.

    In L1 that is the element of the largest gradient; the largest `share` of them shares the step, at least one.
    """
    if norm == "Linf":
        return grad.sign()
    if norm == "L2":
        largest = grad.abs().amax(1, keepdim=True)
        scaled = grad / torch.where(largest > 0, largest, 1.0)  # squares of small numbers are zero
        size = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
        return scaled / torch.where(size > 0, size, 1.0)
    kept = max(1, round(share * grad.shape[1]))
    values, at = grad.abs().topk(kept, dim=1)
    moved = torch.zeros_like(grad).scatter(1, at, grad.gather(1, at).sign() * (values > 0))
    return moved / moved.abs().sum(1, keepdim=True).clamp_min(1.0)


def into_ball(change: Tensor, radius: float | Tensor, norm: str) -> Tensor:
    """The nearest change of at most that size, of a radius per row (N, 1) (in L1: Duchi et al. 2008, figure 1)."""
    if norm == "Linf":
        edge = torch.as_tensor(radius, dtype=change.dtype, device=change.device)
        return change.clamp(-edge, edge)
    size = sizes(change, norm)[:, None]
    outside = size > radius
    if norm == "L2":
        return torch.where(outside, change * (radius / torch.where(outside, size, 1.0)), change)
    ordered = change.abs().sort(dim=1, descending=True).values
    excess = (ordered.cumsum(1) - radius) / torch.arange(1, change.shape[1] + 1, device=change.device)
    last = (ordered > excess).sum(1, keepdim=True).clamp_min(1) - 1
    threshold = excess.gather(1, last).clamp_min(0)
    return torch.where(outside, change.sign() * (change.abs() - threshold).clamp_min(0), change)


def random_in_ball(
    like: Tensor, free: Tensor, radius: float | Tensor, norm: str, generator: torch.Generator, shared: bool = False
) -> Tensor:
    """A point for each row, uniform in the ball, of a radius per row (N, 1), over the elements that are free (0 or 1).

    It is drawn on the CPU. With `shared` all rows have one draw, so that a row gets the same in any batch.
    """
    many_rows = (1 if shared else len(like), like.shape[1])
    uniform = torch.rand(many_rows, generator=generator)
    if norm == "Linf":
        return (uniform.to(like) * 2 - 1) * radius * free
    many = free.sum(1, keepdim=True).clamp_min(1)
    reach = torch.rand(many_rows[0], 1, generator=generator).to(like) ** (1 / many)
    if norm == "L2":
        direction = torch.randn(many_rows, generator=generator).to(like) * free
    else:  # Laplace draws over their L1 norm are uniform on its sphere
        sign = torch.where(torch.rand(many_rows, generator=generator) < 0.5, -1.0, 1.0)
        direction = (sign * -torch.log1p(-uniform)).to(like) * free
    size = sizes(direction, norm)[:, None]
    return direction / torch.where(size > 0, size, 1.0) * reach * radius


def as_levels(size: float) -> str:
    """A size as people write it: "2/255" for two grey levels, else the number."""
    levels = size * 255
    if size and abs(levels - round(levels)) < 1e-6:
        return f"{round(levels)}/255"
    return f"{size:.4g}"
