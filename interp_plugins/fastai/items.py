"""Raw items as `dls.test_dl` takes them, each with a name: one item, a list of them, or the rows of a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fastai.vision.core import PILBase
from fastcore.foundation import L
from PIL import Image
from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.tensors import describe
from interp_plugins.fastai.pictures import as_picture, is_path, is_picture


@dataclass(frozen=True)
class Items:
    """Items of one call.

    Attributes:
        values: what goes to `test_dl`: a list, or a DataFrame.
        names: one per item, "" where nothing is known; None where no item has a name.
    """

    values: Any
    names: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def alike(self) -> bool:
        """Whether one loader can take them: fastai chooses the transforms by the type of the first item."""
        return isinstance(self.values, pd.DataFrame) or len({type(v) for v in self.values}) == 1

    def single(self) -> list[Items]:
        """Every item on its own."""
        return [Items([v], None) for v in self.values]


def as_items(item: Any, cls: type[PILBase] | None) -> Items:
    """Items from whatever the user gives.

    Args:
        item: a path, a picture in memory, a table row, or a list, `L` or DataFrame of these.
        cls: the image class of the Learner's data, or None where its inputs are no pictures: then nothing is converted.

    Raises:
        InputError: no items, or a picture that cannot be read without guessing.
        InputTypeError: something that is no picture, for a Learner of pictures.
    """
    if isinstance(item, pd.DataFrame):
        values: Any = item
    else:
        values = list(item) if isinstance(item, (list, L)) else [item]
    if len(values) == 0:
        raise InputError("There is nothing to explain: the list of items is empty.")
    names = names_of(values, cls)
    if cls is not None and not isinstance(values, pd.DataFrame):
        values = [_prepared(v, cls) for v in values]
    return Items(values, names)


def _prepared(value: Any, cls: type[PILBase]) -> Any:
    if is_picture(value):
        return as_picture(value, cls)
    if isinstance(value, os.PathLike):
        return Path(value)
    if isinstance(value, dict):
        return pd.Series(value)  # a row of a table, as the data's column readers take it
    if value is None or isinstance(value, (bool, int, float)):
        raise InputTypeError(
            f"{describe(value)} is no picture. Give a path, a PIL image, an array or a tensor, a list of these, or an "
            "encoded batch as xb=."
        )
    return value  # a path as text, or what the data's own getters read: a row of a table, an identifier


def names_of(values: Any, cls: type[PILBase] | None) -> tuple[str, ...] | None:
    """The file names of pictures, the row labels of tables; None where nothing is known."""
    rows: Sequence[Any]
    if isinstance(values, pd.DataFrame):
        rows = [str(label) for label in values.index]
    else:
        rows = [_name(v, cls) for v in values]
    return tuple(rows) if any(rows) else None


def _name(value: Any, cls: type[PILBase] | None) -> str:
    if isinstance(value, pd.Series):
        return "" if value.name is None else str(value.name)
    if isinstance(value, os.PathLike) or (cls is not None and is_path(value)):
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
