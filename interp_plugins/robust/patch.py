"""`Patch`: one small picture that turns a model wherever it is put (Brown et al. 2017, arXiv:1712.09665)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.shared.base import prepared
from interp_plugins.core.errors import InputError
from interp_plugins.core.random import make_generator
from interp_plugins.robust.bounds import Bounds
from interp_plugins.robust.climb import Climb
from interp_plugins.robust.perturbation import Perturbation


class Patch(Perturbation):
    """One patch for all pictures of a batch, which climbs what turns the model away from each picture's class.

    Args:
        forward_func: an `nn.Module` or any callable.
        loss_func: as for `FGSM`.
        lower_bound: smallest value of the patch, in units of the inputs.
        upper_bound: largest value.

    Attributes:
        patch: the last patch that was made, (1, C, h, w); None before.

    Example:
        from interp_plugins.robust import Patch

        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        Patch(net).perturb(torch.rand(2, 1, 8, 8), 3, target=0, steps=5).shape  # -> (2, 1, 8, 8)
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        loss_func: Callable[..., Any] | None = None,
        lower_bound: float = 0.0,
        upper_bound: float = 1.0,
    ):
        self.forward_func, self.loss_func = forward_func, loss_func
        self._bounds = Bounds(lower_bound, upper_bound)
        self.patch: Tensor | None = None

    def perturb(
        self,
        inputs: Tensor,
        size: int | tuple[int, int],
        target: Any,
        additional_forward_args: Any = None,
        targeted: bool = False,
        place: tuple[int, int] | None = None,
        *,
        steps: int = 100,
        step_size: float | None = None,
        seed: int = 0,
    ) -> Tensor:
        """The pictures with the patch.

        Args:
            inputs: (N, C, H, W).
            size: of the patch, one side or (height, width), in pixels.
            target: the class to be left, as for `FGSM`, or with `targeted` the class to be reached.
            additional_forward_args: further arguments of the model.
            targeted: step towards the target.
            place: (top, left) of the patch; None: another place for every picture and step, so that it works anywhere.
            steps: number of steps, at least 1.
            step_size: of every element's step; None: a fiftieth of the range.
            seed: of the places.

        Returns:
            Pictures of the same shape, with the patch at `place` or at places that were drawn.

        Raises:
            InputError: no pictures, a patch that does not fit, no steps.

        Example:
            net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
            Patch(net).perturb(torch.rand(2, 1, 8, 8), 3, 0, place=(1, 2), steps=5).shape  # -> (2, 1, 8, 8)
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise InputError(f"steps must be a positive int, got {steps!r}.")
        with prepared(self.forward_func, inputs, None, additional_forward_args) as (xs, forward):
            x, high = xs[0], float(torch.as_tensor(self._bounds.upper).max())
            low = float(torch.as_tensor(self._bounds.lower).min())
            h, w = _fitting(xs, size, place)
            step = (high - low) / 50 if step_size is None else float(step_size)
            climb = Climb.of(forward, self.loss_func, target, targeted, 0.0)
            generator = make_generator(seed)
            patch = torch.full((1, x.shape[1], h, w), (low + high) / 2, dtype=x.dtype, device=x.device)
            for _ in range(steps):
                at = _places(x, h, w, place, generator)
                (grad,) = climb.gradient([_put(x, patch, at)])
                grad = grad.reshape(x.shape)
                cut = torch.stack([g[:, i : i + h, j : j + w] for g, (i, j) in zip(grad, at, strict=True)])
                scale = cut.abs().flatten(1).amax(1).clamp_min(1e-30).reshape(-1, 1, 1, 1)  # each picture counts alike
                patch = self._bounds(patch + step * (cut / scale).mean(0, keepdim=True).sign())
            self.patch = patch.detach()
            return _put(x, self.patch, _places(x, h, w, place, generator))


def _fitting(xs: tuple[Tensor, ...], size: Any, place: Any) -> tuple[int, int]:
    """The patch's height and width."""
    if len(xs) != 1 or xs[0].ndim != 4:
        raise InputError("A patch is put on pictures (N, C, H, W), and one input alone.")
    both = (size, size) if isinstance(size, int) and not isinstance(size, bool) else size
    height, width = xs[0].shape[2:]
    whole = lambda pair: (  # noqa: E731
        isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(v, int) and not isinstance(v, bool) for v in pair)
    )
    if not whole(both) or not (0 < both[0] <= height and 0 < both[1] <= width):
        raise InputError(f"size is one side or (height, width) of a patch within {height} x {width}, got {size!r}.")
    if place is not None and not (whole(place) and 0 <= place[0] <= height - both[0] <= height):
        raise InputError(f"place is (top, left) of the patch, got {place!r}.")
    if place is not None and not 0 <= place[1] <= width - both[1]:
        raise InputError(f"A patch of {both[0]} x {both[1]} at {place} leaves the picture of {height} x {width}.")
    return int(both[0]), int(both[1])


def _places(x: Tensor, h: int, w: int, place: Any, generator: torch.Generator) -> list[tuple[int, int]]:
    if place is not None:
        return [place] * len(x)
    rows, columns = (
        torch.randint(n - m + 1, (len(x),), generator=generator).tolist()
        for n, m in zip(x.shape[2:], (h, w), strict=True)
    )
    return list(zip(rows, columns, strict=True))


def _put(x: Tensor, patch: Tensor, at: list[tuple[int, int]]) -> Tensor:
    moved = x.detach().clone()
    for one, (i, j) in zip(moved, at, strict=True):
        one[:, i : i + patch.shape[2], j : j + patch.shape[3]] = patch[0]
    return moved
