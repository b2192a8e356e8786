"""Test-time augmentation: a method averaged over flipped, shifted and scaled pictures, the maps warped back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.attr.ensembles.around import AroundMethod, MeanOfRuns
from interp_plugins.attr.shared.defaults import path_defaults
from interp_plugins.attr.shared.images import check_real
from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.guard import frozen
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import Inputs, check_inputs, like

Warp = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
AUGMENTATIONS = ("flip", "shift", "scale")


def _flip(t: Tensor) -> Tensor:
    return t.flip(-1)


def _shifted(pixels: int, size: Sequence[int]) -> Warp:
    """A shift along both axes by so many pixels of an input of that size; the border is repeated."""

    def move(t: Tensor, sign: int) -> Tensor:
        for axis in (-2, -1):
            step = sign * round(pixels * t.shape[axis] / size[axis])
            place = (torch.arange(t.shape[axis], device=t.device) - step).clamp(0, t.shape[axis] - 1)
            t = t.index_select(axis, place)
        return t

    return (lambda t: move(t, 1)), (lambda t: move(t, -1))


def _scaled(factor: float) -> Warp:
    """A zoom about the centre, by bilinear sampling; what lies outside is repeated from the border."""

    def zoom(t: Tensor, by: float) -> Tensor:
        theta = torch.tensor([[1 / by, 0, 0], [0, 1 / by, 0]], dtype=t.dtype, device=t.device).expand(len(t), 2, 3)
        grid = F.affine_grid(theta, list(t.shape), align_corners=False)
        return F.grid_sample(t, grid, mode="bilinear", padding_mode="border", align_corners=False)

    return (lambda t: zoom(t, factor)), (lambda t: zoom(t, 1 / factor))


@register(
    "augmented",
    aliases=("tta", "test_time_augmentation"),
    title="Test-time augmentation",
    reference="averages over flips, shifts and scales, maps warped back",
    applies_to="image",
    defaults=path_defaults,
    cost="the inner method's, for each copy",
    assumes="flips, shifts and scales do not change the class",
)
class AugmentedAttribution(AroundMethod):
    """A method averaged over augmented pictures, each map warped back to the picture's own frame.

    Args:
        attribution_method: any object with `attribute(inputs, ...)`.
    """

    def attribute(
        self,
        inputs: Inputs,
        augmentations: Sequence[str] = AUGMENTATIONS,
        *,
        shift: int | None = None,
        scales: Sequence[float] = (0.9, 1.1),
        **kwargs: Any,
    ) -> Any:
        """The mean of the maps of the picture and of its augmented copies.

        Args:
            inputs: tensor or tuple of tensors; those with four axes (N, C, H, W) are augmented, all in the same way.
            augmentations: of "flip" (left and right), "shift" (both ways along both axes), "scale" (about the centre).
            shift: pixels; None: a twentieth of the shorter side.
            scales: factors of "scale".
            **kwargs: the inner method's arguments; baselines and masks given as tensors are not augmented.

        Raises:
            InputError: no picture among the inputs, an unknown augmentation, maps without two axes of space.
        """
        for name in augmentations:
            if name not in AUGMENTATIONS:
                raise unknown("augmentation", name, AUGMENTATIONS)
        if isinstance(scales, (int, float)) or any(not 0 < s < float("inf") for s in scales):
            raise InputError(f"scales are positive factors, such as (0.9, 1.1); got {scales!r}.")
        with frozen(self.forward_func):
            xs = check_inputs(inputs)
            check_real("Augmented attribution", xs)
            pictures = [x for x in xs if x.ndim == 4]
            if not pictures:
                raise InputError(
                    f"Flips, shifts and scales are for pictures (N, C, H, W); the inputs have shapes "
                    f"{[tuple(x.shape) for x in xs]}. Use NoiseTunnel."
                )
            size = tuple(pictures[0].shape[2:])
            step = shift if shift is not None else max(1, min(size) // 20)
            warps: list[Warp] = [((lambda t: t), (lambda t: t))]
            warps += [(_flip, _flip)] if "flip" in augmentations else []
            warps += [_shifted(s, size) for s in (step, -step)] if "shift" in augmentations else []
            warps += [_scaled(s) for s in scales] if "scale" in augmentations else []
            mean = MeanOfRuns(kwargs)
            for there, back in warps:
                maps = mean.run(self.attribution_method, like(inputs, [there(x) if x.ndim == 4 else x for x in xs]))
                mean.add([back(m) if m.ndim == 4 else m for m in maps])
            return mean.result(inputs)
