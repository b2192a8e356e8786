"""What can go wrong with a store, and the packages it needs."""

from __future__ import annotations

import errno
import importlib
import sys
from typing import Any

from interp_plugins.core.errors import InterpError

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "the file is too large"}


class StoreError(InterpError, RuntimeError):
    """A store cannot be read, or cannot be written."""


class RunDiffersError(StoreError, ValueError):
    """A run is resumed with another model, other data or other parameters."""


class DiskFullError(StoreError, OSError):
    """No room left; what was committed is safe."""


def need(name: str) -> Any:
    """Import a package that only stores need, by its dotted name.

    Raises:
        ImportError: it is missing, with what to do.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as err:
        package = name.partition(".")[0]
        if err.name != package:
            raise
        advice = "pip install 'interp-plugins[store]'."
        if package == "zarr" and sys.version_info < (3, 11):
            found = ".".join(map(str, sys.version_info[:2]))
            advice = f"its version 3 format needs Python 3.11 or later, and this is {found}."
        raise ImportError(f"Stores of explanations need {package}: {advice}") from err


def disk_full(error: BaseException) -> str | None:
    """What an error says about missing room on the disk, or None for other errors."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return _FULL[seen.errno]
        seen = seen.__cause__ or seen.__context__
    return None
