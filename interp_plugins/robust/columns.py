"""Columns of a table as data have them: which values they take, which of them are whole, how far they spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError, did_you_mean
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple, describe, is_float

_QUANTILES = 25
_CATEGORIES = 64  # at most, the commonest

Words = Callable[[Sequence[Tensor]], Sequence[Sequence[Any]]]  # encoded inputs -> per sample a value per column


@dataclass(frozen=True)
class TableColumn:
    """One column.

    Attributes:
        name: its name.
        place: which input it is in, and where.
        values: what it may become, in the model's units.
        numeric: a number, not a category.
        spread: median absolute deviation in the data (or the standard deviation where that is 0), in these units.
        low: smallest value in the data.
        high: largest value.
        grid: (scale, offset) of whole numbers k: value = k * scale + offset; None: any number.
    """

    name: str
    place: tuple[int, int]
    values: Tensor
    numeric: bool
    spread: float
    low: float
    high: float
    grid: tuple[float, float] | None = None

    def distance(self, before: Tensor, after: Tensor) -> Tensor:
        """How far values are apart, in spreads; categories that differ are one apart."""
        if not self.numeric:
            return (before != after).double()
        return (after.double() - before.double()).abs() / self.spread

    def rounded(self, value: Tensor, towards: Tensor) -> Tensor:
        """The nearest allowed values that are no nearer to the ones to be left."""
        if self.grid is None:
            return value
        scale, offset = self.grid
        count, begin = (value.double() - offset) / scale, (towards.double() - offset) / scale
        whole = torch.where(count > begin, count.sub(1e-4).ceil(), count.add(1e-4).floor())
        return (whole * scale + offset).to(value)


def columns_of(
    data: Any, spec: InputSpec, words: Words | None, immutable: Sequence[Any], categorical: Sequence[Any]
) -> list[TableColumn]:
    """The columns of a table that may change.

    Args:
        data: rows (N, F) as the model takes them, or a tuple of such; whole numbers are categories.
        spec: names of the columns, normalisation.
        words: encoded rows -> values as people read them; None: the spec's raw values.
        immutable: names or numbers of columns that stay.
        categorical: those of float columns that are categories.

    Raises:
        InputError: no table, a column that is not there, nothing left to change.
    """
    tables = as_tuple(data)
    if not all(isinstance(t, Tensor) and t.ndim == 2 and len(t) for t in tables):
        raise InputTypeError(
            f"data= holds rows of the table (N, F), as the model takes them, got {describe(data)}: they say which "
            "values a column takes. The training data are best."
        )
    names = _names(tables, spec)
    fixed, coded = _chosen(immutable, names, "immutable"), _chosen(categorical, names, "categorical")
    told = words(tables) if words is not None else None
    found, number = [], 0
    for k, table in enumerate(tables):
        raw = spec.of_input(k, table).denormalise(table) if is_float(table) else table
        for j in range(table.shape[1]):
            said = [row[number] for row in told] if told is not None else raw[:, j].tolist()
            if number not in fixed:
                numeric = is_float(table) and number not in coded
                found.append(_column(names[number], (k, j), table[:, j], numeric, said))
            number += 1
    kept = [c for c in found if len(c.values) > 1]
    if not kept:
        raise InputError("No column is left that could change: all are immutable, or constant in data=.")
    return kept


def _names(tables: Sequence[Tensor], spec: InputSpec) -> list[str]:
    total = sum(t.shape[1] for t in tables)
    known = spec.feature_names
    return list(map(str, known)) if known is not None and len(known) == total else [f"x{i}" for i in range(total)]


def _chosen(given: Sequence[Any], names: list[str], what: str) -> set[int]:
    found = set()
    for one in [given] if isinstance(given, (str, int)) else given:
        if isinstance(one, int) and not isinstance(one, bool) and 0 <= one < len(names):
            found.add(one)
        elif one in names:
            found.add(names.index(one))
        else:
            raise InputError(f"{what} names a column {one!r} that is not there.{did_you_mean(one, names)}")
    return found


def _column(name: str, place: tuple[int, int], x: Tensor, numeric: bool, said: Sequence[Any]) -> TableColumn:
    if not numeric:
        values, counts = x.unique(return_counts=True)
        common = values[counts.argsort(descending=True, stable=True)[:_CATEGORIES]]
        return TableColumn(name, place, common, False, 1.0, float(values.min()), float(values.max()))
    ordered = x.double().sort().values
    at = torch.linspace(0, len(x) - 1, _QUANTILES).round().long()
    median = ordered[len(x) // 2]
    spread = float((ordered - median).abs().median()) or float(ordered.std(correction=0)) or 1.0
    made = TableColumn(name, place, ordered[at].unique(), True, spread, float(ordered[0]), float(ordered[-1]))
    grid = _grid(x, said)
    if grid is None:
        return made
    return replace(made, grid=grid, values=made.rounded(made.values, torch.full_like(made.values, -1e30)).unique())


def _grid(x: Tensor, said: Sequence[Any]) -> tuple[float, float] | None:
    """How whole numbers that people read become the model's numbers; None where not all are whole."""
    raw = torch.tensor([float(v) for v in said], dtype=torch.float64)
    size = float(raw.abs().max())
    whole = raw.round()
    if float((raw - whole).abs().max()) > 1e-4 * max(1.0, size * 1e-2) or float(whole.max()) == float(whole.min()):
        return None
    first, last = int(raw.argmin()), int(raw.argmax())
    values = x.double()
    scale = float((values[last] - values[first]) / (whole[last] - whole[first]))
    return scale, float(values[first] - whole[first] * scale)
