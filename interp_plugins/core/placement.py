"""Where tensors lie: moved to a device, or to where a model has its weights and in their floating-point type."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from interp_plugins.core.guard import modules_of


def moved(tree: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """Every tensor in nested containers on a device; floating-point ones in a type, if one is given."""

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype if value.is_floating_point() else None)

    return pytree.tree_map(move, tree)


def beside_weights(tree: Any, model: Any) -> Any:
    """Every tensor on the model's device and in its floating-point type; as it is where the model has no such tensor.

    Args:
        tree: tensors in nested containers.
        model: an `nn.Module`, or any callable around one; the first floating-point parameter (else buffer) counts.
    """
    roots = modules_of(model)
    tensors = (t for kind in ("parameters", "buffers") for root in roots for t in getattr(root, kind)())
    known = next((t for t in tensors if t.is_floating_point()), None)
    return tree if known is None else moved(tree, known.device, known.dtype)
