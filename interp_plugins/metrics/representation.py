"""The layer in which neighbours are compared where none is named: what the last module with weights gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from interp_plugins.core.guard import modules_below, modules_of
from interp_plugins.core.hooks import hooked
from interp_plugins.core.layers import Layer
from interp_plugins.core.tensors import is_float, tensors_in

if TYPE_CHECKING:
    from interp_plugins.metrics.again import Again


def last_representation(again: Again) -> Layer | None:
    """The input of the last module with weights that a pass of the samples calls; None where there is none.

    A model whose only module with weights is the first thing it calls shows its own input there.
    """
    order: list[nn.Module] = []
    weighted = [m for m in modules_below(modules_of(again.func)) if any(p is not None for p in m._parameters.values())]
    if not weighted:
        return None

    def note(module: nn.Module, args: Any) -> None:
        if any(is_float(t) and t.ndim > 1 for t in tensors_in(args)):
            order.append(module)

    with hooked() as hooks, torch.no_grad():
        for module in weighted:
            hooks.before(module, note)
        again.outputs()
    return Layer(order[-1], "input", call=-1) if order else None
