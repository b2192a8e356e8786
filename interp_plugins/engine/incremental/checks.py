"""For which models changes are followed, and whether what came of it is the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.caches import call_cache
from interp_plugins.core.forward import Forward
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.engine.incremental.boxes import Boxes
from interp_plugins.engine.incremental.trace import Unfit, opaque, trace
from interp_plugins.engine.incremental.traced_model import Reference, TracedModel
from interp_plugins.engine.meter import percent
from interp_plugins.engine.switch import kernels_enabled

_DTYPES = (torch.float32, torch.float64)


def unfit(forward: Forward, inputs: Sequence[Tensor]) -> str | None:
    """Why a model is not of the kind that changes can go through: one picture in, convolutions. None: it is."""
    x = inputs[0]
    if len(inputs) != 1 or x.ndim != 4:
        return "the input is not one picture (N, C, H, W)"
    if x.dtype not in _DTYPES:
        return f"inputs are {str(x.dtype).removeprefix('torch.')}"
    if forward.args or forward.kwargs:
        return "the model takes further arguments"
    if not isinstance(forward.func, nn.Module):
        return f"the model is a {type(forward.func).__name__}, no module"
    if torch.is_autocast_enabled(x.device.type):
        return "autocast"
    return None if any(isinstance(m, nn.Conv2d) for m in forward.func.modules()) else "no convolution"


def prepared(
    forward: Forward, inputs: Sequence[Tensor], baselines: Any, features: Any
) -> tuple[TracedModel, Reference, Boxes]:
    """The plan, the pass of the first sample and the features' boxes.

    Raises:
        Unfit: changes cannot be followed.
    """
    why = unfit(forward, inputs)
    if why is not None:
        raise Unfit(why)
    boxes = Boxes.of(inputs[0], baselines, features)
    if boxes is None:
        raise Unfit("features are spread over the picture")
    with preserved_rng():
        plan, first = plan_of(forward.func, inputs[0][:1])
    return plan, first, boxes


def off(made: Tensor, truth: Tensor, clean: Tensor) -> str | None:
    """How far outputs are off the model's own; None where it is no more than rounding allows.

    Both are rounded, the plain one in proportion to its activations, which are about as large as its outputs.
    """
    if made.shape != truth.shape or made.dtype != truth.dtype:
        return "their shape or type"
    rounding, change = 200 * torch.finfo(made.dtype).eps, (truth - clean).abs().max()
    allowed = rounding * torch.maximum(truth.abs().max(), clean.abs().max()) + 1e-3 * change
    if made.dtype == torch.float64:
        allowed = rounding * truth.abs().max() + 1e-9 * change
    if bool(((made - truth).abs() <= allowed).all()):
        return None
    return f"{percent(float((made - truth).abs().max() / change))} of the change"


def plan_of(model: Any, x: Tensor) -> tuple[TracedModel, Reference]:
    """The plan of a model, remembered while it is frozen, and the pass of a sample x (1, C, H, W).

    Raises:
        Unfit: the model cannot be traced.
    """
    why = opaque(model)
    if why is not None:
        raise Unfit(why)
    memory = call_cache()
    weights = tuple((id(p), p._version) for p in model.parameters() if not p.is_inference())
    key = ("incremental", id(model), weights, x.shape, x.dtype, x.device, kernels_enabled())
    with torch.inference_mode():
        if key in memory:
            known: TracedModel | str = memory[key][1]
            if isinstance(known, str):
                raise Unfit(known)
            return known, Reference.of(known, x)
        try:
            plan, first = TracedModel.of(trace(model), x)
        except Unfit as error:
            memory[key] = (model, str(error))
            raise
    memory[key] = (model, plan)  # with the model, so that its identity stays its own
    return plan, first
