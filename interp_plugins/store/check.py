"""Whether a unit that is said to be done is whole: its part, and the shards that the part names."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from interp_plugins.core.errors import InterpWarning
from interp_plugins.store import arrays, table_parts
from interp_plugins.store.errors import DamagedError
from interp_plugins.store.layout import Layout
from interp_plugins.store.manifest import Manifest
from interp_plugins.store.shards import difference
from interp_plugins.store.table_parts import Part


def _load(
    path: Path, unit: int, manifest: Manifest, layout: Layout, described: Mapping[str, str | None], deep: bool
) -> Part:
    """A unit's part, after a look at all that belongs to the unit.

    Raises:
        DamagedError: something is missing or not what was written.
    """
    part = table_parts.load(path, unit, manifest, layout)
    for array in layout.arrays if part.shards is not None else ():
        assert part.shards is not None
        if array.name not in part.shards:
            raise DamagedError(f"{table_parts.path_of(path, unit)} does not know the array {array.name}")
        shard = arrays.shard_path(path, array.name, unit, 1 + len(array.shape))
        wrong = difference(shard, part.shards[array.name], deep=deep)
        if wrong is not None:
            raise DamagedError(wrong)
        if part.metadata.get(array.name) != described[array.name]:
            raise DamagedError(f"{path / arrays.FOLDER / array.name / 'zarr.json'} is not what was written")
    return part


def units(
    path: Path, numbers: Iterable[int], manifest: Manifest, layout: Layout, *, deep: bool
) -> tuple[dict[int, Part], dict[int, str]]:
    """The parts of those units that are whole, and what is wrong with the others.

    Args:
        path: the run directory.
        numbers: of the units that are said to be done.
        manifest: the run.
        layout: the run's layout.
        deep: read every shard and compare its digest; False: compare its size.
    """
    described = {a.name: arrays.described(path, a.name) for a in layout.arrays}
    whole: dict[int, Part] = {}
    damaged: dict[int, str] = {}
    for unit in sorted(numbers):
        try:
            whole[unit] = _load(path, unit, manifest, layout, described, deep)
        except DamagedError as err:
            damaged[unit] = str(err)
    return whole, damaged


def warn(path: Path, damaged: Mapping[int, str], then: str, *, level: int) -> None:
    """Say which units are damaged."""
    if damaged:
        shown = "; ".join(f"unit {u}: {why}" for u, why in list(damaged.items())[:3])
        more = f"; and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        warnings.warn(
            f"{len(damaged)} unit(s) of the run at {path} are damaged and count as missing ({shown}{more}). {then}",
            InterpWarning,
            stacklevel=level + 1,
        )
