"""The table of a run: one Parquet file per work unit, which is also the record that the unit is done.

A part appears under its name only when it is whole (temporary name, flush, rename), and after the unit's arrays have
reached the disk. It says which unit of which run it is, of what size and with what digest each shard was, and holds a
digest of itself. So: a unit is done if and only if its part is there, whole, and its shards are those the part names.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp_plugins.core import files
from interp_plugins.core.errors import decoding
from interp_plugins.core.text import all_legible
from interp_plugins.store import sealed_table
from interp_plugins.store.errors import DamagedError, need
from interp_plugins.store.layout import Layout
from interp_plugins.store.manifest import Manifest, origin

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
    """The units that are said to be done."""
    try:
        names = os.listdir(path / FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return {int(m.group(1)) for m in map(_NAME.fullmatch, names) if m}


@dataclass(frozen=True)
class Part:
    """What a part says.

    Attributes:
        table: the unit's rows.
        shards: array -> (size, digest) of the unit's shard, None where the unit has none; as a whole None in parts that
            were written before parts knew their shards.
        metadata: array -> digest of what its `zarr.json` says.
    """

    table: Any
    shards: Mapping[str, tuple[int, str] | None] | None
    metadata: Mapping[str, str]


def commit(
    path: Path,
    unit: int,
    manifest: Manifest,
    layout: Layout,
    rows: Sequence[Mapping[str, Any]],
    shards: Mapping[str, tuple[int, str] | None],
    metadata: Mapping[str, str],
) -> bool:
    """Write a unit's rows, whole or not at all.

    Args:
        path: the run directory.
        unit: number of the unit; its arrays are on the disk.
        manifest: the run.
        layout: the run's layout.
        rows: column -> value, for each sample; what is missing is null.
        shards: array -> (size, digest) of the unit's shard, None where the unit has none.
        metadata: array -> digest of what its `zarr.json` says.

    Returns:
        Whether the part is this process's; False if another has written it in the meantime.
    """
    pa = need("pyarrow")
    facts = {
        "unit": str(unit),
        "run": manifest.digest,
        "origin": json.dumps(origin()),
        "shards": json.dumps(shards),
        "metadata": json.dumps(metadata),
    }
    wanted = schema(layout)
    plain = [{name: all_legible(row.get(name)) for name in wanted.names} for row in rows]
    return sealed_table.write(path_of(path, unit), pa.Table.from_pylist(plain, schema=wanted), facts)


def discard(path: Path, unit: int) -> None:
    """Take a unit's part away: the unit is not done any more."""
    path_of(path, unit).unlink(missing_ok=True)
    files.sync_directory(path / FOLDER)


def load(path: Path, unit: int, manifest: Manifest, layout: Layout) -> Part:
    """What a unit's part says, after a look whether it is what was written, for this unit of this run.

    Raises:
        DamagedError: it is not; the text names the file.
    """
    file = path_of(path, unit)
    with decoding(DamagedError, f"{file} is damaged"):
        table, known = sealed_table.read(file, manifest.sealed)
        if known["unit"] != str(unit):
            raise DamagedError(f"it is the part of unit {known['unit'][:20]}")
        if known.get("run", manifest.digest) != manifest.digest:
            raise DamagedError("it is a part of another run")
        if table.schema != schema(layout):
            raise DamagedError("its columns are not those of this run")
        if table["sample"].to_pylist() != list(manifest.samples(unit)):
            raise DamagedError("its samples are not those of the unit")
        if "shards" not in known:
            return Part(table, None, {})
        shards = {name: None if one is None else (one[0], one[1]) for name, one in json.loads(known["shards"]).items()}
        return Part(table, shards, json.loads(known["metadata"]))


def joined(tables: Sequence[Any], layout: Layout) -> Any:
    """The rows of several units, in the order given, as one table."""
    pa = need("pyarrow")
    return pa.concat_tables(tables).combine_chunks() if tables else schema(layout).empty_table()


def has_failures(part: Part) -> bool:
    """Whether a unit holds a sample that failed."""
    return FAILED in part.table["status"].to_pylist()
