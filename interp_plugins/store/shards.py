"""Whether the file of a shard is the one that was written."""

from __future__ import annotations

import os
from pathlib import Path

from interp_plugins.core import seal

AGAIN = (
    "Run explain_dataset again with the same arguments: it does such units again (store.verify() lists them). Or put "
    "back a copy of the file."
)


def difference(file: Path, wanted: tuple[int, str] | None, *, deep: bool = True) -> str | None:
    """What is wrong with the file of a shard, or None.

    Args:
        file: the shard's.
        wanted: its size and digest; None: there is none, since every sample of the unit failed.
        deep: read it; False looks at its size alone.
    """
    try:
        size = os.stat(file).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None if wanted is None else f"{file} is missing"
    if wanted is None:
        return f"{file} is there, though no sample of its unit has a map"
    if size != wanted[0]:
        return f"{file} has {size} bytes, and was written with {wanted[0]}"
    return f"{file} is not what was written: its digest does not fit" if deep and _changed(file, wanted[1]) else None


def _changed(file: Path, digest: str) -> bool:
    try:
        return seal.digest_of(file) != digest
    except OSError:
        return True
