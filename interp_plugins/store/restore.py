"""What was stored of some samples, as the `Explanation` that `explain` gave for them (baselines are not kept)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.explanation import Explanation
from interp_plugins.core.metadata import from_json
from interp_plugins.core.random import sample_seed
from interp_plugins.store import table_parts
from interp_plugins.store.layout import Layout, Map
from interp_plugins.store.manifest import Manifest


def restored(
    one: Map,
    numbers: Sequence[int],
    columns: Mapping[str, list[Any]],
    inputs: Any,
    maps: Any,
    layout: Layout,
    manifest: Manifest,
) -> Explanation:
    """One method's explanation of some samples.

    Args:
        one: the map.
        numbers: the samples.
        columns: their rows of the table: column -> values.
        inputs: their inputs, a tensor or a tuple.
        maps: their maps, a tensor or a tuple.
        layout: the run's layout.
        manifest: the run.
    """
    of = _Rows(columns, _dtype(maps))

    def of_target(name: str) -> str:
        return table_parts.target_column(name, one.target)

    seconds = of.column(f"{one.key}.seconds")
    engine = manifest.made.get("engine", {}).get(one.key)
    return Explanation(
        attributions=maps,
        inputs=inputs,
        method=one.method,
        title=one.title,
        target=of.listed(of_target("target")),
        target_label=of.listed(of_target("target_label")),
        prediction=of.listed("prediction"),
        prediction_label=of.listed("prediction_label"),
        probability=of.numeric(of_target("probability")),
        score=of.numeric(of_target("score")),
        baseline_score=of.numeric(f"{one.key}.baseline_score"),
        convergence_delta=of.numeric(f"{one.key}.delta"),
        params=_params(one, columns[f"{one.key}.params"]),
        layer=one.layer,
        spec=layout.spec,
        names=of.listed("name"),
        seed=sample_seed(manifest.identity["seed"], numbers[0]) if len(numbers) == 1 else None,
        seconds=sum(seconds) if seconds is not None else None,
        meta={
            **layout.model,
            **of.summed(one, ("forward_passes", "backward_passes")),
            "versions": manifest.made["versions"],
            **({"engine": engine} if engine is not None else {}),
            **_precision(manifest.made.get("precision", {}).get(one.key), columns.get(f"{one.key}.precision_error")),
            "samples": list(numbers),
            **({"per_sample": {k: columns[f"{one.key}.{k}"] for k in one.measures}} if one.measures else {}),
        },
    )


class _Rows:
    """The samples' rows of the table, column by column; a column of nothing but None is None.

    Args:
        columns: column -> values.
        dtype: of numbers, the maps' own.
    """

    def __init__(self, columns: Mapping[str, list[Any]], dtype: torch.dtype):
        self.columns, self.dtype = columns, dtype

    def column(self, name: str) -> list[Any] | None:
        """The values of a column; None where it holds nothing."""
        values = self.columns[name]
        return None if all(v is None for v in values) else values

    def numeric(self, name: str) -> Tensor | None:
        """A column as a tensor, NaN where a value is missing."""
        values = self.column(name)
        return None if values is None else torch.tensor([np.nan if v is None else v for v in values], dtype=self.dtype)

    def listed(self, name: str) -> tuple[Any, ...] | None:
        """A column as `Explanation` holds what is not a number."""
        values = self.column(name)
        return None if values is None else tuple(values)

    def summed(self, one: Map, names: Sequence[str]) -> dict[str, Any]:
        """The sums of some of a map's columns; those without values are left out."""
        columns = {name: self.column(f"{one.key}.{name}") for name in names}
        return {name: sum(values) for name, values in columns.items() if values is not None}


def _dtype(maps: Any) -> torch.dtype:
    """The type of the scores that were explained by maps: theirs, half precision and whole numbers as float32."""
    first = maps[0] if isinstance(maps, tuple) else maps
    return first.dtype if first.is_floating_point() and first.dtype != torch.float16 else torch.float32


def _precision(first: Mapping[str, Any] | None, errors: list[Any] | None) -> dict[str, Any]:
    """What `meta` says of a lower precision: how the run began, with the largest error of these samples."""
    if first is None or errors is None:
        return {}
    return {"precision": {**first, "map_error": max(v or 0.0 for v in errors)}}


def _params(one: Map, own: Sequence[str | None]) -> dict[str, Any]:
    """The parameters of some samples together; what is not the same for all of them is said to vary."""
    each = [from_json(one.params if text is None else json.loads(text)) for text in own]
    return {k: v if all(p.get(k) == v for p in each) else "varies" for k, v in each[0].items()}
