"""What a run stores: one map per method and target, each as one or more arrays, and the columns of the table.

The layout is read off the first sample's explanations when a run begins, and kept in the manifest.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core import metadata
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple
from interp_plugins.store.errors import StoreError

INPUTS = "inputs"
_PART = re.compile(r"[^\W.][\w .+@()=,-]*")
_DTYPES = {"bool", "uint8", "float16", "float32", "float64", "complex64", "complex128"}
_DTYPES |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def to_json(value: Any) -> Any:
    """A JSON value, exactly as it will be read back (`metadata.from_json` makes tuples again)."""
    plain = metadata.to_json(dict(value) if isinstance(value, Mapping) else value)
    return json.loads(json.dumps(plain, allow_nan=False))


@dataclass(frozen=True)
class Array:
    """One stored array; its first axis is the samples."""

    name: str
    shape: tuple[int, ...]  # of one sample
    dtype: str

    def __post_init__(self) -> None:
        parts = self.name.split("/") if isinstance(self.name, str) else [""]
        if any(part in ("", ".", "..") or not _PART.fullmatch(part) for part in parts):
            raise StoreError(
                f"{self.name!r} cannot name an array, since arrays are folders inside the run directory: it may hold "
                "letters, digits, spaces and -_.+@()=, and single slashes inside, and no part may begin with a dot. "
                "Register the method under such a name."
            )
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in self.shape):
            raise StoreError(f"{self.name} cannot have the shape {self.shape}.")
        if self.dtype not in _DTYPES:
            raise StoreError(f"{self.name} cannot be stored as {self.dtype!r}; known: {', '.join(sorted(_DTYPES))}.")


@dataclass(frozen=True)
class Map:
    """One method's map for one target.

    Attributes:
        key: name in the store, unique.
        method: registered name of the method.
        title: its name for people.
        target: number of the target, where several were asked for.
        params: parameters of the first sample, as an `Explanation` shows them, as JSON values.
        layer: layer explained, or None.
        arrays: one per input, or several tensors of a layer.
        several: whether the attributions are a tuple.
        measures: what the method reports per sample beside the map (error reached, ...).
    """

    key: str
    method: str
    title: str
    target: int
    params: Any
    layer: str | None
    arrays: tuple[Array, ...]
    several: bool
    measures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """All maps of a run, its inputs (none if they are not kept), and what is known of the inputs."""

    maps: tuple[Map, ...]
    inputs: tuple[Array, ...]
    inputs_several: bool
    spec: InputSpec
    model: dict[str, Any] = field(default_factory=dict)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Every array that a run stores."""
        return (*(a for m in self.maps for a in m.arrays), *self.inputs)

    @property
    def targets(self) -> int:
        """Number of targets per sample."""
        return 1 + max(m.target for m in self.maps)

    def to_json(self) -> dict[str, Any]:
        """The layout as the manifest keeps it."""
        return {
            "maps": [dataclasses.asdict(m) for m in self.maps],
            "inputs": [dataclasses.asdict(a) for a in self.inputs],
            "inputs_several": self.inputs_several,
            "spec": to_json(dataclasses.asdict(self.spec)),
            "model": self.model,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Layout:
        """Read back what `to_json` gave."""
        maps = [Map(**{**m, "arrays": _arrays(m["arrays"]), "measures": tuple(m["measures"])}) for m in value["maps"]]
        spec = InputSpec(**metadata.from_json(value["spec"]))
        return cls(tuple(maps), _arrays(value["inputs"]), value["inputs_several"], spec, value["model"])


def _arrays(values: Sequence[dict[str, Any]]) -> tuple[Array, ...]:
    return tuple(Array(v["name"], tuple(v["shape"]), v["dtype"]) for v in values)


def layout_of(first: Explanations, dtype: str | None, save_inputs: bool) -> Layout:
    """The layout of a run, from its first sample's explanations.

    Args:
        first: the explanations of a sample.
        dtype: floating-point type in which maps are kept; None: as computed.
        save_inputs: whether the inputs are kept.
    """
    targets = _targets(first)
    maps = []
    taken = {INPUTS}
    for number, exp in enumerate(first):
        key = exp.method
        count = 2
        while key in taken:
            key, count = f"{exp.method}_{count}", count + 1
        taken.add(key)
        many = as_tuple(exp.attributions)
        arrays = tuple(_array(f"{key}/{j}" if len(many) > 1 else key, t, dtype) for j, t in enumerate(many))
        measures = tuple(k for k, v in exp.meta.get("per_sample", {}).items() if isinstance(v[0], (int, float)))
        maps.append(
            Map(
                key=key,
                method=exp.method,
                title=exp.title,
                target=number % targets,
                params=to_json(dict(exp.params)),
                layer=exp.layer,
                arrays=arrays,
                several=isinstance(exp.attributions, tuple),
                measures=measures,
            )
        )
    many = as_tuple(first[0].inputs)
    inputs = [_array(f"{INPUTS}/{j}" if len(many) > 1 else INPUTS, t, None) for j, t in enumerate(many)]
    facts = {k: first[0].meta[k] for k in ("model", "fingerprint") if k in first[0].meta}
    several = isinstance(first[0].inputs, tuple)
    return Layout(tuple(maps), tuple(inputs) if save_inputs else (), several, first[0].spec, facts)


def _targets(exps: Explanations) -> int:
    """Targets per method: explanations come method by method, with the same number of targets each."""
    count = 1
    while count < len(exps) and _same_method(exps[0], exps[count]):
        count += 1
    return count if len(exps) % count == 0 else 1


def _same_method(a: Explanation, b: Explanation) -> bool:
    return (a.method, a.title, dict(a.params), a.layer) == (b.method, b.title, dict(b.params), b.layer)


def _array(name: str, value: Tensor, dtype: str | None) -> Array:
    kept = value.dtype
    if dtype is not None and kept.is_floating_point:
        kept = getattr(torch, dtype)
    if kept == torch.bfloat16:  # arrays have no such type; float32 holds it exactly
        kept = torch.float32
    return Array(name, tuple(value.shape[1:]), str(kept).removeprefix("torch."))
