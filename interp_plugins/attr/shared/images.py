"""Pictures and maps as pictures: blurring, resizing, averaging, and refusing what is none."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from interp_plugins.core.enlarged import enlarged
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import accumulation_dtype


def blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Rows (R, C, *space) blurred by Gaussians of sigma (R,) pixels along every axis of space; weights add up to one.

    The kernel is a matrix per axis, so that every row can have its own width, and the border needs no padding.
    """
    wide = x.to(accumulation_dtype(x.dtype))
    for axis in range(2, x.ndim):
        place = torch.arange(x.shape[axis], dtype=wide.dtype, device=x.device)
        squares = (place[:, None] - place) ** 2
        logits = -squares / (2 * sigma.to(wide)[:, None, None] ** 2).clamp_min(1e-12)
        kernel = logits.softmax(-1)
        moved = wide.movedim(axis, -1)
        flat = moved.reshape(len(x), -1, moved.shape[-1]) @ kernel.transpose(1, 2)
        wide = flat.reshape(moved.shape).movedim(-1, axis)
    return wide.to(x.dtype)


def input_size(inputs: Sequence[Tensor], space: int) -> tuple[int, ...] | None:
    """The size of the first input with that many axes of space, or None."""
    return next((tuple(x.shape[2:]) for x in inputs if x.ndim == space + 2), None)


def averaged(maps: Sequence[Tensor], xs: Sequence[Tensor]) -> Tensor:
    """The mean of maps of several layers, each divided by its peak, at the input's size (or the largest map's)."""
    dims = {m.ndim for m in maps}
    if len(dims) > 1:
        raise InputError(
            f"Maps of several layers are averaged, but theirs have different axes: {[tuple(m.shape) for m in maps]}. "
            "Choose layers of one kind."
        )
    space = maps[0].ndim - 2
    largest = max((tuple(m.shape[2:]) for m in maps), key=lambda s: s)
    size = input_size(xs, space) or largest
    parts = []
    for m in maps:
        peak = m.abs().flatten(1).amax(1).reshape(-1, *(1,) * (m.ndim - 1))
        scaled = m / peak.where(peak > 0, peak.new_ones(()))
        parts.append(enlarged(scaled, size) if space else scaled)
    return torch.stack(parts).mean(0)


def say_channels_last(name: str, xs: Sequence[Tensor]) -> None:
    """Warn where pictures look as if their channels stood last, which a method called by itself cannot know."""
    for x in xs:
        if InputSpec.guess(x).layout == "last":
            warnings.warn(
                f"{name} takes the inputs of shape {tuple(x.shape)} for {x.shape[1]} channels of "
                f"{' x '.join(map(str, x.shape[2:]))}. If the channels stand last: explain(model, inputs, ..., "
                "input_spec=InputSpec('image', layout='last')), or permute them.",
                InterpWarning,
                stacklevel=4,
            )


def check_real(name: str, xs: Sequence[Tensor]) -> None:
    """Refuse complex inputs, for methods that order, blur or move values."""
    for i, x in enumerate(xs):
        if x.is_complex():
            raise InputTypeError(
                f"{name} needs real numbers, and inputs[{i}] is {str(x.dtype).removeprefix('torch.')}. Use "
                "integrated_gradients, deep_lift or occlusion, or explain real and imaginary parts: "
                "torch.view_as_real(x), with a model that takes them."
            )


def check_one_picture(name: str, xs: Sequence[Tensor]) -> None:
    """Refuse several inputs, and inputs without axes of space."""
    if len(xs) != 1 or xs[0].ndim < 3:
        raise InputError(
            f"{name} makes a map of one input with axes of space, (N, C, H, W) for pictures; got "
            f"{[tuple(x.shape) for x in xs]}. Further inputs belong into additional_forward_args."
        )
    check_real(name, xs)
    say_channels_last(name, xs)
