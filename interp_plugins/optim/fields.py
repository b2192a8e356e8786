"""What a place of a layer sees of the input: the part of it that moves the layer there.

`effective` is the box that holds 95 % of the mean |d a / d input| at the centre of the grid over some items, along
each axis (Luo et al. 2016, Understanding the effective receptive field, arXiv:1701.04128); `field` the box of all that
moves it at all. Both come from gradients of the network as it is, so that every kind of layer has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.tensors import is_float
from interp_plugins.optim.capture import Capture

KINDS = ("effective", "field", None)
_SHARE = 0.95


@dataclass(frozen=True)
class SeenField:
    """How far a place of a grid sees.

    Attributes:
        sides: of the box, in places of the input, per axis.
        grid: axes of the layer.
        size: axes of the input.
    """

    sides: tuple[int, ...]
    grid: tuple[int, ...]
    size: tuple[int, ...]

    def boxes(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Places (..., axes) and boxes (..., 2 * axes) of flat places; a box is moved to lie inside the input."""
        places, rest = [], flat.clamp(min=0)
        for s in reversed(self.grid):
            places.append(rest % s)
            rest = rest // s
        place = torch.stack(places[::-1], -1) if places else flat.new_zeros(*flat.shape, 0)
        starts, ends = [], []
        for axis, (side, g, s) in enumerate(zip(self.sides, self.grid, self.size, strict=True)):
            centre = (place[..., axis] + 0.5) * s / g
            start = (centre - side / 2).round().long().clamp(0, s - side)
            starts.append(start)
            ends.append(start + side)
        box = torch.stack([*starts, *ends], -1) if starts else flat.new_zeros(*flat.shape, 0)
        return place, box


def field_of(capture: Capture, name: Any, items: Sequence[Tensor], grid: tuple[int, ...], kind: Any) -> SeenField:
    """How far a place of a layer sees.

    Args:
        capture: the model at the layer.
        name: of the layer.
        items: inputs of some items, in the model's units; axes of space behind the channels.
        grid: axes of space of the layer.
        kind: "effective", "field", or None: everything.

    Raises:
        InputError: another kind.
    """
    if kind not in KINDS:
        raise InputError(f"crop must be 'effective', 'field' or None, got {kind!r}.")
    size = tuple(items[0].shape[2:])
    if kind is None or len(grid) != len(size) or not is_float(items[0]):
        return SeenField(size, grid, size) if len(grid) == len(size) else SeenField((), (), ())
    amount = _amounts(capture, name, items)
    sides = []
    for axis, s in enumerate(size):
        others = tuple(a for a in range(len(size)) if a != axis)
        along = amount.sum(others) if others else amount
        sides.append(min(s, max(1, _width(along, kind))))
    return SeenField(tuple(sides), grid, size)


def _amounts(capture: Capture, name: Any, items: Sequence[Tensor]) -> Tensor:
    """Mean |d a / d input| at the centre over items and channels, signs drawn so that channels do not cancel."""
    x = items[0].detach().clone().requires_grad_()
    rows = torch.zeros(len(x), dtype=torch.long, device=x.device)
    with capture.running() as run:
        run([x, *items[1:]], rows)
        here = run.seen()[name].laid_out()
        while here.ndim > 2:
            here = here.select(2, here.shape[2] // 2)
        signs = torch.rand(here.shape, generator=torch.Generator().manual_seed(0)).round() * 2 - 1
        (grad,) = torch.autograd.grad((here * signs.to(here)).sum(), x, allow_unused=True, materialize_grads=True)
    return grad.abs().mean((0, 1)).double().cpu()


def _width(along: Tensor, kind: str) -> int:
    """The narrowest part of an axis around its middle mass that holds enough."""
    if not bool((along > 0).any()):
        return len(along)
    if kind == "field":
        used = torch.nonzero(along > 0).flatten()
        return int(used[-1] - used[0]) + 1
    share = (along / along.sum()).cumsum(0)
    start = int((share < (1 - _SHARE) / 2).sum())
    end = int((share < 1 - (1 - _SHARE) / 2).sum())
    return end - start + 1
