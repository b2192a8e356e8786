"""The arrays of a run: a Zarr group (format 3) with one shard per work unit and one inner chunk per sample.

A shard is one file, and only the process that does its unit writes it. Samples that failed are NaN (0 for integers).
Every inner chunk carries a checksum, so that a damaged file is an error and not a wrong map.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from interp_plugins.core import files
from interp_plugins.store import table_parts
from interp_plugins.store.errors import StoreError, need
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


def write_unit(path: Path, manifest: Manifest, unit: int, values: Mapping[str, np.ndarray]) -> None:
    """Write one shard of every array, down to the disk.

    Args:
        path: the run directory.
        manifest: the run.
        unit: number of the unit.
        values: array name -> rows of the unit.
    """
    rows = manifest.samples(unit)
    for name, value in values.items():
        shard = shard_path(path, name, unit, value.ndim)
        shard.unlink(missing_ok=True)  # left by a process that was killed: it must not be read and filled up
        for left in shard.parent.glob(f"{shard.name}.*.partial"):  # Zarr's own drafts
            left.unlink(missing_ok=True)
        open_array(path, name, mode="r+")[rows.start : rows.stop] = value
        if shard.exists():  # there is none if every sample failed
            files.sync(shard)
            files.sync_directory(shard.parent)


def shard_path(path: Path, name: str, unit: int, ndim: int) -> Path:
    """The file of a unit's shard."""
    return path / FOLDER / name / "c" / "/".join([str(unit), *["0"] * (ndim - 1)])


def open_array(path: Path, name: str, mode: str = "r") -> Any:
    """A stored array, to read or (mode "r+") to write."""
    zarr = need("zarr")
    try:
        return zarr.open_array(str(path / FOLDER / name), mode=mode)
    except FileNotFoundError as err:
        raise StoreError(
            f"The run at {path} has no array {name!r} on the disk, though its manifest lists it. Was a part of the "
            "directory copied only? Copy the whole, or begin a new run in another directory."
        ) from err
