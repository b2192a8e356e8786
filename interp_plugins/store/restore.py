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
from interp_plugins.store import table_parts
from interp_plugins.store.layout import Layout, Map
from interp_plugins.store.manifest import Manifest
from interp_plugins.store.source import sample_seed


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
        maps: their maps, likewise.
        layout: the run's layout.
        manifest: the run.
    """
    first = maps[0] if isinstance(maps, tuple) else maps
    kind = first.dtype if first.is_floating_point() and first.dtype != torch.float16 else torch.float32

    def column(name: str) -> list[Any] | None:
        values = columns[name]
        return None if all(v is None for v in values) else values

    def numeric(name: str) -> Tensor | None:
        values = column(name)
        return None if values is None else torch.tensor([np.nan if v is None else v for v in values], dtype=kind)

    def listed(name: str) -> tuple[Any, ...] | None:
        values = column(name)
        return None if values is None else tuple(values)

    def of_target(name: str) -> str:
        return table_parts.target_column(name, one.target)

    passes = {k: column(f"{one.key}.{k}") for k in ("forward_passes", "backward_passes")}
    measures = {k: columns[f"{one.key}.{k}"] for k in one.measures}
    seconds = column(f"{one.key}.seconds")
    return Explanation(
        attributions=maps,
        inputs=inputs,
        method=one.method,
        title=one.title,
        target=listed(of_target("target")),
        target_label=listed(of_target("target_label")),
        prediction=listed("prediction"),
        prediction_label=listed("prediction_label"),
        probability=numeric(of_target("probability")),
        score=numeric(of_target("score")),
        baseline_score=numeric(f"{one.key}.baseline_score"),
        convergence_delta=numeric(f"{one.key}.delta"),
        params=_params(one, columns[f"{one.key}.params"]),
        layer=one.layer,
        spec=layout.spec,
        names=listed("name"),
        seed=sample_seed(manifest.identity["seed"], numbers[0]) if len(numbers) == 1 else None,
        seconds=sum(seconds) if seconds is not None else None,
        meta={
            **layout.model,
            **{k: sum(v) for k, v in passes.items() if v is not None},
            "versions": manifest.made["versions"],
            "samples": list(numbers),
            **({"per_sample": measures} if measures else {}),
        },
    )


def _params(one: Map, own: Sequence[str | None]) -> dict[str, Any]:
    """The parameters of some samples together; what is not the same for all of them is said to vary."""
    each = [from_json(one.params if text is None else json.loads(text)) for text in own]
    return {k: v if all(p.get(k) == v for p in each) else "varies" for k, v in each[0].items()}
