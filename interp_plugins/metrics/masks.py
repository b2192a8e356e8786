"""Masks in every form that people have them, laid over maps: bool tensors, boxes, spans of tokens, names of columns."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.enlarged import over_input
from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.layout import drawn
from interp_plugins.core.tensors import describe, widest
from interp_plugins.metrics.rows import Judged, checked, reduced, wide

FORMS = (
    "(N, H, W) or (N, 1, H, W) for pictures, (N, D, H, W) for volumes, (N, T) for series and texts, (N, F) for tables, "
    "or a list with an entry per sample: a mask, boxes (left, top, right, bottom), spans (start, stop), or names of "
    "columns"
)


@dataclass(frozen=True)
class Marked:
    """A map and its mask, place by place.

    Attributes:
        values: float64 (N, P), what the map says of each place.
        inside: bool (N, P), whether the place belongs to the mask.
        space: the axes of the places, where they have a common one (one input): (H, W), (T,), (F,).
    """

    values: Tensor
    inside: Tensor
    space: tuple[int, ...]

    @functools.cached_property
    def sizes(self) -> Tensor:
        """Number of places inside, int64 (N,)."""
        return self.inside.sum(1)

    @property
    def share(self) -> Tensor:
        """Share of the places that lie inside (N,)."""
        return wide(self.sizes) / self.inside.shape[1]

    @property
    def empty(self) -> dict[str, Tensor]:
        """The reason that a mask without a place gives."""
        return {"the mask is empty": self.sizes == 0}


def marked(attributions: Judged, masks: Any = None, reduce: str | None = "sum") -> Marked:
    """Maps and masks as rows over the same places.

    The axes that the mask lacks, or where it has size 1, are those of channels: `reduce` makes them one number per
    place. A map over a layer, in an `Explanation`, is enlarged to the input's places first (linear, bilinear,
    trilinear).

    Args:
        attributions: maps, a tensor or a tuple of tensors (one per input), or an `Explanation`.
        masks: where the thing lies (`FORMS`); a tuple with an entry per input where the maps are a tuple. None: the
            region of the `Explanation`.
        reduce: "sum", "abs_sum", "max_abs" or "l2" over channels; None: element by element.

    Raises:
        InputError: no mask, one that does not fit, or one with numbers other than 0 and 1.
    """
    exp = attributions if isinstance(attributions, Explanation) else None
    maps = checked(attributions)
    maps = maps if exp is None else over_input(drawn(exp))
    if masks is None:
        masks = exp.region if exp is not None else None
        if masks is None:
            raise InputError(f"No mask: give masks= as {FORMS}; or an Explanation with a region.")
    given = masks if isinstance(masks, tuple) else (masks,)
    if len(given) != len(maps):
        raise InputError(
            f"{len(given)} masks for {len(maps)} maps: give a tuple with one mask per input; entries per sample stand "
            "in a list."
        )
    pairs = [_pair(one, mask, reduce, exp) for one, mask in zip(maps, given)]
    values, inside = ([one.reshape(one.shape[0], -1) for one in many] for many in zip(*pairs, strict=True))
    if len(pairs) == 1:
        return Marked(values[0], inside[0], tuple(pairs[0][0].shape[1:]))
    return Marked(torch.cat(values, 1), torch.cat(inside, 1), (sum(v.shape[1] for v in values),))


def mask_share(attributions: Judged, masks: Any = None, *, reduce: str | None = "sum", **others: Any) -> Tensor:
    """Share of the places that the mask covers (N,): what a map without knowledge gets from many metrics."""
    return marked(attributions, masks, reduce).share.cpu()


def _pair(one: Tensor, mask: Any, reduce: str | None, exp: Explanation | None) -> tuple[Tensor, Tensor]:
    """Values and mask (N, *places) of one map."""
    text = exp is not None and (exp.spec.kind == "text" or (one.ndim == 3 and exp.spec.channel_axis(3) == 2))
    inside = _aligned(_read(mask, one, exp, text), one, text)
    values = one.detach().as_subclass(Tensor).to(widest(one.device))
    axes = tuple(i for i in range(1, one.ndim) if inside.shape[i] == 1 and one.shape[i] > 1)
    if reduce is None:
        return values, inside.expand(one.shape)
    kept = [i for i in range(1, one.ndim) if i not in axes and not (i == 1 and one.ndim > 2 and one.shape[1] == 1)]
    values = reduced(values, axes, reduce)
    shape = (one.shape[0], *(one.shape[i] for i in kept))
    return values.reshape(shape), inside.reshape(shape)


def _aligned(inside: Tensor, one: Tensor, text: bool) -> Tensor:
    """A mask of as many axes as its map, of size 1 where it says nothing."""
    shape = tuple(inside.shape)
    if inside.ndim == one.ndim + 1 and inside.shape[1] == 1:
        inside = inside.squeeze(1)
    if inside.ndim == one.ndim - 1:
        for axis in (one.ndim - 1, 1) if text else (1, one.ndim - 1):
            if tuple(inside.shape) == tuple(one.shape[:axis] + one.shape[axis + 1 :]):
                inside = inside.unsqueeze(axis)
                break
    fits = inside.ndim == one.ndim and inside.shape[0] == one.shape[0]
    if not fits or any(m not in (1, a) for m, a in zip(inside.shape[1:], one.shape[1:])):
        raise InputError(f"A mask of shape {shape} does not fit a map of shape {tuple(one.shape)}: give {FORMS}.")
    return inside


def _read(mask: Any, one: Tensor, exp: Explanation | None, text: bool) -> Tensor:
    """A mask in any form as a bool tensor on the map's device."""
    if isinstance(mask, np.ndarray):
        mask = torch.from_numpy(mask)
    if isinstance(mask, Tensor):
        return _as_bool(mask).to(one.device)
    space = _space(one, text)
    if isinstance(mask, (str, set, frozenset)):
        mask = [mask] * one.shape[0]
    if not isinstance(mask, list):
        raise InputError(f"A mask must be {FORMS}; got {describe(mask)}.")
    if len(mask) != one.shape[0]:
        raise InputError(f"{len(mask)} masks for {one.shape[0]} samples: a list has an entry per sample.")
    return torch.stack([_of_sample(entry, space, exp) for entry in mask]).to(one.device)


def _as_bool(mask: Tensor) -> Tensor:
    """A mask as bool; numbers other than 0 and 1 are refused, since no threshold is asked for."""
    mask = mask.detach().as_subclass(Tensor)
    if mask.dtype == torch.bool:
        return mask
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError(
            f"A mask says True or False (1 or 0) of each place; got {describe(mask)} with values from "
            f"{mask.min().item():g} to {mask.max().item():g}. Compare it first: mask > 0.5, or labels == 3."
        )
    return mask.bool()


def _space(one: Tensor, text: bool) -> tuple[int, ...]:
    """The axes of a map's places: behind the channels, or for texts before the embedding's."""
    if text or one.ndim == 2:
        return (one.shape[1],)
    return tuple(one.shape[2:])


def _of_sample(entry: Any, space: tuple[int, ...], exp: Explanation | None) -> Tensor:
    """The mask of one sample, bool of the places' shape."""
    if isinstance(entry, np.ndarray):
        entry = torch.from_numpy(entry)
    if isinstance(entry, Tensor):
        entry = _as_bool(entry)
        if tuple(entry.shape) != space:
            raise InputError(f"A sample's mask has shape {tuple(entry.shape)}, its map has places {space}.")
        return entry.cpu()
    found = torch.zeros(space, dtype=torch.bool)
    many = [entry] if _single(entry) else list(entry)
    for part in many:
        found[_where(part, space, exp)] = True
    return found


def _single(entry: Any) -> bool:
    """Whether an entry is one box, span or name rather than several."""
    return isinstance(entry, str) or (isinstance(entry, tuple) and all(isinstance(v, (int, float)) for v in entry))


def _where(part: Any, space: tuple[int, ...], exp: Explanation | None) -> Any:
    """The index of a box, a span or a column in the places."""
    if isinstance(part, str):
        names = exp.feature_names if exp is not None else None
        if names is None or len(space) != 1 or len(names) != space[0]:
            raise InputError(
                f"A column is named, {part!r}, but the names are not known: give an Explanation with feature_names "
                "(exp.annotated(feature_names=...)), or a mask (N, F)."
            )
        if part not in names:
            raise unknown("column", part, names)
        return names.index(part)
    if isinstance(part, Sequence) and len(part) == 2 * len(space) and len(space) in (1, 2):
        return _box(part, space)
    if len(space) == 3 and isinstance(part, Sequence):
        raise InputError(
            f"{part!r} is for places {space}, in volumes and clips: which axis a box of theirs names first is not "
            "agreed upon (scanners, arrays and packages differ). Give a mask, True in mask[:, d0:d1, top:bottom, "
            "left:right]."
        )
    raise InputError(f"{part!r} does not say where in places {space}: give {FORMS}.")


def _box(part: Sequence[Any], space: tuple[int, ...]) -> tuple[slice, ...]:
    """A box (left, top, right, bottom) or a span (start, stop) as slices; the end does not belong to it."""
    half = len(part) // 2
    starts, stops = reversed(part[:half]), reversed(part[half:])
    found = []
    for start, stop, size in zip(starts, stops, space):
        low, high = round(float(start)), round(float(stop))
        if low >= high or low >= size or high <= 0:
            raise InputError(
                f"{tuple(part)} holds no place of {space}: a box is (left, top, right, bottom) and a span (start, "
                "stop), with the end beyond the last place."
            )
        found.append(slice(max(0, low), min(size, high)))
    return tuple(found)
