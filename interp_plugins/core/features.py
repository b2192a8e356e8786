"""Features: groups of input elements that are perturbed together.

A `feature_mask` gives every element the number of its group; the same number in two inputs means one feature across
both. `Windows` are the overlapping boxes of occlusion. Both tell, for feature k, which elements of each input change.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple, check_readable, describe

_FEW = 512  # elements of a mask whose numbers are told apart faster in Python


class MaskFeatures:
    """Disjoint features from integer masks (default: every element is a feature of its own).

    Args:
        inputs: the inputs, batch first.
        feature_mask: None, an int tensor broadcastable to the input (batch dimension 1 or N), or a tuple of these.
    """

    def __init__(self, inputs: Sequence[Tensor], feature_mask: Any = None):
        self.counts_overlap = False
        self._shapes = [tuple(x.shape[1:]) for x in inputs]
        if feature_mask is None:
            self._masks: list[Tensor] = []
            start = 0
            for x in inputs:
                size = x[0].numel()
                ids = torch.arange(start, start + size, device=x.device)
                self._masks.append(ids.reshape(1, *x.shape[1:]))
                start += size
            self.ids = list(range(start))
        else:
            self._masks = [
                _checked_mask(m, x, i)
                for i, (m, x) in enumerate(zip(_mask_tuple(feature_mask, inputs), inputs, strict=True))
            ]
            self.ids = sorted(
                {v for m in self._masks for v in (m.reshape(-1) if m.numel() < _FEW else m.unique()).tolist()}
            )
            if self.ids and self.ids[0] < 0:
                raise InputError(
                    f"feature_mask holds the number {self.ids[0]}; features are numbered from 0. Elements that belong "
                    "together have one number, and every element belongs to a feature."
                )

    def __len__(self) -> int:
        return len(self.ids)

    def inputs_of(self, k: int) -> list[int]:
        """Which inputs feature k has elements in."""
        return [i for i, m in enumerate(self._masks) if m.numel()]

    def masks(self, k: int) -> list[Tensor]:
        """Bool masks (1 or N, ...) of feature k, one per input, broadcastable to it."""
        return [m == self.ids[k] for m in self._masks]

    def positions(self) -> list[Tensor]:
        """The number k of the feature of every element, (1 or N, ...) per input; of the inputs' shapes."""
        ids = torch.tensor(self.ids)
        return [
            torch.searchsorted(ids.to(m.device), m.contiguous()).expand(m.shape[0], *shape)
            for m, shape in zip(self._masks, self._shapes, strict=True)
        ]


def _mask_tuple(feature_mask: Any, inputs: Sequence[Tensor]) -> tuple[Any, ...]:
    many = as_tuple(feature_mask)
    if len(many) != len(inputs):
        raise InputError(f"feature_mask has {len(many)} tensors for {len(inputs)} inputs; give one per input.")
    return many


def _checked_mask(mask: Any, x: Tensor, i: int) -> Tensor:
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
        raise InputTypeError(f"feature_mask[{i}] must be an integer tensor, got {describe(mask)}.")
    check_readable(mask, f"feature_mask[{i}]")
    m = mask.detach().as_subclass(Tensor).to(x.device).long()
    try:
        m.expand(x.shape)  # torch.broadcast_shapes would load the symbolic shapes, which takes seconds
    except RuntimeError as err:
        raise InputError(
            f"feature_mask[{i}] of shape {tuple(m.shape)} cannot be broadcast to its input of shape {tuple(x.shape)}."
        ) from err
    return m.reshape((1,) * (x.ndim - m.ndim) + tuple(m.shape))


class Windows:
    """The boxes of a sliding window, one input after the other; overlaps are averaged.

    Args:
        inputs: the inputs, batch first.
        shapes: window per input, without the batch dimension.
        strides: step per dimension (int or tuple per input); None = 1.
        border: "shift": the last window is moved back to end at the border, so that all windows have one size;
            "clip": it is cut off at the border, as Captum does.

    Attributes:
        axes: per input and dimension, the extents of the windows; a window is one of each.
        boxes: the windows, the first dimension fastest.
    """

    def __init__(self, inputs: Sequence[Tensor], shapes: Any, strides: Any = None, border: str = "shift"):
        if border not in ("shift", "clip"):
            raise InputError(f"border must be 'shift' or 'clip', got {border!r}.")
        self.counts_overlap = True
        self.inputs = inputs
        windows = _window_tuple(shapes, inputs)
        steps = _stride_tuple(strides, inputs, windows)
        self.axes: list[list[list[slice]]] = []
        self.boxes: list[tuple[int, tuple[slice, ...]]] = []
        for i, (x, window, step) in enumerate(zip(inputs, windows, steps, strict=True)):
            axes = []
            for d, (size, w, s) in enumerate(zip(x.shape[1:], window, step, strict=True)):
                if not 1 <= w <= size:
                    raise InputError(
                        f"sliding_window_shapes[{i}] = {window} does not fit the input of shape {tuple(x.shape)}: "
                        f"dimension {d} (without the batch) has size {size}. The window has no batch dimension."
                    )
                if not 1 <= s <= w and not (s > w and size == w):
                    raise InputError(
                        f"Stride dimension {s} cannot be larger than sliding window shape dimension {w} (input {i}, "
                        f"dimension {d}), or parts of the input would never be occluded."
                    )
                count = math.ceil((size - w) / s) + 1
                starts = [k * s for k in range(count)]
                if border == "shift":
                    starts = [min(start, size - w) for start in starts]
                axes.append([slice(start, min(start + w, size)) for start in starts])
            self.axes.append(axes)
            # The first dimension runs fastest, as in Captum, so that progress and seeds mean the same.
            for corner in itertools.product(*reversed(axes)):
                self.boxes.append((i, tuple(reversed(corner))))

    def __len__(self) -> int:
        return len(self.boxes)

    def inputs_of(self, k: int) -> list[int]:
        """Which inputs feature k has elements in."""
        return [self.boxes[k][0]]

    def box(self, k: int) -> tuple[int, tuple[slice, ...]]:
        """Input number and box (without the batch dimension) of window k."""
        return self.boxes[k]

    def masks(self, k: int) -> list[Tensor]:
        """Bool masks (1, ...) of window k, one per input."""
        which, box = self.boxes[k]
        out = []
        for i, x in enumerate(self.inputs):
            mask = torch.zeros((1, *x.shape[1:]), dtype=torch.bool, device=x.device)
            if i == which:
                mask[(slice(None), *box)] = True
            out.append(mask)
        return out


_PLACES = 28  # windows along each of two axes: 15 pixels wide and 8 apart for 224
_MOST = _PLACES**2


def default_window(x: Tensor, spec: InputSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Window and strides that slide over an input's places, about 800 windows at most, without the batch dimension.

    Pictures have some 28 x 28 windows over all channels, volumes and clips some 9 x 9 x 9, series some 28 along time,
    over each channel alone where there are at most 28 of them. A window is about twice as long as its step. Tables
    and texts have one per feature or token.
    """
    axes = tuple(range(2, 4)) if x.ndim == 4 and spec.layout != "last" else spec.places(x.ndim)
    if not axes and x.ndim > 4:
        axes = tuple(range(2, x.ndim))
    if not axes:
        whole = x.ndim == 3  # a token's vector, say
        shape = (1, *x.shape[2:]) if whole else (1,) * (x.ndim - 1)
        return shape, shape
    count = max(1, round(_MOST ** (1 / max(2, len(axes)))))
    window, steps = list(x.shape[1:]), list(x.shape[1:])
    for axis in axes:
        size = x.shape[axis]
        window[axis - 1] = max(1, round(size * 15 / (8 * count)))
        steps[axis - 1] = max(1, min(window[axis - 1], round(size / count)))
    channels = spec.channel_axis(x.ndim)
    if len(axes) == 1 and channels is not None and x.shape[channels] <= _PLACES:
        window[channels - 1] = steps[channels - 1] = 1
    return tuple(window), tuple(steps)


def _window_tuple(shapes: Any, inputs: Sequence[Tensor]) -> list[tuple[int, ...]]:
    if not isinstance(shapes, tuple) or not shapes:
        raise InputTypeError(
            f"sliding_window_shapes must be a tuple (without the batch dimension), such as (3, 15, 15) for an RGB "
            f"picture, or a tuple of such tuples, one per input; got {describe(shapes)}."
        )
    many = shapes if isinstance(shapes[0], tuple) else (shapes,)
    if len(many) != len(inputs):
        raise InputError(f"sliding_window_shapes has {len(many)} windows for {len(inputs)} inputs; give one per input.")
    for i, (window, x) in enumerate(zip(many, inputs, strict=True)):
        if len(window) != x.ndim - 1 or not all(isinstance(w, int) for w in window):
            raise InputError(
                f"sliding_window_shapes[{i}] = {window} must have {x.ndim - 1} ints, one per dimension of the input "
                f"{tuple(x.shape)} after the batch."
            )
    return [tuple(w) for w in many]


def _stride_tuple(strides: Any, inputs: Sequence[Tensor], windows: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    if strides is None:
        strides = 1
    if isinstance(strides, int):
        return [(strides,) * len(w) for w in windows]
    if not isinstance(strides, tuple):
        raise InputTypeError(
            f"strides must be an int, a tuple, or a tuple of these, one per input; got {describe(strides)}."
        )
    if len(inputs) == 1 and not isinstance(strides[0], tuple):
        strides = (strides,)
    if len(strides) != len(inputs):
        raise InputError(f"strides has {len(strides)} entries for {len(inputs)} inputs; give one per input.")
    out = [(s,) * len(w) if isinstance(s, int) else tuple(s) for s, w in zip(strides, windows, strict=True)]
    for i, (s, w) in enumerate(zip(out, windows, strict=True)):
        if len(s) != len(w):
            raise InputError(f"strides[{i}] = {s} must have {len(w)} entries, like its window {w}.")
    return out
