"""How the model sees the picture at each step: turned, scaled and shifted a little, in one resampling.

A picture that must excite the unit however it lies a little cannot be noise that fits one position. One affine map per
row, drawn from the row's own generator, brings the picture straight to the model's input size. All sizes are shares of
the picture's side, so that they mean the same at 32 and at 512 pixels.

References:
    Olah, Mordvintsev, Schubert 2017, doi:10.23915/distill.00007 ("transformation robustness"); crops with noise: Fel
    et al. 2023, arXiv:2306.06805, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.core.errors import InputError

_NUMBERS = 7  # drawn per view: three shifts, scale, angle, whether it is turned at all, whether it is mirrored
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Transform:
    """Random views of a picture.

    Args:
        rotate: largest angle in degrees, either way; a third of the views is not turned.
        scale: largest relative change of size, either way.
        shift: largest shift along each axis, as a share of the side.
        pad: width of the grey border around the picture, less the shift, as a share of the side.
        noise: deviation of normal noise, and half the width of uniform noise, as shares of the range of values.
        crops: views per step, of a random part of the picture each (`part`); None: one view of all of it.
        part: smallest and largest side of a crop, as shares of the picture's.
        flip: mirror half of the views.

    Example:
        from interp_plugins.optim import transforms

        still = transforms.Transform(rotate=0, scale=0, shift=0, pad=0)
        view = still.view(torch.rand(1, 3, 8, 8), still.draws([torch.Generator()], 1)[0], (8, 8), 0.5)
        view.shape  # -> (1, 3, 8, 8)
    """

    rotate: float = 10.0
    scale: float = 0.1
    shift: float = 6 / 128
    pad: float = 12 / 128
    noise: float = 0.0
    crops: int | None = None
    part: tuple[float, float] = (0.25, 1.0)
    flip: bool = False

    def __post_init__(self) -> None:
        for name in ("rotate", "scale", "shift", "pad", "noise"):
            if not getattr(self, name) >= 0:
                raise InputError(f"Transform {name} must be a number from 0, got {getattr(self, name)!r}.")
        if self.scale >= 1:
            raise InputError(f"Transform scale is a relative change below 1, got {self.scale!r}.")
        if self.crops is not None and (isinstance(self.crops, bool) or not self.crops >= 1):
            raise InputError(f"Transform crops must be a positive int or None, got {self.crops!r}.")
        if not 0 < self.part[0] <= self.part[1] <= 1:
            raise InputError(f"Transform part must be (smallest, largest) share of the side, got {self.part!r}.")

    @property
    def views(self) -> int:
        """Views of a picture per step."""
        return self.crops or 1

    @property
    def still(self) -> bool:
        """Whether every view is the picture itself."""
        moves = self.rotate or self.scale or self.shift or self.pad or self.noise
        return not moves and self.crops is None and not self.flip

    def draws(self, generators: Sequence[torch.Generator], steps: int) -> Tensor:
        """Uniform numbers of some steps for every row, (steps, R * views, 7), on the CPU."""
        found = [torch.rand(steps, self.views, _NUMBERS, generator=g) for g in generators]
        return torch.stack(found, 1).flatten(1, 2)

    def view(self, pictures: Tensor, draws: Tensor, size: Sequence[int], grey: Tensor | float) -> Tensor:
        """Views of pictures at the model's size.

        Args:
            pictures: (R, C, *space) of one to three axes of space.
            draws: (R * views, 7) uniform numbers.
            size: the model's.
            grey: what lies outside of a picture, to broadcast over them.

        Returns:
            (R * views, C, *size), the views of a picture together.
        """
        if self.still:
            return resized(pictures, size)
        if pictures.ndim < 3:
            raise InputError("Rows of a table are not turned or shifted: transform='none'.")
        axes = pictures.ndim - 2
        theta, zoom = self._maps(draws.to(pictures), pictures.shape[2:])
        pictures = _reduced(pictures, size, zoom)
        shifted = pictures - grey
        if self.views > 1:
            shifted = shifted.repeat_interleave(self.views, 0)
        if axes == 1:
            grid = F.affine_grid(theta, [len(shifted), 1, 1, *size], align_corners=False)
            found = F.grid_sample(shifted[:, :, None], grid, mode="bilinear", align_corners=False)[:, :, 0]
        else:
            grid = F.affine_grid(theta, [len(shifted), 1, *size], align_corners=False)
            found = F.grid_sample(shifted, grid, mode="bilinear", align_corners=False)
        return found + grey

    def noisy(self, views: Tensor, generators: Sequence[torch.Generator], span: Tensor | float) -> Tensor:
        """Views with noise from the rows' own generators, where there is to be any."""
        if not self.noise:
            return views
        shape = (self.views, *views.shape[1:])
        drawn = [torch.randn(shape, generator=g) + (2 * torch.rand(shape, generator=g) - 1) for g in generators]
        return views + self.noise * span * torch.cat(drawn).to(views)

    def _maps(self, u: Tensor, space: Sequence[int]) -> tuple[Tensor, float]:
        """From places in the view to places in the picture, (V, axes, axes + 1), and how much they shrink at most."""
        axes = max(2, len(space))
        signed = 2 * u - 1
        if self.crops is None:
            border = 1 + 2 * max(0.0, self.pad - self.shift)
            zoom = border / (1 + self.scale * signed[:, 3])
            reach = torch.full_like(zoom, 2 * self.shift)
            most = border / (1 - self.scale)
        else:
            least, largest = self.part
            zoom = least + (largest - least) * u[:, 3]
            reach, most = 1 - zoom, largest
        turned = self.rotate * signed[:, 4] * (u[:, 5] > 1 / 3) if len(space) > 1 else 0 * zoom
        angle = turned * (math.pi / 180)
        theta = torch.zeros(len(u), axes, axes + 1, dtype=u.dtype, device=u.device)
        ratio = space[-2] / space[-1] if len(space) > 1 else 1.0
        mirrored = torch.where(u[:, 6] < 0.5, -1.0, 1.0).to(u) if self.flip else torch.ones_like(zoom)
        theta[:, 0, 0], theta[:, 0, 1] = zoom * angle.cos() * mirrored, -zoom * angle.sin() * ratio
        theta[:, 1, 0], theta[:, 1, 1] = zoom * angle.sin() / ratio * mirrored, zoom * angle.cos()
        for axis in range(2, axes):
            theta[:, axis, axis] = zoom
        for axis in range(len(space)):
            theta[:, axis, axes] = reach * signed[:, axis]
        if len(space) == 1:
            theta[:, 1, 1] = 1.0
        return theta, most


def resized(pictures: Tensor, size: Sequence[int]) -> Tensor:
    """Pictures at another size, linearly; smoothed before where they shrink by more than two."""
    if tuple(pictures.shape[2:]) == tuple(size):
        return pictures
    return F.interpolate(
        _reduced(pictures, size, 1.0), size=tuple(size), mode=_MODES[pictures.ndim - 2], align_corners=False
    )


def _reduced(pictures: Tensor, size: Sequence[int], zoom: float) -> Tensor:
    """Pictures made smaller with antialiasing, where a view would skip over pixels of them."""
    space = pictures.shape[2:]
    if len(space) != 2 or max(zoom * have / want for have, want in zip(space, size, strict=True)) <= 2:
        return pictures
    fewer = [min(have, math.ceil(zoom * want)) for have, want in zip(space, size, strict=True)]
    return F.interpolate(pictures, size=fewer, mode="bilinear", antialias=True, align_corners=False)


STILL = Transform(rotate=0, scale=0, shift=0, pad=0)
ROBUST = Transform()
CROPS = Transform(rotate=0, scale=0, shift=0, pad=0, noise=0.05, crops=4)
NAMED = {"robust": ROBUST, "none": STILL, "crops": CROPS}


@dataclass(frozen=True)
class UsersTransform:
    """A user's own function (views, generators) -> views, after the picture was brought to the model's size.

    Args:
        function: gets (R, C, *size) in raw units and a `torch.Generator` per row.
    """

    function: Callable[[Tensor, Sequence[torch.Generator]], Tensor]


def as_transform(given: Any, crops: bool) -> Transform | UsersTransform:
    """A transform by name ("robust", "none", "crops"), of one's own, or a function; None: what suits.

    Args:
        given: what the user says.
        crops: whether crops suit the parametrisation.

    Raises:
        InputError: none of these.
    """
    if given is None:
        return CROPS if crops else ROBUST
    if isinstance(given, Transform):
        return given
    if isinstance(given, str) and given in NAMED:
        return NAMED[given]
    if callable(given):
        return UsersTransform(given)
    raise InputError(
        f"transform must be one of {', '.join(map(repr, NAMED))}, a Transform(...), or a function (views, generators) "
        f"-> views; got {given!r}."
    )
