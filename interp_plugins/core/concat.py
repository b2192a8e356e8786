"""Explanations of one method, made sample by sample, as one: samples of different lengths are padded with zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.fields import LISTED, TENSORS, names_of


def joined(parts: Sequence[Explanation], pad: int = 0) -> Explanation:
    """One explanation of all samples, in order.

    Args:
        parts: explanations of one method and target; tensors may differ in their second dimension (tokens).
        pad: what shorter inputs and baselines are filled up with; attributions get zeros.

    Raises:
        InputError: nothing to join, or different methods.
    """
    if not parts:
        raise InputError("There is nothing to join: no explanation.")
    if len({(p.method, p.layer) for p in parts}) > 1:
        raise InputError(f"Explanations of different methods cannot be one: {', '.join(p.method for p in parts)}.")
    first = parts[0]
    if len(parts) == 1:
        return first
    padded = names_of(first, TENSORS, fill="pad")
    changes: dict[str, Any] = {k: _chained([getattr(p, k) for p in parts]) for k in names_of(first, LISTED)}
    for name in names_of(first, TENSORS):
        changes[name] = _stacked([getattr(p, name) for p in parts], pad if name in padded else 0)
    changes["seconds"] = sum(p.seconds or 0.0 for p in parts)
    meta = dict(first.meta)
    for key in ("forward_passes", "backward_passes"):
        if key in meta:
            meta[key] = sum(p.meta.get(key, 0) for p in parts)
    if "engine" in meta:
        told = [p.meta.get("engine", {}) for p in parts]
        meta["engine"] = {k: list(dict.fromkeys(t for one in told for t in one.get(k, ()))) for k in meta["engine"]}
    if "per_sample" in meta:
        names = meta["per_sample"]
        meta["per_sample"] = {k: [v for p in parts for v in p.meta["per_sample"][k]] for k in names}
    return replace(first, **changes, meta=meta)


def _chained(values: Sequence[Any]) -> Any:
    return None if any(v is None for v in values) else tuple(e for v in values for e in v)


def _stacked(values: Sequence[Any], pad: int) -> Any:
    if any(v is None for v in values):
        return None
    if isinstance(values[0], tuple):
        return tuple(_stacked(column, pad) for column in zip(*values, strict=True))
    size = [max(sides) for sides in zip(*(v.shape[1:] for v in values), strict=True)]
    return torch.cat([_widened(v, size, pad) for v in values])


def _widened(value: Tensor, size: Sequence[int], pad: int) -> Tensor:
    """Filled up behind each axis but the first."""
    if list(value.shape[1:]) == list(size):
        return value
    out = value.new_full((value.shape[0], *size), pad)
    out[tuple(slice(0, side) for side in value.shape)] = value
    return out


def joined_pictures(parts: Sequence[Explanation]) -> Explanation:
    """One explanation of pictures of different sizes; `exp[i]` has its own size again.

    Args:
        parts: explanations of one method and target.
    """
    found = joined(parts)
    sizes = {
        "input_size": [tuple(p.input.shape[2:]) for p in parts for _ in range(len(p))],
        "map_size": [tuple(p.attribution.shape[2:]) for p in parts for _ in range(len(p))],
    }
    per_sample = {**found.meta.get("per_sample", {}), **sizes}
    return replace(found, meta={**found.meta, "per_sample": per_sample})
