"""What a metric that asks a method again will cost: its rows, known before it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from interp_plugins.core.errors import InputError
from interp_plugins.core.other_weights import held_by, is_drawable
from interp_plugins.metrics.again import Again, Passes, asking_again
from interp_plugins.metrics.registry import REPEATING, metric_info

ASKED = ("target", "additional_forward_args", "baselines", "batch_size", "seed")


def own_passes(again: Again) -> tuple[int, int]:
    """Rows, forward and backward, of one map: the first sample is explained, and that is counted."""
    before = again.passes.forward, again.passes.backward
    again.maps(tuple(x[:1] for x in again.xs), torch.tensor([0]))
    return again.passes.forward - before[0], again.passes.backward - before[1]


def planned_passes(name: str, forward_func: Callable[..., Any], inputs: Any, **params: Any) -> Passes:
    """Rows forward and backward that a metric will send through the model, for all samples.

    The method's own cost is measured: it explains one sample. The figures are exact for methods that take as many rows
    for every sample, and leave out the row probe (`interp_plugins.row_probe`). For methods that look at a layer once a
    call (class activation maps) they are an upper bound, since samples share a call; where the method itself decides
    how many rows a sample takes (`tol=`) they are an estimate from the first sample.

    Args:
        name: of a metric that asks a method again; see `list_metrics(needs="explainer")` and `needs="weights"`.
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, or an `Explanation`.
        **params: those of the metric, `explain=` among them.

    Raises:
        InputError: a metric that asks no method, or whose rows cannot be told.

    Example:
        planned_passes("sensitivity_avg", model, exp, n_neighbours=3).forward > 0  # -> True
    """
    info = metric_info(name)
    if info.needs not in REPEATING or info.rows is None:
        raise InputError(f"{info.name} asks no method again; what it costs a sample: {info.cost} forward rows.")
    shared = {key: params[key] for key in ASKED if key in params}
    with asking_again(params.get("explain"), forward_func, inputs, **shared) as again:
        found = again.passes.forward, again.passes.backward  # what looking for a layer took
        facts = {"places": len(again.places(again.xs[0], 0))}
        if info.needs == "weights":
            facts["layers"] = len({id(p.module) for p in held_by(forward_func) if is_drawable(p)})
        forward, backward = info.rows(again.n, own_passes(again), {**facts, **params})
    return Passes(found[0] + forward, found[1] + backward)
