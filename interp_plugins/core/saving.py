"""Explanations on disk (one safetensors file, JSON metadata, no pickle); which fields are tensors, they say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.fields import TENSORS, names_of
from interp_plugins.core.metadata import from_json, to_json
from interp_plugins.core.spec import InputSpec

FORMAT = 1
E = TypeVar("E")


def save(items: Sequence[Any], path: str | Path) -> Path:
    """Write explanations to one safetensors file, whole or not at all (temporary name, then rename)."""
    from safetensors.torch import save_file

    stored: dict[str, Tensor] = {}
    records = []
    for i, exp in enumerate(items):
        layout: dict[str, int | None] = {}
        record: dict[str, Any] = {}
        for f in dataclasses.fields(exp):
            value = getattr(exp, f.name)
            if f.name in names_of(exp, TENSORS):
                if value is None:
                    continue
                many = value if isinstance(value, tuple) else (value,)
                layout[f.name] = len(many) if isinstance(value, tuple) else None
                for j, t in enumerate(many):
                    stored[f"{i}/{f.name}/{j}"] = t.detach().clone().contiguous()
            elif f.name == "spec":
                record["spec"] = to_json(dataclasses.asdict(value))
            else:
                record[f.name] = to_json(dict(value) if f.name in ("params", "meta") else value)
        records.append({"fields": record, "layout": layout})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        save_file(stored, part, metadata={"interp_plugins": json.dumps({"format": FORMAT, "items": records})})
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def load(path: str | Path, cls: Callable[..., E]) -> list[E]:
    """Read what `save` wrote, as objects of `cls`. Raises FileNotFoundError, or InputError for another kind of file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No saved explanations at {path}. Write some with Explanation.save(path).")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("interp_plugins", "null"))
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, json.JSONDecodeError) as err:
        raise InputError(f"{path} is not a file written by Explanation.save ({err}).") from err
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path} is a safetensors file, but not one written by this version's Explanation.save.")
    out = []
    for i, record in enumerate(header["items"]):
        fields = {k: from_json(v) for k, v in record["fields"].items()}
        fields["spec"] = InputSpec(**fields["spec"])
        for name, count in record["layout"].items():
            many = tuple(tensors[f"{i}/{name}/{j}"] for j in range(count or 1))
            fields[name] = many[0] if count is None else many
        out.append(cls(**fields))
    return out
