"""A run whose units give rows of a table and no arrays: a manifest, and one sealed part for each unit that is done.

Any number of processes work on one: process r of W does the units whose number leaves r when divided by W. One that
dies costs the unit it was at; what is damaged is noticed and done again.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp_plugins.core import files
from interp_plugins.core.errors import InterpWarning, decoding
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.text import all_legible
from interp_plugins.store import manifest, sealed_table
from interp_plugins.store.errors import DamagedError, need, writing
from interp_plugins.store.job import place
from interp_plugins.store.layout import Layout
from interp_plugins.store.manifest import Manifest
from interp_plugins.store.table_parts import FOLDER, done, path_of

Row = dict[str, Any]
Facts = Mapping[int, Mapping[str, str]]


@dataclass(frozen=True)
class RowRun:
    """A run directory of rows.

    Attributes:
        path: the directory.
        made: its manifest.
        columns: name -> type of pyarrow, as "float64".
    """

    path: Path
    made: Manifest
    columns: Mapping[str, str]

    @classmethod
    def begin(
        cls, path: Path, identity: Mapping[str, Any], columns: Mapping[str, str], told: Mapping[str, Any]
    ) -> RowRun:
        """Begin a run, or go on with it.

        Args:
            path: the directory.
            identity: what two runs must share to be one; its "data" has the size, and "unit_size" cuts it.
            columns: name -> type of pyarrow.
            told: further facts about how the run was begun.

        Raises:
            RunDiffersError: the run at `path` is another one.
            StoreError: `path` cannot be a run directory.
        """
        need("pyarrow")
        with writing(path, "the manifest"):
            made = manifest.publish(path, dict(identity), Layout((), (), False, InputSpec()).to_json(), told)
        manifest.warn_of_changes(made)
        files.sweep(path / FOLDER)
        return cls(path, made, columns)

    def to_do(self, rank: int | None, world_size: int | None, facts: Facts | None = None) -> list[int]:
        """This process's units that are not done; damaged parts are told of and taken away.

        Args:
            rank: of this process; None: as torchrun says, or the only one.
            world_size: how many there are.
            facts: unit -> what its part must know of itself to count; another one is done again.
        """
        number, of = place(rank, world_size)
        return [u for u in range(number, self.made.units, of) if not self._whole(u, (facts or {}).get(u, {}))]

    def commit(self, unit: int, rows: Sequence[Row], facts: Mapping[str, str] | None = None) -> None:
        """Write the rows of a unit, whole or not at all.

        Args:
            unit: number of the unit.
            rows: column -> value; what is missing is null.
            facts: what the part knows of itself.
        """
        pa = need("pyarrow")
        schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in self.columns.items()])
        plain = [{k: all_legible(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows]
        known = {
            **(facts or {}),
            "unit": str(unit),
            "run": self.made.digest,
            "origin": json.dumps(manifest.origin()),
        }
        with writing(self.path, f"unit {unit}"):
            sealed_table.write(path_of(self.path, unit), pa.Table.from_pylist(plain, schema=schema), known)

    def read(self, facts: Facts | None = None) -> tuple[list[Row], list[int]]:
        """All rows, unit after unit, and the units that are missing; damaged parts count as missing, and are told of.

        Args:
            facts: unit -> what its part must know of itself to count.
        """
        rows: list[Row] = []
        missing: list[int] = []
        there = done(self.path)
        for unit in range(self.made.units):
            found = None
            if unit in there:
                try:
                    found = self._load(unit, (facts or {}).get(unit, {}))
                except DamagedError as err:
                    warnings.warn(str(err), InterpWarning, stacklevel=3)
            rows += found or []
            missing += [unit] if found is None else []
        return rows, missing

    def _load(self, unit: int, facts: Mapping[str, str]) -> list[Row] | None:
        """The rows of a unit; None where its part is of other facts."""
        file = path_of(self.path, unit)
        with decoding(DamagedError, f"{file} is damaged"):
            table, known = sealed_table.read(file)
            if (known.get("unit"), known.get("run")) != (str(unit), self.made.digest):
                raise DamagedError("it is a part of another unit or run")
            found: list[Row] = table.to_pylist()
            return found if all(known.get(k) == v for k, v in facts.items()) else None

    def _whole(self, unit: int, facts: Mapping[str, str]) -> bool:
        """Whether a unit is done; a damaged part is told of, and is taken away as is one of other facts."""
        file = path_of(self.path, unit)
        if not file.exists():
            return False
        try:
            if self._load(unit, facts) is not None:
                return True
        except DamagedError as err:
            warnings.warn(f"{err} The unit is done again.", InterpWarning, stacklevel=5)
        file.unlink(missing_ok=True)
        return False
