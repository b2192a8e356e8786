"""What a field of `Explanation` holds, said once where it is declared.

Slicing, joining, saving and tables are loops over these declarations, so a new field is one line:

    score: Tensor | None = field(default=None, metadata=tensors(column=True))
"""

from __future__ import annotations

import dataclasses
from typing import Any

TENSORS = "tensors"  # a tensor, or a tuple of tensors (one per input); the first dimension is the samples
LISTED = "listed"  # a tuple with one entry per sample


def tensors(*, fill: str | None = None, column: bool = False) -> dict[str, Any]:
    """Metadata of a field with a tensor, or a tuple of tensors, whose first dimension is the samples.

    Args:
        fill: for tensors as long as a text: what fills shorter ones up, "zero" or "pad" (the padding id).
        column: whether it is one number per sample, and a column of tables.
    """
    return {"holds": TENSORS, "fill": fill, "column": column}


def listed(*, told: bool = False, column: bool = False) -> dict[str, Any]:
    """Metadata of a field with a tuple of one entry per sample.

    Args:
        told: whether it may be known to the user alone, and told to an `Explanation` later (`annotated`).
        column: whether it is a column of tables.
    """
    return {"holds": LISTED, "told": told, "column": column}


def names_of(cls: Any, holds: str, **facts: Any) -> tuple[str, ...]:
    """The names of a dataclass's fields that hold TENSORS or LISTED, in order; with `facts`, those that say so too.

    Example:
        names_of(Explanation, TENSORS, column=True)  # ("probability", "score", ...)
    """
    return tuple(
        f.name
        for f in dataclasses.fields(cls)
        if f.metadata.get("holds") == holds and all(f.metadata.get(k) == v for k, v in facts.items())
    )
