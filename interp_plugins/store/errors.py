"""What can go wrong with a store, and the packages it needs."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interp_plugins.core import files
from interp_plugins.core.errors import InterpError


class StoreError(InterpError, RuntimeError):
    """A store cannot be read, or cannot be written."""


class RunDiffersError(StoreError, ValueError):
    """A run is resumed with another model, other data or other parameters."""


class DamagedError(StoreError):
    """What lies on the disk is not what was written there."""


class NotWritableError(StoreError, OSError):
    """A run directory cannot be written; what was committed is safe."""


class DiskFullError(NotWritableError):
    """No room left; what was committed is safe."""


_EXTRA = "'interp-plugins[store]'"
_EXTRAS = {"zarr": _EXTRA, "pyarrow": _EXTRA, "pandas": _EXTRA}


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
        advice = f"pip install {_EXTRAS.get(package, package)}."
        if package == "zarr" and sys.version_info < (3, 11):
            found = ".".join(map(str, sys.version_info[:2]))
            advice = f"its version 3 format needs Python 3.11 or later, and this is {found}."
        raise ImportError(f"Stores of explanations need {package}: {advice}") from err


@contextlib.contextmanager
def writing(path: Path, what: str) -> Iterator[None]:
    """A clear error where a run directory cannot be written; what was committed before stays."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        why = files.no_room(error)
        if why is not None:
            raise DiskFullError(
                f"Writing {what} to {path} failed: {why} ({error}). Everything that was committed before is safe. Make "
                "room (dtype='float16' and save_inputs=False need less, in a new run) and run again with the same "
                "arguments: the run goes on with the units that are missing."
            ) from error
        if isinstance(error, OSError):
            raise NotWritableError(
                f"Writing {what} to {path} failed: {error}. Everything that was committed before is safe. "
                f"{files.advice(error, path / 'x')} Then run again with the same arguments: the run goes on with the "
                "units that are missing."
            ) from error
        raise
