"""`manifest.json`: what a run is, written once, by whichever process comes first, and compared by all others."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from interp_plugins.core import files, seal
from interp_plugins.core.errors import InterpWarning, decoding
from interp_plugins.store.errors import DamagedError, RunDiffersError, StoreError
from interp_plugins.store.fingerprint import digest, flat
from interp_plugins.store.layout import Layout

SCHEMA = 2
_UNSEALED = 1  # runs begun before manifests and parts held their digest
NAME = "manifest.json"
_MOST_UNITS = 10**8  # parts are named with eight digits
_OURS = {NAME, "arrays", "parts", "scores"}  # the manifest too: another process may publish it between two looks


@dataclass(frozen=True)
class Manifest:
    """What a run is.

    Attributes:
        identity: what two runs must share to be one: methods, parameters, model, data, seed, sizes.
        layout: what the arrays and tables look like (see `layout.Layout`).
        made: when, with which versions and how many threads the run was begun, and what ran faster for its first
            sample ("engine", by map).
        sealed: whether the manifest and all parts hold their digest; older runs have parts of both kinds.
    """

    identity: dict[str, Any]
    layout: dict[str, Any]
    made: dict[str, Any]
    sealed: bool = True

    @property
    def digest(self) -> str:
        """What tells this run from others, as its parts name it."""
        return digest(json.dumps([self.identity, self.layout], sort_keys=True).encode())

    @property
    def size(self) -> int:
        """Number of samples of the run."""
        return int(self.identity["data"]["size"])

    @property
    def unit_size(self) -> int:
        """Samples of a work unit; the last unit may have fewer."""
        return int(self.identity["unit_size"])

    @property
    def units(self) -> int:
        """Number of work units into which the samples are cut."""
        return -(-self.size // self.unit_size)

    def samples(self, unit: int) -> range:
        """The samples of a unit: numbered by the data, whatever the number of processes."""
        return range(unit * self.unit_size, min(self.size, (unit + 1) * self.unit_size))


def read(path: Path) -> Manifest | None:
    """The manifest of a run directory, or None where none has begun.

    Raises:
        DamagedError: not a manifest, or one that was changed.
        StoreError: one of another schema.
    """
    file = path / NAME
    try:
        raw = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as err:
        raise StoreError(f"{file} cannot be read: {err}.") from err
    with decoding(DamagedError, f"{file} is no manifest of a run, or it is damaged: put back a copy of it"):
        content = json.loads(raw.decode("utf-8"))
        schema = content["schema"]
        if schema == SCHEMA and not seal.holds(file, content["digest"]):
            raise DamagedError("its digest does not fit; it was changed after it was written")
        if schema in (SCHEMA, _UNSEALED) and not isinstance(schema, bool):
            found = Manifest(content["identity"], content["layout"], content["made"], sealed=schema == SCHEMA)
            _check(found)
            return found
        version = content.get("made", {}).get("versions", {}).get("interp_plugins", "?")
    raise StoreError(
        f"{file} has schema {schema}, and this version of interp_plugins reads schema {SCHEMA}. Use the version that "
        f"wrote it ({version})."
    )


def _check(found: Manifest) -> None:
    """Refuse values that nothing can be done with."""
    Layout.from_json(found.layout)
    for name, value in (("size", found.identity["data"]["size"]), ("unit_size", found.identity["unit_size"])):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DamagedError(f"its {name} is {value!r}")
    if found.units > _MOST_UNITS or not isinstance(found.made["versions"], dict):
        raise DamagedError(f"it has {found.units} units and versions {found.made['versions']!r}")


def publish(
    path: Path, identity: dict[str, Any], layout: dict[str, Any], told: Mapping[str, Any] | None = None
) -> Manifest:
    """Write the manifest, or read the one that another process wrote in the meantime.

    Args:
        path: the run's directory.
        identity: what two runs must share to be one.
        layout: what the arrays and tables look like.
        told: further facts about how the run was begun.

    Raises:
        StoreError: the directory holds something else.
        RunDiffersError: the other process's run is another one.
    """
    check_free(path)
    path.mkdir(parents=True, exist_ok=True)
    identity, layout = (json.loads(json.dumps(v)) for v in (identity, layout))  # lists for tuples, as they come back
    made = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), **here(), **(told or {})}
    mine = Manifest(identity, layout, made)
    content = {
        "digest": seal.BLANK,
        "schema": SCHEMA,
        "identity": mine.identity,
        "layout": mine.layout,
        "made": mine.made,
    }
    with files.draft_of(path / NAME) as draft:
        draft.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
        seal.close(draft)
        files.sync(draft)
        files.claim(draft, path / NAME)
    found = read(path)
    assert found is not None
    check_same(path, found, identity)
    if found.layout != mine.layout:
        raise RunDiffersError(f"Another process began the run at {path} with other shapes of maps. Give another path.")
    return found


def check_free(path: Path) -> None:
    """Refuse a directory without a manifest that holds something else."""
    if not path.exists():
        return
    if not path.is_dir():
        raise StoreError(f"{path} is a file; a run of explanations is a directory. Give another path.")
    if read(path) is None:
        others = sorted(p.name for p in path.iterdir() if p.name not in _OURS and not p.name.startswith("."))
        if others:
            raise StoreError(
                f"{path} holds other files ({', '.join(others[:4])}) and no {NAME}. Give a new or empty directory."
            )


def check_same(path: Path, found: Manifest, identity: dict[str, Any]) -> None:
    """Refuse to go on with a run that is another one, and say what differs.

    Raises:
        RunDiffersError: the keys that differ, with both values.
    """
    there, now = flat(found.identity), flat(identity)
    differs = [k for k in {**there, **now} if there.get(k) != now.get(k) or (k in there) != (k in now)]
    # an empty group of keys is no key of its own where the other run has some in it
    differs = [k for k in differs if not any(other.startswith((f"{k}.", f"{k}[")) for other in differs)]
    if differs:
        shown = "; ".join(f"{k}: {_shown(there, k)} there, {_shown(now, k)} now" for k in differs[:6])
        more = f"; and {len(differs) - 6} more" if len(differs) > 6 else ""
        raise RunDiffersError(
            f"The run at {path} is another one: {shown}{more}. To go on with it, give the same model, data and "
            "parameters; for a new run, give another path."
        )


def _shown(values: dict[str, Any], key: str) -> str:
    return repr(values[key])[:80] if key in values else "nothing"


def here() -> dict[str, Any]:
    """Versions and number of threads: what can change the last bits of a result."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for package in ("zarr", "pyarrow", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    from interp_plugins import __version__

    return {"versions": {"interp_plugins": __version__, **versions}, "threads": torch.get_num_threads()}


def warn_of_changes(found: Manifest) -> None:
    """Say it when a run goes on under other circumstances, where equal bits cannot be promised."""
    there, now = flat(found.made), flat(here())
    differs = [k for k in now if k.rpartition(".")[2] in ("interp_plugins", "torch", "threads") and k in there]
    changed = [f"{k.removeprefix('versions.')} {there[k]} then, {now[k]} now" for k in differs if there[k] != now[k]]
    if changed:
        warnings.warn(
            f"The run was begun under other circumstances ({'; '.join(changed)}); what is computed now may differ from "
            "an unbroken run in the last bits.",
            InterpWarning,
            stacklevel=4,
        )


def origin() -> dict[str, Any]:
    """The process that writes a part of the run, as it is noted there."""
    return {**here(), "host": socket.gethostname(), "process": os.getpid()}
