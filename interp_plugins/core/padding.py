"""What fills samples of one batch up to one size, and what is left of an explanation without it."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from torch import Tensor

from interp_plugins.core.fields import TENSORS, names_of

E = TypeVar("E", bound=Any)  # an `Explanation`, which asks for this


def trimmed(exp: E) -> E:
    """A text's explanation without the padding behind its longest text."""
    assert exp.tokens is not None
    width, whole = max(map(len, exp.tokens)), exp.input.shape[1]

    def cut(v: Any) -> Any:
        if isinstance(v, tuple):
            return tuple(map(cut, v))
        return v[:, :width] if isinstance(v, Tensor) and v.ndim > 1 and v.shape[1] == whole else v

    ragged = (*names_of(exp, TENSORS, fill="zero"), *names_of(exp, TENSORS, fill="pad"))
    return dataclasses.replace(exp, **{name: cut(getattr(exp, name)) for name in ragged})


def cropped(exp: E) -> E:
    """An explanation of pictures that were filled up to one size (`core.concat.joined_pictures`), without the rest."""
    sizes = exp.meta.get("per_sample", {})
    if "input_size" not in sizes:
        return exp

    def cut(v: Any, name: str) -> Any:
        if not isinstance(v, Tensor) or v.ndim < 4:
            return v
        height, width = (max(side) for side in zip(*sizes[name], strict=True))
        return v[..., :height, :width]

    names = {"inputs": "input_size", "baselines": "input_size", "attributions": "map_size"}
    return dataclasses.replace(exp, **{field: cut(getattr(exp, field), size) for field, size in names.items()})
