"""Straight distance of every place to the nearest place of a mask, exact, one axis after the other.

Along one axis the squared distance is a minimum over shifts k of what lies k further plus k squared; shifts end where k
squared exceeds the largest distance left. Whole numbers all the way, so no order of samples can change a bit.

Reference: Felzenszwalb and Huttenlocher, Distance Transforms of Sampled Functions (2012), for the separation by axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_plugins.metrics.rows import wide


def distances(inside: Tensor, space: tuple[int, ...]) -> Tensor:
    """Distances (N, P), float64, in places; zero inside, and zero everywhere for a mask without a place.

    Args:
        inside: bool (N, P).
        space: the axes of the places; their product is P.
    """
    n = inside.shape[0]
    far = sum(size**2 for size in space)  # farther than any two places
    squares = torch.where(inside, 0, far).to(torch.int32).reshape(n, *space)
    squares[~inside.any(1)] = 0
    for axis in range(1, squares.ndim):
        squares = _along(squares.movedim(axis, 0).contiguous()).movedim(0, axis)
    return wide(squares.reshape(n, -1)).sqrt()


def _along(squares: Tensor) -> Tensor:
    """The minimum over shifts along the first axis."""
    found = squares.clone()
    for k in range(1, squares.shape[0]):
        if k % 8 == 1 and k * k >= int(found.max()):
            break
        found[k:] = torch.minimum(found[k:], squares[:-k] + k * k)
        found[:-k] = torch.minimum(found[:-k], squares[k:] + k * k)
    return found
