"""The search for a row that turns a model: few columns, small changes, by forward passes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp_plugins.robust.columns import TableColumn

_BEAM = 16
_HALVINGS = 12

Judge = Callable[[Sequence[Tensor]], tuple[Tensor, Tensor]]  # rows -> whether they are there, how far from it


@dataclass(frozen=True)
class RowChange:
    """A changed row.

    Attributes:
        row: a tensor (F,) per input.
        columns: the numbers of the columns that changed.
        cost: distances of all changes in spreads, and one for each column.
    """

    row: tuple[Tensor, ...]
    columns: frozenset[int]
    cost: float


class RowSearch:
    """All that is tried for one row.

    Args:
        row: a tensor (F,) per input.
        columns: what may change.
        judge: what the model says of rows.
        most: columns that change at most.
    """

    def __init__(self, row: Sequence[Tensor], columns: Sequence[TableColumn], judge: Judge, most: int):
        self.row, self.columns, self.judge, self.most = tuple(row), columns, judge, most
        self.options = [self._values(c) for c in columns]

    def found(self, n: int) -> list[RowChange]:
        """Up to n changes that turn the model, the cheapest first, no two of the same columns.

        A set of columns that holds another one found needs more than that, and is left out.
        """
        beam: list[tuple[tuple[Tensor, ...], frozenset[int]]] = [(self.row, frozenset())]
        turned: list[RowChange] = []
        for depth in range(min(self.most, len(self.columns))):
            rows, sets = self._next(beam, [t.columns for t in turned])
            if not sets:
                break
            there, far = self.judge(rows)
            cost = self._cost(rows)
            turned += self._best_of_each(rows, sets, there, cost)
            if len(turned) >= n and depth >= min(1, self.most - 1):
                break
            beam = self._beam(rows, sets, far, cost)
        shortened = sorted((self._shortened(t) for t in turned), key=lambda t: t.cost)
        return self._apart(shortened)[:n]

    def _values(self, column: TableColumn) -> Tensor:
        k, j = column.place
        now = self.row[k][j]
        return column.values.to(self.row[k])[column.values.to(self.row[k]) != now]

    def _next(
        self, beam: Sequence[tuple[tuple[Tensor, ...], frozenset[int]]], done: Sequence[frozenset[int]]
    ) -> tuple[list[Tensor], list[frozenset[int]]]:
        """Every row of the beam with one more column changed."""
        made: list[list[Tensor]] = [[] for _ in self.row]
        sets: list[frozenset[int]] = []
        for row, changed in beam:
            for c, column in enumerate(self.columns):
                whole = changed | {c}
                if c in changed or any(whole >= other for other in done):
                    continue
                values, (k, j) = self.options[c], column.place
                for i, part in enumerate(row):
                    many = part.expand(len(values), -1).clone()
                    if i == k:
                        many[:, j] = values
                    made[i].append(many)
                sets += [whole] * len(values)
        return [torch.cat(parts) for parts in made] if sets else [], sets

    def _cost(self, rows: Sequence[Tensor]) -> Tensor:
        """(R,): distances in spreads, and one for each changed column."""
        total = torch.zeros(len(rows[0]), dtype=torch.float64)
        for column in self.columns:
            k, j = column.place
            before, after = self.row[k][j], rows[k][:, j]
            total += (column.distance(before, after) + (after != before)).cpu()
        return total

    def _best_of_each(
        self, rows: Sequence[Tensor], sets: Sequence[frozenset[int]], there: Tensor, cost: Tensor
    ) -> list[RowChange]:
        best: dict[frozenset[int], int] = {}
        for r in there.nonzero().flatten().tolist():
            known = best.get(sets[r])
            if known is None or float(cost[r]) < float(cost[known]):
                best[sets[r]] = r
        return [RowChange(tuple(x[r] for x in rows), s, float(cost[r])) for s, r in best.items()]

    def _beam(
        self, rows: Sequence[Tensor], sets: Sequence[frozenset[int]], far: Tensor, cost: Tensor
    ) -> list[tuple[tuple[Tensor, ...], frozenset[int]]]:
        """The rows that come nearest to turning the model, the best of each set of columns, and the nearest for it."""
        now = float(self.judge([x[None] for x in self.row])[1][0])
        gain = (now - far.double().cpu()) / cost.clamp_min(1e-9)
        chosen: dict[tuple[str, frozenset[int]], int] = {}
        for kind, order in (("far", far.double().cpu().argsort()), ("gain", gain.argsort(descending=True))):
            count = 0
            for r in order.tolist():
                if (kind, sets[r]) in chosen:
                    continue
                chosen[kind, sets[r]] = r
                count += 1
                if count == _BEAM // 2:
                    break
        return [(tuple(x[r] for x in rows), sets[r]) for r in dict.fromkeys(chosen.values())]

    def _shortened(self, found: RowChange) -> RowChange:
        """Every number as near to what it was as the model stays turned, the most expensive first."""
        row = [x.clone() for x in found.row]
        numeric = [c for c in found.columns if self.columns[c].numeric]
        numeric.sort(key=lambda c: -self._distance(c, row))
        for c in numeric:
            column = self.columns[c]
            k, j = column.place
            begin = self.row[k][j]
            low, high = begin.clone(), row[k][j].clone()
            for _ in range(_HALVINGS):
                middle = column.rounded((low + high) / 2, begin)
                if bool(middle == high) or bool(middle == low):
                    break
                row[k][j] = middle
                if bool(self.judge([x[None] for x in row])[0][0]):
                    high = middle
                else:
                    low = middle
            row[k][j] = high
        return RowChange(tuple(row), found.columns, float(self._cost([x[None] for x in row])[0]))

    def _distance(self, c: int, row: Sequence[Tensor]) -> float:
        k, j = self.columns[c].place
        return float(self.columns[c].distance(self.row[k][j], row[k][j]))

    @staticmethod
    def _apart(ordered: Sequence[RowChange]) -> list[RowChange]:
        """Those whose columns do not hold all of a cheaper one's."""
        kept: list[RowChange] = []
        for one in ordered:
            if not any(one.columns >= other.columns for other in kept):
                kept.append(one)
        return kept
