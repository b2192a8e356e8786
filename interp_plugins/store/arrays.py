"""The arrays of a run: a Zarr group (format 3) with one shard per work unit and one inner chunk per sample.

A shard is one file, and only the process that does its unit writes it. Samples that failed are NaN (0 for integers).
Every inner chunk carries a checksum, so that a damaged file is an error and not a wrong map.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from interp_plugins.core import files, seal
from interp_plugins.core.errors import decoding
from interp_plugins.store import table_parts
from interp_plugins.store.errors import DamagedError, StoreError, need
from interp_plugins.store.fingerprint import digest
from interp_plugins.store.layout import Array, Layout
from interp_plugins.store.manifest import Manifest

FOLDER = "arrays"


def create(path: Path, manifest: Manifest, layout: Layout) -> None:
    """Make the arrays of a run, where there are none.

    All of them appear at once: many processes may begin a run at the same moment, and Zarr refuses a group or an array
    that another process has made between its look and its own writing.

    Raises:
        StoreError: units are done, but their arrays are gone.
    """
    folder = path / FOLDER
    if folder.exists():
        return
    if table_parts.done(path) and not folder.exists():  # (another process may have been faster)
        raise StoreError(
            f"The run at {path} lists units that are done, but its folder {FOLDER} is gone. Was a part of the "
            "directory copied only? Copy the whole, or begin a new run in another directory."
        )
    with files.draft_of(folder) as draft:
        _make(draft, manifest, layout)
        for file in draft.rglob("zarr.json"):
            files.sync(file)
        files.claim(draft, folder)


def _make(folder: Path, manifest: Manifest, layout: Layout) -> None:
    zarr = need("zarr")
    zarr.create_group(str(folder), zarr_format=3)
    for array in layout.arrays:
        zarr.create_array(
            store=str(folder),
            name=array.name,
            shape=(manifest.size, *array.shape),
            shards=(manifest.unit_size, *array.shape),
            chunks=(1, *array.shape),
            dtype=array.dtype,
            fill_value=fill_value(array),
            compressors=[
                zarr.codecs.BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
                zarr.codecs.Crc32cCodec(),
            ],
            dimension_names=["sample", *(f"axis_{i + 1}" for i in range(len(array.shape)))],
            zarr_format=3,
        )


def fill_value(array: Array) -> Any:
    """What stands where there is no map."""
    return float("nan") if np.issubdtype(np.dtype(array.dtype), np.inexact) else 0


def blank(array: Array, rows: int) -> np.ndarray:
    """An array for the rows of a unit of which none has a map yet: NaN, or 0 for integers."""
    return np.full((rows, *array.shape), fill_value(array), dtype=array.dtype)


def write_unit(
    path: Path, manifest: Manifest, unit: int, values: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, str] | None]:
    """Write one shard of every array, down to the disk; each is made in a draft and appears under its name whole.

    Args:
        path: the run directory.
        manifest: the run.
        unit: number of the unit.
        values: array name -> rows of the unit.

    Returns:
        array name -> size and digest of its shard; None where there is none, because every sample failed.
    """
    zarr = need("zarr")
    rows = manifest.samples(unit)
    found: dict[str, tuple[int, str] | None] = {}
    place = path / f"unit-{unit:08d}"
    with files.draft_of(place) as draft:
        for name, value in values.items():
            shard, made = shard_path(path, name, unit, value.ndim), shard_path(draft, name, unit, value.ndim)
            (draft / FOLDER / name).mkdir(parents=True)
            shutil.copyfile(path / FOLDER / name / "zarr.json", draft / FOLDER / name / "zarr.json")
            zarr.open_array(str(draft / FOLDER / name), mode="r+")[rows.start : rows.stop] = value
            if not made.exists():
                shard.unlink(missing_ok=True)
                found[name] = None
                continue
            found[name] = (made.stat().st_size, seal.digest_of(made))
            files.sync(made)
            shard.parent.mkdir(parents=True, exist_ok=True)
            os.replace(made, shard)
            files.sync_directory(shard.parent)
    return found


def shard_path(path: Path, name: str, unit: int, ndim: int) -> Path:
    """The file of a unit's shard."""
    return path / FOLDER / name / "c" / "/".join([str(unit), *["0"] * (ndim - 1)])


def open_array(path: Path, name: str, units: Mapping[int, Any]) -> Any:
    """A stored array, to read.

    Args:
        path: the run directory.
        name: the array's.
        units: unit -> its shards as its part says; of other units there is nothing.

    Raises:
        StoreError: it is not there, or its description is damaged.
    """
    zarr = need("zarr")
    from interp_plugins.store.checked import CheckedStore

    if not (path / FOLDER / name / "zarr.json").exists():
        raise StoreError(
            f"The run at {path} has no array {name!r} on the disk, though its manifest lists it. Was a part of the "
            "directory copied only? Copy the whole, or run explain_dataset again with the same arguments."
        )
    with decoding(DamagedError, f"{path / FOLDER / name} cannot be opened"):
        return zarr.open_array(CheckedStore(path / FOLDER, units=units), path=name, mode="r")


def described(path: Path, name: str) -> str | None:
    """The digest of what an array's `zarr.json` says, its attributes left aside; None where it says nothing."""
    try:
        content = json.loads((path / FOLDER / name / "zarr.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    content.pop("attributes", None)  # others may write there
    return digest(json.dumps(content, sort_keys=True).encode())


def mend(path: Path, manifest: Manifest, layout: Layout, wanted: Mapping[str, str]) -> list[str]:
    """Write the descriptions of arrays anew that are missing or not what the parts say. Returns the arrays' names.

    Raises:
        DamagedError: it cannot be done, because this version of Zarr writes others.
    """
    there = {a.name: described(path, a.name) for a in layout.arrays}
    broken = [name for name, found in there.items() if found is None or found != wanted.get(name, found)]
    if not broken:
        return []
    with files.draft_of(path / FOLDER) as draft:
        _make(draft, manifest, layout)
        for name in broken:
            final, made = path / FOLDER / name / "zarr.json", draft / name / "zarr.json"
            final.parent.mkdir(parents=True, exist_ok=True)
            files.write(final, made.read_bytes())
            now = described(path, name)
            if now != wanted.get(name, now):
                raise DamagedError(
                    f"{final} was damaged, and this version of Zarr describes the array otherwise. Put back a copy of "
                    "the file, or begin a new run in another directory."
                )
    return broken
