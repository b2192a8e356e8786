"""For which models changes are followed, and whether what came of it is the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.caches import call_cache
from interp_plugins.core.forward import Forward
from interp_plugins.core.guard import preserved_rng
from interp_plugins.engine.incremental.boxes import Boxes
from interp_plugins.engine.incremental.trace import is_plain, trace
from interp_plugins.engine.incremental.traced_model import Reference, TracedModel
from interp_plugins.engine.switch import enabled

_DTYPES = (torch.float32, torch.float64)


def may_pay(forward: Forward, inputs: Sequence[Tensor]) -> bool:
    """Whether a model is of the kind that changes can go through: one picture in, convolutions."""
    x = inputs[0]
    return (
        enabled()
        and len(inputs) == 1
        and x.ndim == 4
        and x.dtype in _DTYPES
        and not forward.args
        and not forward.kwargs
        and isinstance(forward.func, nn.Module)
        and not torch.is_autocast_enabled(x.device.type)
        and any(isinstance(m, nn.Conv2d) for m in forward.func.modules())
    )


def prepared(
    forward: Forward, inputs: Sequence[Tensor], baselines: Any, features: Any
) -> tuple[TracedModel, Reference, Boxes] | None:
    """The plan, the pass of the first sample and the features' boxes; None where changes cannot be followed."""
    boxes = Boxes.of(inputs[0], baselines, features) if may_pay(forward, inputs) else None
    if boxes is None:
        return None
    try:
        with preserved_rng():
            found = plan_of(forward.func, inputs[0][:1])
    except Exception:  # whatever a model may raise when it is called piece by piece
        return None
    return None if found is None else (*found, boxes)


def close(made: Tensor, truth: Tensor, clean: Tensor) -> bool:
    """Whether outputs are the model's own, as far as rounding allows.

    Both are rounded, the plain one in proportion to its activations, which are about as large as its outputs.
    """
    if made.shape != truth.shape or made.dtype != truth.dtype:
        return False
    rounding = 200 * torch.finfo(made.dtype).eps
    allowed = rounding * torch.maximum(truth.abs().max(), clean.abs().max()) + 1e-3 * (truth - clean).abs().max()
    if made.dtype == torch.float64:
        allowed = rounding * truth.abs().max() + 1e-9 * (truth - clean).abs().max()
    return bool(((made - truth).abs() <= allowed).all())


def plan_of(model: Any, x: Tensor) -> tuple[TracedModel, Reference] | None:
    """The plan of a model, remembered while it is frozen, and the pass of a sample x (1, C, H, W)."""
    if not is_plain(model):
        return None
    memory = call_cache()
    weights = tuple((id(p), p._version) for p in model.parameters() if not p.is_inference())
    key = ("incremental", id(model), weights, x.shape, x.dtype, x.device)
    with torch.inference_mode():
        if key in memory:
            plan = memory[key][1]
            return None if plan is None else (plan, Reference.of(plan, x))
        traced = trace(model)
        found = None if traced is None else TracedModel.of(traced, x)
    memory[key] = (model, None if found is None else found[0])  # with the model, so that its identity stays its own
    return found
