"""Zarr's local store, which gives out no shard that is not the one that its unit's part names.

Imported where an array is opened, because it stands on Zarr's class.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zarr.storage import LocalStore

from interp_plugins.store.errors import DamagedError
from interp_plugins.store.shards import AGAIN, difference

Shards = Mapping[str, tuple[int, str] | None] | None  # array -> (size, digest); None: it was not written down


class CheckedStore(LocalStore):
    """A folder of arrays to read; each shard's digest is compared when the shard is first read.

    Args:
        root: the folder.
        read_only: as Zarr's stores have it; always so here.
        units: unit -> its shards, of the units that are done; the mapping may grow while a run goes on. None: all
            files are given out as they are.
    """

    def __init__(self, root: Path | str, *, read_only: bool = True, units: Mapping[int, Shards] | None = None):
        super().__init__(root, read_only=read_only)
        self.units = units
        self._seen: dict[str, tuple[int, int]] = {}  # key -> time and size of the file that was compared

    def with_read_only(self, read_only: bool = False) -> CheckedStore:
        """The same store; it is for reading whatever is asked."""
        return type(self)(self.root, read_only=read_only, units=self.units)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """A file's bytes; None where a unit is not done, or has no shard."""
        return await super().get(key, prototype, byte_range) if self._there(key) else None

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[Any]) -> list[Any]:
        """Parts of files, see `get`."""
        asked = list(key_ranges)
        there = [one for one in asked if self._there(one[0])]
        found = iter(await super().get_partial_values(prototype, there))
        return [next(found) if one in there else None for one in asked]

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        """The same as `get`, for newer versions of Zarr."""
        return super().get_sync(key, prototype=prototype, byte_range=byte_range) if self._there(key) else None

    def _there(self, key: str) -> bool:
        """Whether a file is to be given out.

        Raises:
            DamagedError: it is not the one that was written.
        """
        array, chunk, place = key.rpartition("/c/")
        if self.units is None or not chunk:
            return True
        unit = int(place.split("/")[0])
        if unit not in self.units:
            return False
        shards = self.units[unit]
        if shards is None:
            return True
        file = Path(self.root) / key
        try:
            found = os.stat(file)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        now = (found.st_mtime_ns, found.st_size) if found is not None else (0, -1)
        if self._seen.get(key) != now:
            wrong = difference(file, shards.get(array))
            if wrong is not None:
                raise DamagedError(f"{wrong} (unit {unit}). {AGAIN}")
            self._seen[key] = now
        return found is not None
