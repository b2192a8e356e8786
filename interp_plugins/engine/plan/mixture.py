"""Gradients of one fixed mixture of all outputs, by which two functions are compared: a sum may hide what it sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.tensors import is_float, tensors_in


def waves(like: Tensor) -> Tensor:
    """Numbers between -1 and 1, without drawing any."""
    return torch.arange(like.numel(), dtype=torch.float32).add_(1).cos_().view(like.shape).to(like)


def mixture_gradients(output: Any, leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients of the outputs' mixture at some tensors; None where it does not depend on one."""
    parts = [(t * waves(t)).sum() for t in tensors_in(output) if is_float(t) and t.requires_grad]
    usable = [leaf for leaf in leaves if leaf.requires_grad]
    if not parts or not usable:
        return [None] * len(leaves)
    found = iter(torch.autograd.grad(parts, usable, allow_unused=True))
    return [next(found) if leaf.requires_grad else None for leaf in leaves]
