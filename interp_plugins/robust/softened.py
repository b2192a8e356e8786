"""`Softened`: a model whose rectifiers have no corners, for the length of a `with` block.

The gradient of a network of rectifiers is constant between corners, so it has no slope to climb. With softplus in
their place it has one (Dombrowski et al. 2019, arXiv:1906.07983, section 4; Ghorbani et al. 2019, arXiv:1710.10547, for
the attack). Nothing is put on the model: its calls are answered otherwise while the block lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from interp_plugins.attr.backward.rules.names import op_name

_BETA = 10.0  # corners are as round as a tenth of a row's root mean square


def _relu(x: Tensor, at: float = 0.0) -> Tensor:
    """max(x - at, 0), rounded."""
    spread = x.detach().reshape(len(x), -1).square().mean(1).sqrt()
    sharp = (_BETA / spread.clamp_min(1e-6)).reshape(-1, *[1] * (x.ndim - 1))
    found: Tensor = F.softplus((x - at) * sharp) / sharp
    return found


def _hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    return min_val + _relu(x, min_val) - _relu(x, max_val)


def _leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    return negative_slope * x + (1 - negative_slope) * _relu(x)


def _clamp(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    if not all(b is None or isinstance(b, (int, float)) for b in (min, max)):
        return x.clamp(min, max)
    risen = x if min is None else min + _relu(x, min)
    return risen if max is None else risen - _relu(x, max)


_SMOOTH: dict[str, Callable[..., Tensor]] = {
    "relu": _relu,
    "relu6": lambda x: _hardtanh(x, 0.0, 6.0),
    "hardtanh": _hardtanh,
    "leaky_relu": _leaky_relu,
    "clamp": _clamp,
    "hardswish": lambda x: x * (_relu(x, -3.0) - _relu(x, 3.0)) / 6,
    "hardsigmoid": lambda x: (_relu(x, -3.0) - _relu(x, 3.0)) / 6,
}


class Softened(TorchFunctionMode):
    """Every rectifier that is called inside the block is rounded, as far as each row's own size says."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The rounded function for a rectifier, torch's own for everything else."""
        given = dict(kwargs or {})
        name, in_place = op_name(func)
        smooth = _SMOOTH.get(name)
        x = args[0] if args else given.get("input")
        if smooth is None or "out" in given or not isinstance(x, Tensor) or not (x.requires_grad and x.ndim):
            return func(*args, **given)
        in_place = bool(given.pop("inplace", False)) or in_place
        given.pop("input", None)
        rest = args[1:]
        if name in ("relu", "relu6", "hardswish", "hardsigmoid"):
            rest, given = (), {}
        elif name in ("leaky_relu", "hardtanh") and rest and isinstance(rest[-1], bool):
            rest, in_place = rest[:-1], in_place or rest[-1]
        if name == "clamp" and not torch.is_floating_point(x):
            return func(*args, **(kwargs or {}))
        result = smooth(x, *rest, **given)
        return x.copy_(result) if in_place else result
