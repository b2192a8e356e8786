"""`Suspects` on disk: one safetensors file, JSON metadata, no pickle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, MissingFileError, decoding
from interp_plugins.core.files import check_path, replacing
from interp_plugins.core.metadata import from_json, to_json
from interp_plugins.core.spec import InputSpec
from interp_plugins.influence.copies import Copy

_FORMAT = 1
_KEY = "interp_plugins_suspects"
_TABLES = ("reasons", "more")


def save(found: Any, path: str | Path, shown: Mapping[int, Any]) -> Path:
    """Write a result, and what is shown of some items, whole or not at all."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    for one in dataclasses.fields(found):
        value = getattr(found, one.name)
        if one.name == "gallery":
            continue
        if isinstance(value, Tensor):
            tensors[one.name] = value.contiguous()
        elif one.name in _TABLES:
            tensors |= {f"{one.name}/{name}": t.contiguous() for name, t in value.items()}
        elif one.name == "spec":
            facts[one.name] = to_json(dataclasses.asdict(value))
        else:
            facts[one.name] = to_json(tuple(map(tuple, value)) if one.name == "copies" else value)
    words: dict[str, Any] = {}
    for number, value in shown.items():
        if isinstance(value, np.ndarray):
            tensors[f"shown/{number}"] = torch.from_numpy(np.ascontiguousarray(np.round(value * 255).astype(np.uint8)))
        else:
            words[str(number)] = to_json(value)
    tables = {name: list(getattr(found, name)) for name in _TABLES}
    header = json.dumps({"format": _FORMAT, "facts": facts, "tables": tables, "shown": words}, allow_nan=False)
    with replacing(path) as draft:
        save_file(tensors, draft, metadata={_KEY: header})
    return Path(path)


def load(path: str | Path) -> dict[str, Any]:
    """The fields of a result that was saved."""
    from safetensors import safe_open

    check_path(path)
    if not Path(path).is_file():
        raise MissingFileError(f"No saved suspects at {path}. Write some with Suspects.save(path).")
    with decoding(InputError, f"{path} is not a file written by Suspects.save, or it is damaged"):
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
        if header["format"] != _FORMAT:
            raise InputError(f"its format is {header['format']}, and this version reads {_FORMAT}")
        fields: dict[str, Any] = {name: from_json(value) for name, value in header["facts"].items()}
        fields["spec"] = InputSpec(**fields["spec"])
        fields["copies"] = tuple(Copy(*one) for one in fields["copies"])
        for table in _TABLES:
            fields[table] = {name: tensors[f"{table}/{name}"] for name in header["tables"][table]}
        fields |= {k: t for k, t in tensors.items() if "/" not in k}
        kept: dict[int, Any] = {int(k): from_json(v) for k, v in header["shown"].items()}
        kept |= {int(k[6:]): t.numpy() / 255 for k, t in tensors.items() if k.startswith("shown/")}
        fields["gallery"] = KeptItems(kept) if kept else None
    return fields


class KeptItems:
    """What a file keeps to be shown.

    Args:
        kept: by item number.
    """

    def __init__(self, kept: Mapping[int, Any]):
        self.kept = kept

    def __call__(self, numbers: Sequence[int]) -> list[Any]:
        """What is shown of these items.

        Raises:
            InputError: one that was not kept.
        """
        absent = [i for i in numbers if i not in self.kept]
        if absent:
            raise InputError(
                f"The file keeps what is shown of {len(self.kept)} items, and item {absent[0]} is none of them. Ask "
                "for fewer, or save more: Suspects.save(path, n=...)."
            )
        return [self.kept[i] for i in numbers]
