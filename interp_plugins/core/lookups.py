"""Look-ups: a model of integer inputs as a function of the vectors that its ids are looked up as.

No gradient exists at an id, but one does at the row of the table that it stands for. `AtLookups(func, inputs)` is the
model as a plain callable `f(*slots, *floats, *ids, *args)`: a *slot* (n, P, ...) holds, for P positions of the ids, the
rows of one table, and is put in where the model looks them up; float inputs stay inputs. So a method for float inputs
runs on embeddings and continuous inputs jointly, and its sum over both is the change of the score. `fold` adds up what
each id's rows got: one number per id, of the ids' own shape.

Only the looked-up rows are replaced. Masks, lengths and anything else that the model computes from the ids remain
those of the input, for all points of a path. Which look-up belongs to which id is found out by `core.provenance`, not
by modules, so reused tables, `F.embedding(words, weight)`, and texts in chunks need no special case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.baseline import NO_ID
from interp_plugins.core.batching import auto_chunk, chunks
from interp_plugins.core.errors import InputTypeError, ModelError
from interp_plugins.core.provenance import Lookup, Provenance, tables_of
from interp_plugins.core.tensors import integer_advice, is_float, private_rows
from interp_plugins.core.wrapper import Wrapper


@dataclass
class _Slot:
    """The rows of one table: for which positions (P,), and their shape."""

    columns: Tensor
    shape: tuple[int, ...]


class AtLookups(Wrapper):
    """func as a function of slots and float inputs: `f(*slots, *floats, *ids, *args)`.

    Args:
        func: model or callable.
        inputs: the inputs in their order, floats and integers.
    """

    def __init__(self, func: Callable[..., Any], inputs: Sequence[Tensor]):
        self.func, self.tables = func, tables_of(func)
        self.integer = [not is_float(x) for x in inputs]
        self.shapes = [tuple(x.shape[1:]) for x in inputs if not is_float(x)]
        sizes = [x[0].numel() for x in inputs if not is_float(x)]
        self.starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        self.slots: dict[tuple[int, int], _Slot] = {}

    def split(self, values: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """What belongs to float inputs, and what to integer inputs."""
        return (
            [v for v, whole in zip(values, self.integer, strict=True) if not whole],
            [v for v, whole in zip(values, self.integer, strict=True) if whole],
        )

    def owner(self) -> list[int]:
        """The number of the integer input whose rows each slot holds (the first, if of several)."""
        first = [int(slot.columns[0]) for slot in self.slots.values()]
        return [max(i for i, start in enumerate(self.starts[:-1]) if start <= c) for c in first]

    # -- encoding ------------------------------------------------------------------------------------------------

    def encode(
        self, inputs: Sequence[Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any], size: int | None = None
    ) -> list[Tensor]:
        """Find the slots, and their values (n, P, ...) for a batch.

        Raises:
            InputTypeError: integer inputs that are never looked up.
        """
        n = inputs[0].shape[0]
        ids = self.split(inputs)[1]
        found = self._collect(inputs, ids, torch.arange(n), args, kwargs, size)
        columns: dict[tuple[int, int], set[int]] = {}
        for key, positions, values in found:
            columns.setdefault(key, set()).update((positions % self.starts[-1]).unique().tolist())
            shape = tuple(values.shape[1:])
            self.slots.setdefault(key, _Slot(torch.empty(0, dtype=torch.long), shape))
        device = ids[0].device
        for key, slot in self.slots.items():
            slot.columns = torch.tensor(sorted(columns[key]), device=device)
        self._check_all_seen(sorted(set().union(*columns.values())) if columns else [])
        return self._filled(found, n)

    def encode_others(
        self,
        inputs: Sequence[Tensor],
        others: Sequence[Tensor],
        rows: Tensor,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        size: int | None = None,
    ) -> list[Tensor]:
        """The slots' values (m, P, ...) if the integer inputs of samples `rows` (m,) were others, each (m, ...).

        `NO_ID` gives a vector of zeros.
        """
        ids = [x.index_select(0, rows.to(x.device)) for x in self.split(inputs)[1]]
        filled = [torch.where(o == NO_ID, x, o.to(x)) for o, x in zip(others, ids, strict=True)]
        found = self._collect(inputs, filled, rows, args, kwargs, size)
        absent = torch.cat([(o == NO_ID).reshape(len(rows), -1) for o in others], 1)
        values = self._filled(found, len(rows))
        for value, slot in zip(values, self.slots.values(), strict=True):
            value[absent[:, slot.columns]] = 0
        return values

    def _collect(
        self,
        inputs: Sequence[Tensor],
        others: Sequence[Tensor],
        rows: Tensor,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        size: int | None,
    ) -> list[tuple[tuple[int, int], Tensor, Tensor]]:
        """(slot, positions in the list of rows, values of the other ids) of every look-up, in chunks of rows."""
        n, m, width = inputs[0].shape[0], len(rows), self.starts[-1]
        seen: list[tuple[int, int]] = []

        def work(start: int, stop: int) -> list[tuple[tuple[int, int], Tensor, Tensor]]:
            found: list[tuple[tuple[int, int], Tensor, Tensor]] = []

            def read(lookup: Lookup, key: tuple[int, int]) -> Tensor:
                seen.append(key)
                there = lookup.positions >= 0
                values = lookup.at(lookup.other).detach()
                found.append((key, lookup.positions[there] + start * width, values[there]))
                return lookup.at(lookup.index)

            pick = rows[start:stop]
            xs = [x.index_select(0, pick.to(x.device)) for x in inputs]
            more, named = private_rows(args, pick, n), private_rows(dict(kwargs), pick, n)
            with torch.no_grad():
                self._run(xs, [o[start:stop].clone() for o in others], read, more, named)
            return found

        try:
            parts = [part for _, _, part in chunks(m, size or max(auto_chunk(list(inputs)), min(m, 64)), work)]
        except (RuntimeError, TypeError) as err:
            if isinstance(err, ModelError) or seen or not _is_about_types(err):
                raise
            raise InputTypeError(integer_advice(self.integer.index(True), self.split(inputs)[1][0])) from err
        return [record for part in parts for record in part]

    def _filled(self, found: Sequence[tuple[tuple[int, int], Tensor, Tensor]], n: int) -> list[Tensor]:
        """Slots (n, P, ...) from the records; zeros where a sample's id was not looked up (it has no influence)."""
        out = {}
        for key, positions, values in found:
            slot = self.slots[key]
            if key not in out:
                out[key] = values.new_zeros((n, len(slot.columns), *slot.shape))
            rows, columns = positions // self.starts[-1], positions % self.starts[-1]
            out[key][rows, torch.searchsorted(slot.columns, columns)] = values
        return [out[key] for key in self.slots]

    def _check_all_seen(self, columns: Sequence[int]) -> None:
        for i, (start, stop) in enumerate(zip(self.starts, self.starts[1:])):
            if stop > start and not any(start <= c < stop for c in columns):
                where = [j for j, whole in enumerate(self.integer) if whole][i]
                raise InputTypeError(integer_advice(where, None))

    # -- calling -------------------------------------------------------------------------------------------------

    def _run(
        self,
        inputs: Sequence[Tensor],
        others: Sequence[Tensor],
        on_lookup: Callable[[Lookup, tuple[int, int]], Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Call func; look-ups are numbered by their table and by how often its rows were asked for in this pass."""
        ids = self.split(inputs)[1]
        count, device = ids[0].shape[0], ids[0].device
        every = torch.arange(count, device=device)[:, None] * self.starts[-1]
        positions = [
            (every + torch.arange(start, stop, device=device)).reshape(x.shape)
            for x, start, stop in zip(ids, self.starts, self.starts[1:])
        ]
        tables: list[Tensor] = []
        asked: list[tuple[int, set[int]]] = []

        def seen(lookup: Lookup) -> Tensor:
            there = lookup.positions[lookup.positions >= 0]
            if not there.numel():
                return lookup.at(lookup.index)
            columns = set((there % self.starts[-1]).unique().tolist())
            number = next((i for i, t in enumerate(tables) if _same_table(t, lookup.table)), len(tables))
            if number == len(tables):
                tables.append(lookup.table)
            before = sum(table == number and bool(earlier & columns) for table, earlier in asked)
            asked.append((number, columns))
            return on_lookup(lookup, (number, before))

        with Provenance(self.tables, zip(ids, positions, others, strict=True), seen):
            return self.func(*inputs, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call func with the slots (first) put in where their ids are looked up."""
        s, f = len(self.slots), self.integer.count(False)
        slots, floats, rest = args[:s], iter(args[s : s + f]), args[s + f :]
        ids = iter(rest[: len(self.shapes)])
        inputs = [next(ids) if whole else next(floats) for whole in self.integer]
        values = dict(zip(self.slots, slots, strict=True))

        def put(lookup: Lookup, key: tuple[int, int]) -> Tensor:
            slot = self.slots.get(key)
            if slot is None:
                raise ModelError(
                    "The model looked its ids up in another order than before: its calls depend on the values. Use a "
                    "method that replaces ids (feature_ablation, occlusion)."
                )
            there = lookup.positions >= 0
            place = lookup.positions.clamp_min(0)
            rows, columns = place // self.starts[-1], place % self.starts[-1]
            column = torch.searchsorted(slot.columns, columns).clamp_max(len(slot.columns) - 1)
            there &= slot.columns[column] == columns
            new = values[key][rows, column]
            if bool(there.all()):
                return new
            return torch.where(there.reshape(*there.shape, *(1,) * len(slot.shape)), new, lookup.at(lookup.index))

        others = [x for x, whole in zip(inputs, self.integer, strict=True) if whole]
        return self._run(inputs, [x.clone() for x in others], put, rest[len(self.shapes) :], kwargs)

    def fold(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the inputs' shapes, in their order, from maps of the slots and float inputs."""
        slots, floats = maps[: len(self.slots)], iter(maps[len(self.slots) :])
        n = maps[0].shape[0]
        total = slots[0].new_zeros(n, self.starts[-1])
        for slot, values in zip(self.slots.values(), slots, strict=True):
            total.index_add_(1, slot.columns, values.reshape(n, len(slot.columns), -1).sum(2).to(total))
        ids = iter(
            total[:, start:stop].reshape(n, *shape)
            for start, stop, shape in zip(self.starts, self.starts[1:], self.shapes)
        )
        return [next(ids) if whole else next(floats) for whole in self.integer]


def _same_table(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride())


def _is_about_types(err: BaseException) -> bool:
    """Whether a model refused integers because it wants floats."""
    text = str(err).lower()
    return any(word in text for word in ("dtype", "scalar type", "type long", "not implemented for", "floating point"))
