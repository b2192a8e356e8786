"""`Perturbed` on disk: one safetensors file, JSON metadata, no pickle."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from interp_plugins.core.errors import InputError, MissingFileError, decoding
from interp_plugins.core.files import check_path, replacing
from interp_plugins.core.metadata import from_json, to_json
from interp_plugins.core.spec import InputSpec

_FORMAT = 1
_KEY = "interp_plugins_perturbed"
_ENDLESS = "no limit"  # JSON has no infinity


def save(found: Any, path: str | Path) -> Path:
    """Write a result, whole or not at all."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    several: list[str] = []
    for one in dataclasses.fields(found):
        value = getattr(found, one.name)
        if isinstance(value, Tensor):
            tensors[one.name] = value.contiguous()
        elif isinstance(value, tuple) and value and isinstance(value[0], Tensor):
            several.append(one.name)
            tensors |= {f"{one.name}/{k}": t.contiguous() for k, t in enumerate(value)}
        elif one.name == "spec":
            facts[one.name] = to_json(dataclasses.asdict(value))
        elif one.name == "params":
            facts[one.name] = to_json({k: _ENDLESS if v == math.inf else v for k, v in value.items()})
        else:
            facts[one.name] = to_json(value)
    header = json.dumps({"format": _FORMAT, "facts": facts, "several": several}, allow_nan=False)
    with replacing(path) as draft:
        save_file(tensors, draft, metadata={_KEY: header})
    return Path(path)


def load(path: str | Path) -> dict[str, Any]:
    """The fields of a result that was saved.

    Raises:
        FileNotFoundError: there is no file.
        InputError: a file of another kind, or a damaged one.
    """
    from safetensors import safe_open

    check_path(path)
    if not Path(path).is_file():
        raise MissingFileError(f"No saved attack at {path}. Write one with Perturbed.save(path).")
    with decoding(InputError, f"{path} is not a file written by Perturbed.save, or it is damaged"):
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
        if header["format"] != _FORMAT:
            raise InputError(f"{path} was written by another version, format {header['format']}.")
        facts = {name: from_json(value) for name, value in header["facts"].items()}
        facts["spec"] = InputSpec(**facts["spec"])
        facts["params"] = {k: math.inf if v == _ENDLESS else v for k, v in facts["params"].items()}
        found: dict[str, Any] = {**facts, **{k: t for k, t in tensors.items() if "/" not in k}}
        for name in header["several"]:
            parts = sorted((int(k.partition("/")[2]), t) for k, t in tensors.items() if k.startswith(f"{name}/"))
            found[name] = tuple(t for _, t in parts)
    return found
