"""What incremental occlusion saves on a network, layer by layer, without computing anything."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import nn

from interp_plugins.core.features import Windows
from interp_plugins.core.forward import Forward
from interp_plugins.engine.incremental.boxes import Boxes
from interp_plugins.engine.incremental.engine import PIECE, Incremental
from interp_plugins.engine.incremental.trace import Unfit, trace
from interp_plugins.engine.incremental.traced_model import TracedModel


@dataclass(frozen=True)
class Cost:
    """Multiplications of one layer, averaged over the windows: in the plain model, and incrementally."""

    layer: str
    plain: float
    incremental: float


def occlusion_cost(model: nn.Module, shape: tuple[int, int, int], window: int, stride: int) -> list[Cost] | None:
    """Multiplications of convolutions and channel-wise linear layers for all windows of an occlusion.

    Shapes alone are followed (on torch's "meta" device, on a copy of the model). Calls that need the whole
    tensor (attention, an unknown function) are one entry, estimated as each weight once per position.

    Args:
        model: the network.
        shape: (C, H, W) of a picture.
        window: side of the square window over all channels.
        stride: its step.

    Returns:
        One `Cost` per layer, or None for a model that cannot be traced.
    """
    x = torch.empty(1, *shape, device="meta")
    try:
        traced = trace(copy.deepcopy(model).eval().to("meta"))
    except Unfit:
        return None
    features = Windows((x,), (shape[0], window, window), (shape[0], stride, stride))
    boxes = Boxes.of(x, [torch.empty_like(x)], features)
    if boxes is None:
        return None
    with torch.inference_mode():
        plan, first = TracedModel.of(traced, x)
        incremental = Incremental(plan, first, Forward(model, 1), x, boxes)
        done: dict[str, float] = defaultdict(float)
        for start in range(0, len(features), PIECE):
            rows = incremental.rows(0, incremental.order[start : start + PIECE])
            rows.output()
            for node, products in rows.products.items():
                done[str(node.name)] += products / len(features)
    left = [Cost("calls left to the model", plan.others, plan.others)] if plan.others else []
    plain = {str(n.name): full for n, full in plan.products.items()}
    return [Cost(name, full, done[name]) for name, full in plain.items() if full] + left
