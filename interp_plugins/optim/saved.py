"""Pictures and examples on disk: one safetensors file, JSON metadata, no pickle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from interp_plugins.core.errors import InputError, MissingFileError, decoding
from interp_plugins.core.files import check_path, replacing
from interp_plugins.core.metadata import from_json, to_json
from interp_plugins.core.spec import InputSpec

_FORMAT = 1
_KEY = "interp_plugins_features"
T = TypeVar("T")


def save(found: Any, path: str | Path) -> Path:
    """Write a `Visualization`, `Examples` or `Atlas`, whole or not at all."""
    from safetensors.torch import save_file

    check_path(path)
    tensors: dict[str, Tensor] = {}
    facts = _packed(found, "", tensors)
    header = json.dumps({"format": _FORMAT, "kind": type(found).__name__, "facts": facts}, allow_nan=False)
    with replacing(path) as draft:
        save_file({k: t.contiguous().clone() for k, t in tensors.items()}, draft, metadata={_KEY: header})
    return Path(path)


def _packed(found: Any, ahead: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The fields of a result: tensors apart, results in it packed in the same way, all else as JSON."""
    facts: dict[str, Any] = {}
    for one in dataclasses.fields(found):
        value, name = getattr(found, one.name), f"{ahead}{one.name}"
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, InputSpec):
            facts[one.name] = {"spec": to_json(dataclasses.asdict(value))}
        elif dataclasses.is_dataclass(value):
            facts[one.name] = {"part": type(value).__name__, "facts": _packed(value, f"{name}/", tensors)}
        elif isinstance(value, Mapping) and value and all(isinstance(v, Tensor) for v in value.values()):
            tensors |= {f"{name}/{key}": v for key, v in value.items()}
            facts[one.name] = {"table": [[isinstance(k, int), str(k)] for k in value]}
        else:
            facts[one.name] = {"value": to_json(dict(value) if isinstance(value, Mapping) else value)}
    return facts


def load(path: str | Path, cls: type[T], parts: Mapping[str, type[Any]] | None = None) -> T:
    """Read what `save` wrote.

    Args:
        path: the file.
        cls: what it holds.
        parts: classes of results in it, by name.

    Raises:
        MissingFileError: no such file.
        InputError: something else, or damaged.
    """
    from safetensors import safe_open

    check_path(path)
    if not Path(path).is_file():
        raise MissingFileError(f"No saved {cls.__name__} at {path}. Write some with {cls.__name__}.save(path).")
    with decoding(InputError, f"{path} is not a file written by {cls.__name__}.save, or it is damaged"):
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
        if header["format"] != _FORMAT or header["kind"] != cls.__name__:
            raise InputError(f"it holds a {header['kind']} in format {header['format']}")
        return _unpacked(cls, header["facts"], "", tensors, {**(parts or {}), cls.__name__: cls})


def _unpacked(
    cls: type[T], facts: Mapping[str, Any], ahead: str, tensors: Mapping[str, Tensor], parts: Mapping[str, type[Any]]
) -> T:
    found: dict[str, Any] = {}
    for one in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = f"{ahead}{one.name}"
        if name in tensors:
            found[one.name] = tensors[name]
            continue
        if one.name not in facts and one.default is not dataclasses.MISSING:
            continue  # written before there was this field
        fact = facts[one.name]
        if "spec" in fact:
            found[one.name] = InputSpec(**from_json(fact["spec"]))
        elif "part" in fact:
            found[one.name] = _unpacked(parts[fact["part"]], fact["facts"], f"{name}/", tensors, parts)
        elif "table" in fact:
            found[one.name] = {int(k) if number else k: tensors[f"{name}/{k}"] for number, k in fact["table"]}
        else:
            found[one.name] = from_json(fact["value"])
    return cls(**found)
