"""Samples of a data set together with their numbers, so that what is found of one can be told from all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset


class Numbered(Dataset[Any]):
    """A data set whose samples are (number, sample).

    Args:
        data: anything with `__getitem__`, and `__len__` where the length is asked for.
    """

    def __init__(self, data: Any):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        """The number i and sample i of the data set."""
        return i, self.data[i]


class NumbersBeside:
    """A way to make a batch of samples, with a list of their numbers beside it.

    Args:
        collate: samples -> batch.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]):
        self.collate = collate

    def __call__(self, pairs: list[Any]) -> Any:
        """The numbers, and the batch beside them."""
        return [int(i) for i, _ in pairs], self.collate([sample for _, sample in pairs])
