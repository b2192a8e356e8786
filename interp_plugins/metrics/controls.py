"""Maps that know nothing of the model: a method that does not beat them says nothing of it either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.core.errors import unknown
from interp_plugins.core.random import sample_seed
from interp_plugins.core.tensors import is_float

CONTROLS = {
    "control.random": "a number drawn anew for every element",
    "control.constant": "the same number everywhere",
    "control.input": "how far each element is from what replaces it, whatever the model",
    "control.edges": "where the input changes (Sobel's masks for pictures, differences in time for series)",
    "control.centre": "a bell in the middle",
}
BLIND = tuple(name for name in CONTROLS if name != "control.constant")  # with which methods are compared


def control_maps(
    name: str, inputs: Sequence[Tensor], references: Sequence[Tensor], keys: Sequence[Any], seed: int = 0
) -> tuple[Tensor, ...]:
    """Maps of the inputs' shapes, float, on the CPU; a sample's map depends on it and its id alone.

    Args:
        name: of `CONTROLS`; "control.edges" and "control.centre" for pictures (N, C, H, W) and series (N, C, T).
        inputs: the samples.
        references: what replaces them where something is removed, of the same shapes.
        keys: ids of the samples.
        seed: of "control.random".

    Raises:
        UnknownNameError: another name.

    Example:
        control_maps("control.input", [torch.ones(1, 2)], [torch.zeros(1, 2)], [0])[0]  # -> [[1.0, 1.0]]
    """
    if name not in CONTROLS:
        raise unknown("control", name, CONTROLS)
    if name == "control.random":
        return tuple(_noise(x, keys, sample_seed(seed, f"input {i}")) for i, x in enumerate(inputs))
    if name == "control.constant":
        return tuple(torch.ones(x.shape) for x in inputs)
    if name == "control.input":
        return tuple(_distance(x.cpu(), b.cpu()) for x, b in zip(inputs, references, strict=True))
    make = _edges if name == "control.edges" else _centre
    return tuple(make(x.cpu()) for x in inputs)


def fits(name: str, inputs: Sequence[Tensor], kind: str) -> bool:
    """Whether a control can be made for inputs of this kind.

    Args:
        name: of `CONTROLS`.
        inputs: the samples.
        kind: of data, as `InputSpec` has it.
    """
    if name not in ("control.edges", "control.centre"):
        return True
    axes = (3, 4) if kind == "series" else (4,)  # three axes may as well be words and what stands for them
    return all(is_float(x) and x.ndim in axes and min(x.shape[2:]) > 2 for x in inputs)


def _noise(x: Tensor, keys: Sequence[Any], seed: int) -> Tensor:
    rows = [
        torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(sample_seed(seed, key)), dtype=torch.float32)
        for key in keys
    ]
    return torch.stack(rows)


def _distance(x: Tensor, base: Tensor) -> Tensor:
    if not is_float(x):
        return (x != base).float()
    return (x - base.to(x)).abs()


def _edges(x: Tensor) -> Tensor:
    if x.ndim == 3:
        padded = F.pad(x.float(), (1, 1), mode="replicate")
        return (padded[..., 2:] - padded[..., :-2]).abs() / 2
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    weight = torch.stack([kernel, kernel.T])[:, None]
    grey = F.pad(x.float().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    size = F.conv2d(grey, weight).norm(dim=1, keepdim=True)
    return (size / x.shape[1]).expand(x.shape).contiguous()


def _centre(x: Tensor) -> Tensor:
    """A bell, half a side wide; the channels share it."""
    squares = torch.zeros(x.shape[2:])
    for axis, side in enumerate(x.shape[2:]):
        squares = squares + torch.linspace(-1, 1, side).square().reshape(-1, *[1] * (x.ndim - 3 - axis))
    return (torch.exp(-2 * squares) / x.shape[1]).expand(x.shape).contiguous()
