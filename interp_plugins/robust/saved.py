"""Results on disk: one safetensors file with its digest, JSON metadata, no pickle; all results of this room alike."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from interp_plugins.core import seal
from interp_plugins.core.errors import InputError, MissingFileError, decoding
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.files import check_path
from interp_plugins.core.metadata import from_json, to_json
from interp_plugins.core.saving import packed, unpacked, written
from interp_plugins.core.spec import InputSpec

_FORMAT = 2
_KEY = "interp_plugins_robust"
R = TypeVar("R")


def save(found: Any, path: str | Path) -> Path:
    """Write a result, whole or not at all.

    Raises:
        FileError: it cannot be written; an earlier file is as it was.
    """
    stored: dict[str, Tensor] = {}
    fields = _fields(found, "", stored)
    record = {"digest": seal.BLANK, "format": _FORMAT, "kind": type(found).__name__, "fields": fields}
    return written(stored, _KEY, record, path)


def load(path: str | Path, cls: Callable[..., R], inner: Mapping[str, Callable[..., Any]] | None = None) -> R:
    """A result that was saved.

    Args:
        path: of the file.
        cls: what it is to be.
        inner: kinds of results that stand in it, by name.

    Raises:
        FileNotFoundError: there is no file.
        InputError: a file of another kind, or a damaged one.
    """
    from safetensors import safe_open

    check_path(path)
    name = cls.__name__
    if not Path(path).is_file():
        raise MissingFileError(f"No saved {name} at {path}. Write one with {name}.save(path).")
    with decoding(InputError, f"{path} is not a file written by {name}.save, or it is damaged"):
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            stored = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
        if header["format"] != _FORMAT:
            raise InputError(f"it was written by another version, format {header['format']}")
        if header["kind"] != name:
            raise InputError(f"it holds a {header['kind']}: read it with {header['kind']}.load(path)")
        if not seal.holds(Path(path), header["digest"]):
            raise InputError("its digest does not fit: bytes have changed since it was written; take another copy")
        return cls(**{k: _read(v, stored, inner or {}) for k, v in header["fields"].items()})


def _fields(found: Any, place: str, stored: dict[str, Tensor]) -> dict[str, Any]:
    return {f.name: _put(getattr(found, f.name), f"{place}{f.name}", stored) for f in dataclasses.fields(found)}


def _put(value: Any, place: str, stored: dict[str, Tensor]) -> Any:
    """A value as JSON that says what it is; tensors go into `stored`."""
    if isinstance(value, Tensor):
        stored[place] = value.detach().clone().contiguous()
        return {"is": "tensor", "at": place}
    if isinstance(value, InputSpec):
        return {"is": "spec", "of": to_json(dataclasses.asdict(value))}
    if isinstance(value, Explanation):
        return {"is": "map", "at": place, "of": packed(value, place, stored)}
    if isinstance(value, Explanations):
        return {"is": "maps", "of": [_put(v, f"{place}/{k}", stored) for k, v in enumerate(value)]}
    if dataclasses.is_dataclass(value):
        return {"is": type(value).__name__, "of": _fields(value, f"{place}/", stored)}
    if isinstance(value, tuple) and any(_is_large(v) for v in value):
        return {"is": "tuple", "of": [_put(v, f"{place}/{k}", stored) for k, v in enumerate(value)]}
    if isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values()):
        return {"is": "dict", "of": [[n, _put(v, f"{place}/{k}", stored)] for k, (n, v) in enumerate(value.items())]}
    return {"is": "plain", "of": to_json(value)}


def _is_large(value: Any) -> bool:
    return isinstance(value, (Tensor, Explanation, Explanations)) or (
        isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value)
    )


def _read(given: Mapping[str, Any], stored: Mapping[str, Tensor], inner: Mapping[str, Callable[..., Any]]) -> Any:
    """What `_put` was given."""
    kind = given["is"]
    if kind == "tensor":
        return stored[given["at"]]
    of = given["of"]
    if kind == "plain":
        return from_json(of)
    if kind == "spec":
        return InputSpec(**from_json(of))
    if kind == "map":
        return unpacked(of, given["at"], stored, Explanation)
    if kind == "maps":
        return Explanations([_read(v, stored, inner) for v in of])
    if kind == "tuple":
        return tuple(_read(v, stored, inner) for v in of)
    if kind == "dict":
        return {name: _read(v, stored, inner) for name, v in of}
    if kind not in inner:
        raise InputError(f"it holds a {kind!r}, which is none of {', '.join(inner) or 'nothing'}")
    return inner[kind](**{k: _read(v, stored, inner) for k, v in of.items()})
