"""The formulas of the gradient-based class activation maps: (activations, gradients) -> contributions of the channels.

Every function takes the layer's activations A and the gradients G = dF/dA, both (N, C, *space), and returns what each
channel contributes to the map at each place, of the same shape; the map is the sum over channels. Where the formula has
no channels left, it returns (N, 1, *space).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from interp_plugins.core.tensors import accumulation_dtype, widest

Weighting = Callable[[Tensor, Tensor], Tensor]


def _space(t: Tensor) -> tuple[int, ...]:
    return tuple(range(2, t.ndim))


def _mean(t: Tensor) -> Tensor:
    """Mean over the axes of space, kept; a tensor without such axes stays as it is."""
    return t.mean(_space(t), keepdim=True) if t.ndim > 2 else t


def _sum(t: Tensor) -> Tensor:
    return t.sum(_space(t), keepdim=True) if t.ndim > 2 else t


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """A / b, zero where b is zero."""
    return torch.where(b == 0, torch.zeros_like(a), a / torch.where(b == 0, torch.ones_like(b), b))


def grad_cam(a: Tensor, g: Tensor) -> Tensor:
    """mean(G) A (Selvaraju et al. 2017, equations 1 and 2)."""
    return _mean(g) * a


def grad_cam_plus_plus(a: Tensor, g: Tensor) -> Tensor:
    """sum(alpha relu(G)) A with alpha = G^2 / (2 G^2 + sum(A) G^3) (Chattopadhyay et al. 2018, equation 19).

    Only positive gradients count, and there alpha = 1 / (2 + sum(A) G). The paper's layers are behind a ReLU, so sum(A)
    is not negative; elsewhere its positive part is taken, or the denominator could pass through zero.
    """
    positive = g.relu()
    return _sum(positive / (2 + _sum(a).relu() * positive)) * a


def x_grad_cam(a: Tensor, g: Tensor) -> Tensor:
    """sum(G A) / sum(A) A (Fu et al. 2020, equation 8); channels whose activations sum to zero contribute nothing."""
    return _ratio(_sum(g * a), _sum(a)) * a


def layer_cam(a: Tensor, g: Tensor) -> Tensor:
    """relu(G) A (Jiang et al. 2021, equation 3)."""
    return g.relu() * a


def hi_res_cam(a: Tensor, g: Tensor) -> Tensor:
    """G A (Draelos and Carin 2020, equation 3)."""
    return g * a


def eigen_grad_cam(a: Tensor, g: Tensor) -> Tensor:
    """The first principal component over the places of G A; (N, 1, *space)."""
    return first_component(g * a, centre=True)


def first_component(t: Tensor, centre: bool) -> Tensor:
    """The places' values along the first principal axis of the channels, (N, 1, *space).

    A principal axis has no sign; the one is taken that makes the largest absolute value positive. It is read off the
    products of channels or of places, whichever are fewer, in float64, which takes half the time of a singular value
    decomposition, or less.
    """
    n, c = t.shape[:2]
    wide = t.reshape(n, c, -1).to(torch.promote_types(accumulation_dtype(t.dtype), torch.float32))
    if centre:
        wide = wide - wide.mean(2, keepdim=True)
    by_channel = c <= wide.shape[2]
    a = (wide if by_channel else wide.transpose(1, 2)).to(widest(wide.device))
    squares, axes = torch.linalg.eigh(a @ a.transpose(1, 2))  # ascending
    axis = axes[:, :, -1:]
    values = a.transpose(1, 2) @ axis if by_channel else axis * squares[:, None, -1:].clamp_min(0).sqrt()
    found = values[:, :, 0].to(wide.dtype)
    peak = found.gather(1, found.abs().argmax(1, keepdim=True))
    return (found * torch.where(peak < 0, -1.0, 1.0)).reshape(n, 1, *t.shape[2:])
