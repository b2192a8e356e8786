"""What was found of every item, in the items' order: the table behind `Suspects`, its page and its picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.spec import InputSpec
from interp_plugins.influence.copies import Copy

_DIGITS = 4


@dataclass(frozen=True, eq=False)
class SuspectRows:
    """What was found of every item, in the items' order; `Suspects`, which shows and writes it, says what they are."""

    items: Tensor
    order: Tensor
    score: Tensor
    given: tuple[Any, ...]
    suggested: tuple[Any, ...]
    likely: Tensor
    reasons: dict[str, Tensor]
    more: dict[str, Tensor]
    outlier: Tensor
    neighbours: Tensor
    cosines: Tensor
    copies: tuple[Copy, ...]
    pred_probs: Tensor | None
    names: tuple[str, ...] | None
    votes: tuple[str, ...]
    kind: str
    layer: str
    spec: InputSpec
    notes: tuple[str, ...] = ()
    searched_valid: bool = False
    gallery: Callable[[Sequence[int]], list[Any]] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def top(self, n: int = 30) -> list[int]:
        """Numbers of the n most suspicious items, the most suspicious first."""
        _check_n(n)
        return [int(i) for i in self.items[self.order[:n]]]

    def outliers(self, n: int = 30) -> list[int]:
        """Numbers of the n items that are farthest from their neighbours: odd pictures, whatever their label."""
        _check_n(n)
        return [int(i) for i in self.items[self.outlier.argsort(descending=True, stable=True)[:n]]]

    def leakage(self) -> list[Copy]:
        """The items of the validation data that are in the training data as well, exactly or nearly."""
        return [c for c in self.copies if c.where == "valid"]

    def label(self, given: Any) -> str:
        """A label in words: class names, "a, b" for several, a number."""
        if self.kind == "labels":
            return ", ".join(str(self.spec.label(i)) for i in given) or "none"
        if self.kind == "values":
            many = given if isinstance(given, (tuple, list)) else (given,)
            return ", ".join(f"{v:.{_DIGITS}g}" for v in many)
        return str(self.spec.label(int(given))) if given >= 0 else "none"

    def near(self, entry: int, n: int = 3) -> list[int]:
        """Item numbers of the nearest neighbours of an entry, the nearest first."""
        return [int(self.items[j]) for j in self.neighbours[entry, :n].tolist() if j >= 0]

    def shown(self, n: int, neighbours: int) -> dict[int, Any]:
        """What is shown of the n most suspicious items and their neighbours, by item number."""
        _check_n(n)
        if self.gallery is None:
            raise InputError(
                "These items cannot be shown, because their data were an iterator that is used up. Give the data as a "
                "DataLoader or a data set; to_df() has all numbers."
            )
        wanted: dict[int, None] = {}
        for r in self.order[:n].tolist():
            wanted |= dict.fromkeys([int(self.items[r]), *self.near(r, neighbours)])
        numbers = sorted(wanted)
        return dict(zip(numbers, self.gallery(numbers), strict=True))

    @property
    def pictures(self) -> bool:
        """Whether the items are shown as pictures."""
        first = self.shown(1, 1)
        return all(getattr(v, "ndim", 0) == 3 for v in first.values())


def _check_n(n: Any) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"The number of items must be an int of at least 1, got {n!r}.")
