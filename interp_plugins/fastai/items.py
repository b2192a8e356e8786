"""Raw items as `dls.test_dl` takes them, with their names: one item, a list of them, or the rows of a table."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from fastcore.foundation import L
from PIL import Image
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.tensors import describe


class SampleSource(NamedTuple):
    """What is to be explained, as `Learner.explain` names it: one of `item`, `dl`, `ds_idx`, `xb`, and rows of it."""

    item: Any = None
    dl: Any = None
    ds_idx: int | None = None
    idxs: Any = None
    xb: Any = None


def as_values(item: Any) -> Any:
    """The items of one call as a list or DataFrame, from one item or a list, `L` or DataFrame of them.

    Raises:
        InputError: no items.
    """
    values = item if isinstance(item, pd.DataFrame) else list(item) if isinstance(item, (list, L)) else [item]
    if len(values) == 0:
        raise InputError("There is nothing to explain: the list of items is empty.")
    return values


def apart(item: Any, loader: Any) -> Any:
    """An array with one axis more than the data's own items, series say, as a list of them; anything else as it is."""
    own = getattr(getattr(loader, "dataset", None), "items", None)
    if not isinstance(item, (np.ndarray, Tensor)) or own is None or not len(own):
        return item
    several = isinstance(own[0], (np.ndarray, Tensor)) and item.ndim == own[0].ndim + 1
    return list(item) if several else item


def alike(values: Any) -> list[Any]:
    """The items in groups that one loader can take: fastai chooses the transforms by the type of the first item."""
    if isinstance(values, pd.DataFrame) or len({type(v) for v in values}) == 1:
        return [values]
    return [[v] for v in values]


def names_of(values: Any, name: Callable[[Any], str]) -> tuple[str, ...] | None:
    """A name per item, "" where one has none; the row labels of a DataFrame; None where no item has a name.

    Args:
        values: a list or a DataFrame.
        name: item -> name or "".
    """
    rows = [str(label) for label in values.index] if isinstance(values, pd.DataFrame) else [name(v) for v in values]
    return tuple(rows) if any(rows) else None


def name_of(value: Any) -> str:
    """The name of a file given by its `Path`, the file that a PIL image came from, the label of a table's row."""
    if isinstance(value, pd.Series):
        return "" if value.name is None else str(value.name)
    if isinstance(value, os.PathLike):
        return Path(value).name
    if isinstance(value, Image.Image):
        return Path(str(getattr(value, "filename", "") or "")).name
    return ""


def at(values: Any, rows: Sequence[int]) -> Any:
    """Some rows of a dataset's items, in the container that `test_dl` takes."""
    if isinstance(values, pd.DataFrame):
        return values.iloc[list(rows)]
    return [values[i] for i in rows]


def indices(idxs: Any, n: int) -> list[int]:
    """Row numbers from None (all), an int, a slice, or a sequence of ints.

    Raises:
        InputError: none, no integers, or out of range.
    """
    if idxs is None:
        return list(range(n))
    if isinstance(idxs, slice):
        found = list(range(n))[idxs]
    else:
        many = np.asarray(idxs.as_subclass(Tensor).cpu() if isinstance(idxs, Tensor) else list(L(idxs)))
        if many.size and not np.issubdtype(many.dtype, np.integer):
            raise InputError(f"idxs must be row numbers, got {describe(idxs)}.")
        found = many.reshape(-1).tolist()
    bad = [i for i in found if not -n <= i < n]
    if bad:
        raise InputError(f"idxs has {bad[0]}, but there are {n} items (0 to {n - 1}).")
    if not found:
        raise InputError(f"idxs selects none of the {n} items.")
    return [i % n for i in found]


def is_item(value: Any) -> bool:
    """Whether a baseline is given as a raw item to encode: a file by its `Path`, a PIL image, or a list of these."""
    if isinstance(value, (list, L)):
        return len(value) > 0 and all(is_item(v) for v in value)
    return isinstance(value, (Path, Image.Image))
