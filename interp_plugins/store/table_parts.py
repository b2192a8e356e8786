"""The table of a run: one Parquet file per work unit, which is also the record that the unit is done.

A part appears under its name only when it is whole (temporary name, flush, rename), and after the unit's arrays have
reached the disk. So: a unit exists if and only if its part exists.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interp_plugins.core import files
from interp_plugins.store.errors import need
from interp_plugins.store.layout import Layout
from interp_plugins.store.manifest import origin

FOLDER = "parts"
OK, FAILED = "ok", "error"
_NAME = re.compile(r"part-(\d{8})\.parquet")
_SAMPLE = (
    ("sample", "int64"),
    ("name", "string"),
    ("status", "string"),
    ("error", "string"),
    ("label", "int64"),
    ("label_name", "string"),
    ("prediction", "int64"),
    ("prediction_label", "string"),
)
_TARGET = (("target", "int64"), ("target_label", "string"), ("probability", "float64"), ("score", "float64"))
_MAP = (
    ("baseline_score", "float64"),
    ("delta", "float64"),
    ("relative_delta", "float64"),
    ("sum", "float64"),
    ("mean_abs", "float64"),
    ("seconds", "float64"),
    ("forward_passes", "int64"),
    ("backward_passes", "int64"),
    ("params", "string"),  # JSON, where they are not those of the manifest (a noise level chosen by the input)
)


def target_column(name: str, target: int) -> str:
    """A column of the n-th target: `score`, `score_2`, ..."""
    return name if target == 0 else f"{name}_{target + 1}"


def columns(layout: Layout) -> dict[str, str]:
    """Name and type of every column, in order; a column `method.field` belongs to a map."""
    found = dict(_SAMPLE)
    for j in range(layout.targets):
        found |= {target_column(name, j): kind for name, kind in _TARGET}
    found["seconds"] = "float64"
    for one in layout.maps:
        found |= {f"{one.key}.{name}": kind for name, kind in _MAP}
        found |= {f"{one.key}.{name}": "float64" for name in one.measures}
    return found


def schema(layout: Layout) -> Any:
    """The columns as a pyarrow schema."""
    pa = need("pyarrow")
    kinds = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string()}
    return pa.schema([(name, kinds[kind]) for name, kind in columns(layout).items()])


def path_of(path: Path, unit: int) -> Path:
    """The file of a unit's part."""
    return path / FOLDER / f"part-{unit:08d}.parquet"


def done(path: Path) -> set[int]:
    """The units that are done."""
    try:
        names = os.listdir(path / FOLDER)
    except FileNotFoundError:
        return set()
    return {int(m.group(1)) for m in map(_NAME.fullmatch, names) if m}


def commit(path: Path, unit: int, layout: Layout, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a unit's rows, whole or not at all.

    Args:
        path: the run directory.
        unit: number of the unit; its arrays are on the disk.
        layout: the run's layout.
        rows: column -> value, for each sample; what is missing is null.
    """
    pa, pq = need("pyarrow"), need("pyarrow.parquet")
    wanted = schema(layout).with_metadata({"unit": str(unit), "origin": json.dumps(origin())})
    table = pa.Table.from_pylist([{name: row.get(name) for name in wanted.names} for row in rows], schema=wanted)
    final = path_of(path, unit)
    final.parent.mkdir(exist_ok=True)
    files.sweep(final)  # a unit has one writer
    with files.draft_of(final) as draft:
        with draft.open("wb") as f:
            pq.write_table(table, f, compression="zstd")
        files.sync(draft)
        os.replace(draft, final)
        files.sync_directory(final.parent)


def read(path: Path, units: Sequence[int], layout: Layout) -> Any:
    """The rows of some units, in the order of the samples, as a pyarrow table."""
    pa, pq = need("pyarrow"), need("pyarrow.parquet")
    if not units:
        return schema(layout).empty_table()
    tables = [pq.ParquetFile(path_of(path, u)).read().replace_schema_metadata(None) for u in sorted(units)]
    return pa.concat_tables(tables).combine_chunks()


def with_failures(path: Path, units: Sequence[int]) -> set[int]:
    """Those of the units that hold a sample that failed."""
    pq = need("pyarrow.parquet")
    return {u for u in units if FAILED in pq.read_table(path_of(path, u), columns=["status"])["status"].to_pylist()}
