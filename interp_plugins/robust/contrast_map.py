"""The map beside a counterfactual: why the class that was said, rather than the one that is said afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.explain import explain
from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import RatherThan
from interp_plugins.core.tensors import Inputs, as_tuple
from interp_plugins.metrics.rows import element_rows
from interp_plugins.metrics.similarity import spearman_correlation


@dataclass(frozen=True, eq=False)
class ContrastMaps:
    """Maps of the samples whose class changed.

    Attributes:
        rows: the numbers of these samples.
        maps: their maps, of the inputs as they were: what speaks for the class before rather than that afterwards.
        agreement: how alike the sizes of each map and of the change are (Spearman), (R,) float64.
    """

    rows: tuple[int, ...]
    maps: Explanation
    agreement: Tensor


def contrast_maps(
    model: Callable[..., Any],
    inputs: Inputs,
    delta: Inputs,
    classes: Sequence[tuple[int, int]],
    spec: InputSpec,
    method: Any,
    options: dict[str, Any],
) -> ContrastMaps:
    """Maps of the difference of two classes, beside what changed.

    Args:
        model: the model that was asked.
        inputs: as they were.
        delta: what changed, in raw units.
        classes: of each sample the class before and the one afterwards.
        spec: facts about the inputs.
        method: as for `explain`; None: its first default.
        options: further arguments of `explain`.

    Raises:
        InputError: no class changed, or several methods.
    """
    rows = [i for i, (before, after) in enumerate(classes) if before != after]
    if not rows:
        raise InputError("No class changed, so there are no two to be compared.")
    at = torch.tensor(rows)
    chosen = tuple(x[at] for x in as_tuple(inputs))
    before, after = (torch.tensor([classes[i][k] for i in rows]) for k in (0, 1))
    found = explain(
        model,
        chosen if isinstance(inputs, tuple) else chosen[0],
        method,
        target=RatherThan(before, after),
        input_spec=spec,
        **{"progress": False, **options},
    )
    if method is not None and len(found) != 1:
        raise InputError(f"One method at a time stands beside a change, and {len(found)} were named.")
    return ContrastMaps(tuple(rows), found[0], _agreement(found[0], [d[at] for d in as_tuple(delta)]))


def _agreement(exp: Explanation, delta: Sequence[Tensor]) -> Tensor:
    """Spearman of the sizes of a map and a change, place by place; NaN of several inputs that have no one layout."""
    one = exp.attributions
    if isinstance(one, tuple) or len(delta) > 1:
        return torch.full((len(delta[0]),), torch.nan, dtype=torch.float64)
    change = delta[0].detach().double().abs()
    if one.ndim >= 3:
        change = change.sum(1, keepdim=True)
        if change.shape[2:] != one.shape[2:]:
            change = torch.nn.functional.interpolate(change, size=tuple(one.shape[2:]), mode="area")
    return spearman_correlation(element_rows(exp, "sum").abs(), change.flatten(1))
