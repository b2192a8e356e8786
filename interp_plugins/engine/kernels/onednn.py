"""Which of oneDNN's operations on weights in a layout of its own this build of torch has."""

from __future__ import annotations

import torch
from torch import Tensor


def has(weight: Tensor, *names: str) -> bool:
    """Whether `torch.ops.mkldnn` has operations of these names, for a weight: float32 on a CPU."""
    fast = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    return fast and all(hasattr(torch.ops.mkldnn, name) for name in names)
