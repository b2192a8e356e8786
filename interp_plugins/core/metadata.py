"""Parameters and other metadata as JSON and back, for everything that keeps explanations on disk."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def to_json(value: Any) -> Any:
    """A JSON value; tuples, dicts and slices are marked so that they come back as such, the unknown becomes text.

    So are NaN and infinity, which JSON does not have.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(float(value))}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        items = [to_json(v) for v in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {"dict": {str(k): to_json(v) for k, v in value.items()}}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if isinstance(value, Tensor):
        return to_json(value.tolist()) if value.numel() <= 64 else f"Tensor{tuple(value.shape)}"
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return to_json(value.item())
    return str(value)


def from_json(value: Any) -> Any:
    """What `to_json` was given, as far as it could be kept."""
    if isinstance(value, list):
        return [from_json(v) for v in value]
    if isinstance(value, dict):
        if "tuple" in value:
            return tuple(from_json(v) for v in value["tuple"])
        if "slice" in value:
            return slice(*value["slice"])
        if "float" in value:
            return float(value["float"])
        return {k: from_json(v) for k, v in value["dict"].items()}
    return value
