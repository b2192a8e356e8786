"""Numbers beside the pictures: do the reasons settle?

Maps of the same samples are compared with those of the run before (a picture cannot be read off to a hundredth), and
two numbers say how a single run's maps are: how few elements carry them, and how far their sums are from the change of
the score that they should explain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.tensors import as_tuple
from interp_plugins.metrics.similarity import cosine_similarity, spearman_correlation
from interp_plugins.metrics.sparseness import gini_index


def numbers(exp: Explanation, before: Explanation | None) -> dict[str, float]:
    """What one run of one method is worth in numbers, over its samples; a number that is not defined is left out.

    Args:
        exp: the explanation.
        before: that of the run before, or None.

    Returns:
        sparseness: mean Gini index of the absolute map, 0 (spread evenly) to 1 (one element).
        completeness_error: median of `exp.relative_delta`. A median, because the error is relative to a difference of
            scores that can be close to zero for a single sample.
        cosine_to_previous, rank_correlation_to_previous: means of both similarities to the map of the run before.
        target_changed: share of the samples whose explained class is another one than in the run before; their maps
            answer another question, and the similarities fall for that reason alone.
        The last three only where the run before explained the same samples.
    """
    found: dict[str, float] = {"sparseness": _mean(gini_index(one.attributions) for one in _apart(exp))}
    if exp.relative_delta is not None:
        found["completeness_error"] = _over(torch.nanmedian, exp.relative_delta)
    if before is not None and _comparable(exp, before):
        pairs = [(a.attributions, b.attributions) for a, b in zip(_apart(exp), _apart(before), strict=True)]
        found["cosine_to_previous"] = _mean(cosine_similarity(a, b) for a, b in pairs)
        found["rank_correlation_to_previous"] = _mean(spearman_correlation(a, b) for a, b in pairs)
        if exp.target is not None and before.target is not None:
            changed = [a != b for a, b in zip(exp.target, before.target, strict=True)]
            found["target_changed"] = sum(changed) / len(changed)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def rows(
    exps: Explanations, before: Explanations | None, judged: Sequence[Mapping[str, float]] = (), **facts: Any
) -> list[dict[str, Any]]:
    """A row per explanation: `facts`, which explanation it is, its numbers and its cost.

    Args:
        exps: the explanations of one run.
        before: those of the run before, in the same order, or None.
        judged: numbers of metrics, an entry per explanation; empty: none.
        **facts: epoch, step and whatever else is the same for all rows.
    """
    earlier = list(before) if before is not None and len(before) == len(exps) else [None] * len(exps)
    return [
        {
            **facts,
            "series": name,
            "method": exp.method,
            "layer": exp.layer,
            **numbers(exp, old),
            "seconds": exp.seconds,
            **{k: exp.meta[k] for k in ("forward_passes", "backward_passes") if k in exp.meta},
            **more,
        }
        for name, exp, old, more in zip(exps.labels, exps, earlier, judged or [{}] * len(exps), strict=True)
    ]


MEASURES = (
    "cosine_to_previous",
    "rank_correlation_to_previous",
    "target_changed",
    "sparseness",
    "completeness_error",
)


def logged(found: list[dict[str, Any]], prefix: str, also: Sequence[str] = ()) -> dict[str, float]:
    """The rows of one run as a logger takes them: `prefix/series/measure` -> number.

    Args:
        found: the rows.
        prefix: of every name.
        also: measures beside `MEASURES`.
    """
    names = (*MEASURES, *also)
    return {f"{prefix}/{row['series']}/{name}": row[name] for row in found for name in names if name in row}


def _over(statistic: Callable[[Tensor], Tensor], values: Tensor) -> float:
    return float(statistic(values.to(torch.float64)))


def _mean(parts: Iterable[Tensor]) -> float:
    return _over(torch.nanmean, torch.cat(list(parts)))


def _apart(exp: Explanation) -> list[Explanation]:
    """Samples of different sizes each alone, without what fills them up to stand side by side; others as they are."""
    pictures = exp.meta.get("per_sample", {}).get("input_size", ())
    sizes = {len(tokens) for tokens in exp.tokens or ()} | {tuple(size) for size in pictures}
    return [exp] if len(sizes) < 2 else [exp[i] for i in range(len(exp))]


def _comparable(one: Explanation, other: Explanation) -> bool:
    """The same method at the same place of the same samples."""
    if (one.method, one.layer) != (other.method, other.layer):
        return False
    inputs = list(zip(as_tuple(one.inputs), as_tuple(other.inputs)))
    maps = [[x.shape for x in as_tuple(e.attributions)] for e in (one, other)]
    return maps[0] == maps[1] and all(a.shape == b.shape and bool(torch.equal(a, b)) for a, b in inputs)
