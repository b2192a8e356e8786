"""Explanations on disk (one safetensors file, JSON metadata, no pickle); which fields are tensors, they say.

The metadata begin with a digest of the file (`core.seal`). What lies on a disk may be anything, so all that is read is
checked before an explanation is made of it: an error names the file and says what is wrong.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from interp_plugins.core import seal
from interp_plugins.core.errors import FileError, InputError, InterpWarning, MissingFileError, decoding
from interp_plugins.core.fields import LISTED, TENSORS, names_of
from interp_plugins.core.files import check_path, no_room, replacing
from interp_plugins.core.metadata import from_json, to_json
from interp_plugins.core.spec import InputSpec

FORMAT = 2
_UNSEALED = 1  # the format before files held their digest
_KEY = "interp_plugins"
E = TypeVar("E")


def save(items: Sequence[Any], path: str | Path) -> Path:
    """Write explanations to one safetensors file, whole or not at all.

    Raises:
        FileError: it cannot be written, with what to do; an earlier file is as it was.
    """
    stored: dict[str, Tensor] = {}
    records = []
    for i, exp in enumerate(items):
        records.append(packed(exp, i, stored))
    return written(stored, _KEY, {"digest": seal.BLANK, "format": FORMAT, "items": records}, path)


def written(stored: Mapping[str, Tensor], key: str, record: Mapping[str, Any], path: str | Path) -> Path:
    """Write tensors, and what is known of them as JSON, to one safetensors file, whole or not at all.

    Args:
        stored: the tensors by name.
        key: of the JSON in the file's metadata.
        record: what is known; with `seal.BLANK` as "digest" the file holds its own.
        path: of the file.

    Raises:
        FileError: it cannot be written, with what to do; an earlier file is as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = json.dumps(record, allow_nan=False)
    with replacing(path) as draft:
        try:
            save_file(dict(stored), draft, metadata={key: header})
            if record.get("digest") == seal.BLANK:
                seal.close(draft)
        except SafetensorError as err:
            reason = no_room(err) or str(err)
            raise FileError(f"{path} could not be written: {reason}. What stood there before is as it was.") from err
    return Path(path)


def packed(exp: Any, place: int | str, stored: dict[str, Tensor]) -> dict[str, Any]:
    """An explanation as JSON, with its tensors put beside it.

    Args:
        exp: the explanation.
        place: what the names of its tensors begin with.
        stored: where they go.
    """
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
                stored[f"{place}/{f.name}/{j}"] = t.detach().clone().contiguous()
        elif f.name == "spec":
            record["spec"] = to_json(dataclasses.asdict(value))
        else:
            record[f.name] = to_json(dict(value) if f.name in ("params", "meta") else value)
    return {"fields": record, "layout": layout}


def load(path: str | Path, cls: Callable[..., E]) -> list[E]:
    """Read what `save` wrote, as objects of `cls`.

    Raises:
        FileNotFoundError: there is no file.
        InputError: a file of another kind, or one that is damaged.
    """
    from safetensors import safe_open

    check_path(path)
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"No saved explanations at {path}. Write some with Explanation.save(path).")
    with decoding(InputError, f"{path} is not a file written by Explanation.save, or it is damaged"):
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "null"))
            _check_seal(path, header)
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
        found = [unpacked(record, i, tensors, cls) for i, record in enumerate(header["items"])]
    if header["format"] == _UNSEALED:
        warnings.warn(
            f"{path} was written without a digest, so damage would not be noticed. Saving it anew adds one.",
            InterpWarning,
            stacklevel=3,
        )
    return found


def _check_seal(path: Path, header: Any) -> None:
    """Refuse what `save` did not write, or what has changed since."""
    form = header.get("format") if isinstance(header, dict) else None
    if form not in (FORMAT, _UNSEALED) or isinstance(form, bool):
        raise InputError("it is a safetensors file, but not one written by this version's Explanation.save")
    if form == FORMAT and not seal.holds(path, header["digest"]):
        raise InputError("its digest does not fit: bytes have changed since it was written; take another copy")


def unpacked(record: Mapping[str, Any], place: int | str, tensors: Mapping[str, Tensor], cls: Callable[..., E]) -> E:
    """What `packed` was given, as an object of `cls`.

    Raises:
        InputError: fields that do not fit each other.
    """
    fields = {k: from_json(v) for k, v in record["fields"].items()}
    fields["spec"] = InputSpec(**fields["spec"])
    for name, count in record["layout"].items():
        if count is not None and not (_is_int(count) and 0 < count <= len(tensors)):
            raise InputError(f"{name} is said to have {count!r} tensors")
        many = tuple(tensors[f"{place}/{name}/{j}"] for j in range(1 if count is None else count))
        fields[name] = many[0] if count is None else many
    found = cls(**fields)
    _check(found)
    return found


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(exp: Any) -> None:
    """Refuse fields of another kind or length than the samples."""
    tensors, lists = names_of(exp, TENSORS), names_of(exp, LISTED)
    for name in tensors:
        value = getattr(exp, name)
        many = value if isinstance(value, tuple) else (value,)
        optional = name not in ("attributions", "inputs")
        if not all((isinstance(t, Tensor) and t.ndim > 0) or (optional and t is None) for t in many):
            raise InputError(f"{name} holds no tensors with a dimension of samples")
    n = len(exp.inputs[0] if isinstance(exp.inputs, tuple) else exp.inputs)
    for name in (*lists, *names_of(exp, TENSORS, column=True)):
        value = getattr(exp, name)
        if value is not None and (not isinstance(value, (tuple, Tensor)) or len(value) != n):
            raise InputError(f"{name} does not have an entry for each of {n} samples")
    for name, kind in (("method", str), ("title", str), ("layer", str), ("params", dict), ("meta", dict)):
        if not isinstance(getattr(exp, name), kind) and not (name == "layer" and exp.layer is None):
            raise InputError(f"{name} is {type(getattr(exp, name)).__name__}, not {kind.__name__}")
    if exp.seed is not None and not _is_int(exp.seed):
        raise InputError(f"seed is {exp.seed!r}")
    if exp.seconds is not None and not isinstance(exp.seconds, (int, float)):
        raise InputError(f"seconds is {exp.seconds!r}")
    if any(not isinstance(row, (list, tuple)) for name in ("tokens", "values") for row in getattr(exp, name) or ()):
        raise InputError("tokens or values are not a list per sample")
    if len(set(map(len, exp.meta.get("per_sample", {}).values())) - {n}):
        raise InputError(f'meta["per_sample"] does not have an entry for each of {n} samples')
    _check_spec(exp.spec)


def _check_spec(spec: InputSpec) -> None:
    if not isinstance(spec.kind, str) or not (spec.name is None or isinstance(spec.name, str)):
        raise InputError(f"the input's kind is {spec.kind!r} and its name {spec.name!r}")
    for name in ("mean", "std", "vocab", "feature_names", "value_range"):
        value = getattr(spec, name)
        numbers = name in ("mean", "std", "value_range")
        if value is None and name != "value_range":
            continue
        if not isinstance(value, tuple) or (numbers and not all(isinstance(v, (int, float)) for v in value)):
            raise InputError(f"the input's {name} is {value!r}")
    if len(spec.value_range) != 2:
        raise InputError(f"the input's value_range is {spec.value_range!r}")
    for one in spec.others:
        _check_spec(one)
