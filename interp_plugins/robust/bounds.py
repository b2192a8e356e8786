"""What holds the changes of an attack: smallest and largest values, and masks of what may change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.tensors import as_tuple, describe

_NEAR = 1e-4  # of the range: rounding of a normalisation and back


class Bounds:
    """Smallest and largest values of inputs.

    Args:
        lower: smallest values, a number or a tensor that broadcasts over an input.
        upper: largest values, a number or a tensor that broadcasts over an input.
    """

    def __init__(self, lower: float | Tensor, upper: float | Tensor):
        self.lower, self.upper = lower, upper
        if bool((torch.as_tensor(lower) > torch.as_tensor(upper)).any()):
            raise InputError(f"lower_bound is above upper_bound: {lower} and {upper}.")

    def __call__(self, x: Tensor) -> Tensor:
        """The nearest values between them."""
        lower, upper = (torch.as_tensor(b, dtype=x.dtype, device=x.device) for b in (self.lower, self.upper))
        return x.clamp(min=lower, max=upper)

    def check(self, inputs: Sequence[Tensor]) -> None:
        """Refuse inputs that lie outside: an attack would move them further than it says."""
        width = float((torch.as_tensor(self.upper) - torch.as_tensor(self.lower)).max())
        for i, x in enumerate(inputs):
            if float((x - self(x)).abs().max()) > _NEAR * (width if width < torch.inf else 1.0):
                raise InputError(
                    f"inputs[{i}] has values from {float(x.min()):.4g} to {float(x.max()):.4g}, outside of lower_bound "
                    f"{self.lower} and upper_bound {self.upper}. {self._looks_like(x)}"
                )

    def _looks_like(self, x: Tensor) -> str:
        """What such values may be, and what to do."""
        if float(x.min()) >= 0 and 2 < float(x.max()) <= 255 and float(torch.as_tensor(self.upper).max()) <= 1:
            return "These look like pictures of 0 to 255: divide by 255."
        return (
            "These look normalised by other numbers than are known here: say by which, "
            "InputSpec('image', mean=..., std=...), or which bounds= your data have."
        )


def check_masks(mask: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Which elements may change, 1 or 0, as rows (N, D) per input; all of them without a mask.

    Raises:
        InputError: other values than 0 and 1, or a shape that does not broadcast to the input's.
    """
    masks = as_tuple(mask) if mask is not None else (1,) * len(inputs)
    if len(masks) != len(inputs):
        raise InputError(f"mask has {len(masks)} tensors for {len(inputs)} inputs; give one for each.")
    found = []
    for i, (m, x) in enumerate(zip(masks, inputs, strict=True)):
        one = torch.as_tensor(m, device=x.device)
        if not bool(((one == 0) | (one == 1)).all()):
            raise InputError(f"mask[{i}] must hold zeros and ones (0: stays as it is), got {describe(m)}.")
        try:
            full = one.to(x.dtype).expand(x.shape)
        except RuntimeError:
            raise InputError(
                f"mask[{i}] has shape {tuple(one.shape)}, which does not broadcast to the input's {tuple(x.shape)}."
            ) from None
        found.append(full.reshape(len(x), -1))
    if found and all(not bool(one.any()) for one in found):
        raise InputError("mask is zero everywhere (0: stays as it is), so nothing may change.")
    return found
