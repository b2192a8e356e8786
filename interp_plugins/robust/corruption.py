"""`Corruption`: what weather, cameras and files do to pictures, in five severities.

After Hendrycks and Dietterich 2019, arXiv:1903.12261. The constants are those of ImageNet-C for pictures of 224 pixels,
and lengths follow the picture's size; saturation and elastic distortion have constants of their own, which grow with
the severity. Every picture has its own draws.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.random import check_seed, make_generator, sample_seed
from interp_plugins.core.tensors import describe
from interp_plugins.robust.perturbation import Perturbation

_SIDE = 224.0  # of the pictures for which the constants were made


def _gaussian_noise(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    return x + (0.08, 0.12, 0.18, 0.26, 0.38)[k] * torch.randn(x.shape, generator=g).to(x)


def _shot_noise(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    photons = (60, 25, 12, 5, 3)[k]
    return torch.poisson((x.clamp_min(0) * photons).float().cpu(), generator=g).to(x) / photons


def _impulse_noise(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[k]
    drawn = torch.rand(x.shape, generator=g).to(x)
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn > 1 - share / 2, 1.0, x))


def _blurred(x: Tensor, kernel: Tensor) -> Tensor:
    """Each channel with one kernel (h, w), the borders mirrored as far as they reach."""
    h, w = kernel.shape
    pad = (w // 2, w - 1 - w // 2, h // 2, h - 1 - h // 2)
    mode = "reflect" if max(pad[:2]) < x.shape[2] and max(pad[2:]) < x.shape[1] else "replicate"
    wide = F.pad(x[None], pad, mode=mode)
    weight = (kernel / kernel.sum()).to(x).expand(len(x), 1, h, w)
    return F.conv2d(wide, weight, groups=len(x))[0]


def _scaled(x: Tensor, length: float) -> float:
    return length * min(x.shape[1:]) / _SIDE


def _gaussian(sigma: float) -> Tensor:
    reach = max(1, math.ceil(3 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / max(sigma, 1e-3)) ** 2)
    return line[:, None] * line[None]


def _gaussian_blur(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    return _blurred(x, _gaussian(_scaled(x, (1, 2, 3, 4, 6)[k])))


def _defocus_blur(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    radius = _scaled(x, (3, 4, 6, 8, 10)[k])
    reach = max(1, math.ceil(radius))
    at = torch.arange(-reach, reach + 1, dtype=torch.float64)
    inside = (radius + 0.5 - (at[:, None] ** 2 + at[None] ** 2).sqrt()).clamp(0, 1)  # the edge of the disc is soft
    return _blurred(x, inside)


def _motion_blur(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[k]
    angle = math.radians(float(torch.rand(1, generator=g)) * 90 - 45)
    reach, width = max(1, round(_scaled(x, radius))), max(0.3, _scaled(x, sigma))
    kernel = torch.zeros(2 * reach + 1, 2 * reach + 1, dtype=torch.float64)
    for step in torch.linspace(0, reach, 8 * reach + 1).tolist():
        row, column = reach + step * math.sin(angle), reach + step * math.cos(angle)
        kernel[round(row), round(column)] += math.exp(-0.5 * (step / width) ** 2)
    return _blurred(x, kernel)


def _zoom_blur(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[k]
    total, count, factor = x.clone(), 1, 1.0
    while factor < end:
        theta = torch.tensor([[1 / factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]]).to(x)[None]
        grid = F.affine_grid(theta, [1, *x.shape], align_corners=False)
        total += F.grid_sample(x[None], grid, align_corners=False, padding_mode="border")[0]
        count, factor = count + 1, factor + step
    return total / count


def _brightness(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    """The largest channel, V of HSV, is raised; hue and saturation stay."""
    value = x.amax(0, keepdim=True)
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[k]).clamp_max(1)
    return torch.where(value > 0, x * raised / value.clamp_min(1e-6), raised)


def _contrast(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    mean = x.mean((1, 2), keepdim=True)
    return (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[k] + mean


def _saturate(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    """S of HSV times a factor, hue and value as they are."""
    value = x.amax(0, keepdim=True)
    part = (value - x) / (value - x.amin(0, keepdim=True)).clamp_min(1e-6)
    saturation = (value - x.amin(0, keepdim=True)) / value.clamp_min(1e-6)
    return value * (1 - part * (saturation * (1.5, 2, 3, 5, 20)[k]).clamp(0, 1))


def _fog(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    """Clouds whose spectrum falls with the frequency."""
    strength, roughness = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[k]
    h, w = x.shape[1:]
    slow = (torch.fft.fftfreq(h)[:, None] ** 2 + torch.fft.rfftfreq(w)[None] ** 2).sqrt().clamp_min(1 / max(h, w))
    noise = torch.fft.rfft2(torch.randn(h, w, generator=g)) * slow**-roughness
    cloud = torch.fft.irfft2(noise, s=(h, w))
    cloud = (cloud - cloud.min()) / (cloud.max() - cloud.min()).clamp_min(1e-12)
    most = float(x.max())
    return (x + strength * cloud.to(x)) * most / (most + strength)


def _pixelate(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[k]
    size = [max(1, round(s * share)) for s in x.shape[1:]]
    small = F.interpolate(x[None], size=size, mode="bilinear", antialias=True)
    return F.interpolate(small, size=tuple(x.shape[1:]), mode="nearest-exact")[0]


def _jpeg(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    import numpy as np
    from PIL import Image

    grey = len(x) == 1
    pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if grey else pixels).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[k])
    back = torch.from_numpy(np.array(Image.open(file))).to(x) / 255
    return back[None] if grey else back.movedim(-1, 0)


def _elastic(x: Tensor, k: int, g: torch.Generator) -> Tensor:
    """Places move along smooth random fields."""
    height, width = x.shape[1:]
    side = min(height, width)
    field = _blurred(torch.rand(2, height, width, generator=g) * 2 - 1, _gaussian(max(0.5, 0.04 * side)))
    field = field / field.abs().amax((1, 2), keepdim=True).clamp_min(1e-9) * (0.01, 0.02, 0.03, 0.045, 0.06)[k] * side
    grid = F.affine_grid(torch.eye(2, 3)[None].to(x), [1, *x.shape], align_corners=False)
    moved = grid + torch.stack([field[0] * 2 / width, field[1] * 2 / height], -1)[None].to(x)
    return F.grid_sample(x[None], moved, align_corners=False, padding_mode="reflection")[0]


_MAKERS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "gaussian_noise": _gaussian_noise, "shot_noise": _shot_noise, "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur, "motion_blur": _motion_blur, "zoom_blur": _zoom_blur,
    "gaussian_blur": _gaussian_blur, "brightness": _brightness, "contrast": _contrast, "saturate": _saturate,
    "fog": _fog, "pixelate": _pixelate, "jpeg": _jpeg, "elastic": _elastic,
}  # fmt: skip
CORRUPTIONS = tuple(_MAKERS)


class Corruption(Perturbation):
    """Pictures as noise, blur, weather or a file leave them; an attack for `AttackComparator` and its kin.

    Args:
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        value_range: of the pictures; those of whole numbers (uint8) have 0 to 255.

    Example:
        from interp_plugins.robust import Corruption

        worse = Corruption("fog", severity=4).perturb(torch.rand(2, 3, 32, 32))
        worse.shape  # -> (2, 3, 32, 32)
    """

    def __init__(self, name: str, severity: int = 3, value_range: tuple[float, float] = (0.0, 1.0)):
        if name not in _MAKERS:
            raise unknown("corruption", name, CORRUPTIONS)
        self.name, self.severity, self.value_range = name, check_severity(severity), value_range

    def perturb(
        self, inputs: Tensor, severity: int | None = None, seed: int = 0, keys: Sequence[Any] | None = None
    ) -> Tensor:
        """The pictures, corrupted.

        Args:
            inputs: (N, C, H, W) in raw units, C of 1 or 3.
            severity: another than that of the constructor.
            seed: of the draws; each picture has its own.
            keys: names or numbers by which it has them; None: its place in the batch.

        Returns:
            Pictures of the same shape and type, inside the range.

        Raises:
            InputError: no pictures.
        """
        if not isinstance(inputs, Tensor) or inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
            raise InputError(
                f"Corruptions are of pictures (N, C, H, W) of one or three channels, got {describe(inputs)}."
            )
        k = (self.severity if severity is None else check_severity(severity)) - 1
        low, high = (0.0, 255.0) if inputs.dtype == torch.uint8 else self.value_range
        unit = (inputs.float() if inputs.dtype == torch.uint8 else inputs.detach() - low) / (high - low)
        own = range(len(unit)) if keys is None else keys
        seeds = [sample_seed(check_seed(seed), f"{self.name}/{key}") for key in own]
        made = [_MAKERS[self.name](x, k, make_generator(s)).clamp(0, 1) for x, s in zip(unit, seeds, strict=True)]
        found = torch.stack(made) * (high - low) + low
        return found.round().to(torch.uint8) if inputs.dtype == torch.uint8 else found.to(inputs)


def check_severity(severity: Any) -> int:
    """1 to 5.

    Raises:
        InputError: anything else.
    """
    if isinstance(severity, bool) or not isinstance(severity, int) or not 1 <= severity <= 5:
        raise InputError(f"severity is a whole number from 1 to 5, got {severity!r}.")
    return severity
