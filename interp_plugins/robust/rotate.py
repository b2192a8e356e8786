"""`Rotate`: pictures turned about their middle and moved, as a camera does."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.tensors import check_inputs, is_float
from interp_plugins.robust.perturbation import Perturbation


class Rotate(Perturbation):
    """Pictures turned about their middle and moved, read bilinearly.

    For `MinParamPerturbation` (from which angle is the model turned?) and `AttackComparator`.

    Args:
        fill: what stands where the picture ends, in units of the inputs.

    Example:
        from interp_plugins.robust import Rotate

        x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        Rotate().perturb(x, 90.0).round().tolist()  # -> [[[[2.0, 4.0], [1.0, 3.0]]]]
    """

    def __init__(self, fill: float = 0.0):
        self.fill = float(fill)

    def perturb(self, inputs: Tensor, degrees: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        """The pictures, turned and then moved.

        Args:
            inputs: (N, C, H, W).
            degrees: anticlockwise.
            shift: pixels down and to the right.

        Returns:
            Pictures of the same shape.

        Raises:
            InputError: no pictures, angles or ways that are no numbers.

        Example:
            Rotate(fill=0.5).perturb(torch.zeros(1, 1, 4, 4), shift=(1, 0))[0, 0, 0].tolist()  # -> [0.5, 0.5, 0.5, 0.5]
        """
        (x,) = check_inputs(inputs)
        if x.ndim != 4 or not is_float(x):
            raise InputError(f"Rotate turns pictures (N, C, H, W) of floats, got shape {tuple(x.shape)}.")
        numbers = (degrees, *shift)
        if len(numbers) != 3 or not all(_is_number(v) for v in numbers):
            raise InputError(f"degrees and shift=(down, right) are numbers, got {degrees!r} and {shift!r}.")
        height, width = x.shape[2:]
        down, right = (torch.arange(n, dtype=x.dtype, device=x.device) - (n - 1) / 2 for n in (height, width))
        down, right = (down - shift[0])[:, None], (right - shift[1])[None]
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        across, along = cos * right - sin * down, sin * right + cos * down  # where each pixel comes from
        grid = torch.stack([2 * across / width, 2 * along / height], -1).expand(len(x), -1, -1, -1)
        found: Tensor = F.grid_sample(x - self.fill, grid, align_corners=False, padding_mode="zeros") + self.fill
        return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
