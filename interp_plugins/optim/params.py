"""What is climbed: the numbers that a picture is made of (its leaves), row by row.

`Pixels` are the picture's own values. `Fourier` are the coefficients of its spectrum, each scaled as in photographs,
where low frequencies are strong: a step of the optimiser then moves all scales alike. `Phases` keep the strength of
every frequency and move the phases alone, so that what comes out has a photograph's spectrum whatever the network
likes (MACO).

References:
    Olah, Mordvintsev, Schubert 2017, Feature visualization, doi:10.23915/distill.00007 (Fourier); Fel et al. 2023,
    Unlocking feature visualization for deeper networks with magnitude constrained optimization, arXiv:2306.06805.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, unknown

DEVIATION = 0.01  # of the first values
_DAMPING = 4.0  # of a spectrum's picture, so that it begins near grey


def frequencies(space: Sequence[int]) -> Tensor:
    """The length of each frequency of a real spectrum over `space`, in cycles per element, float64 (..., W//2+1)."""
    *ahead, last = space
    found = torch.fft.rfftfreq(last, dtype=torch.float64).square()
    for axis, n in enumerate(ahead):
        own = torch.fft.fftfreq(n, dtype=torch.float64).square()
        found = found + own.reshape(*[1] * axis, n, *[1] * (len(ahead) - axis))
    return found.sqrt()


def _axes(space: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(-len(space), 0))


def to_spectrum(image: Tensor, space: Sequence[int]) -> Tensor:
    """The spectrum of real images, complex (R, C, ..., W//2+1), of one length with the images."""
    return torch.fft.rfftn(image, dim=_axes(space), norm="ortho")


def from_spectrum(spectrum: Tensor, space: Sequence[int]) -> Tensor:
    """The real images of spectra, of exactly the sizes `space`, odd ones included.

    Where the device cannot do that, as some do not for some sizes, the CPU does.
    """
    try:
        return torch.fft.irfftn(spectrum, s=tuple(space), dim=_axes(space), norm="ortho")
    except (RuntimeError, NotImplementedError):
        if spectrum.device.type == "cpu":
            raise
        return torch.fft.irfftn(spectrum.cpu(), s=tuple(space), dim=_axes(space), norm="ortho").to(spectrum.device)


@dataclass(frozen=True)
class Param:
    """Base: how leaves become an image of uncorrelated channels, and back.

    Attributes:
        lr: size of a step of the optimiser that suits it.
        nesterov: whether the optimiser looks ahead (NAdam), else Adam.
        crops: whether the model sees crops of the picture by default.
    """

    lr = 0.05
    nesterov = False
    crops = False
    name = "param"

    def start(self, channels: int, space: Sequence[int], generators: Sequence[torch.Generator]) -> list[Tensor]:
        """The leaves of the first pictures, float32, a row per generator."""
        raise NotImplementedError

    def image(self, leaves: Sequence[Tensor], space: Sequence[int]) -> Tensor:
        """Images (R, C, *space) of leaves."""
        raise NotImplementedError

    def leaves(self, image: Tensor, space: Sequence[int]) -> list[Tensor]:
        """The leaves of images (R, C, *space)."""
        raise NotImplementedError


def _normal(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    return DEVIATION * torch.stack([torch.randn(tuple(shape), generator=g) for g in generators])


@dataclass(frozen=True)
class Pixels(Param):
    """The image's own values: each pixel is climbed by itself, which favours high frequencies."""

    name = "pixel"

    def start(self, channels: int, space: Sequence[int], generators: Sequence[torch.Generator]) -> list[Tensor]:
        """Normal numbers of deviation 0.01."""
        return [_normal((channels, *space), generators)]

    def image(self, leaves: Sequence[Tensor], space: Sequence[int]) -> Tensor:
        """The leaves as they are."""
        return leaves[0]

    def leaves(self, image: Tensor, space: Sequence[int]) -> list[Tensor]:
        """The image as it is."""
        return [image.clone()]


@dataclass(frozen=True)
class Fourier(Param):
    """Coefficients of the spectrum, scaled by 1 / frequency ** decay.

    Args:
        decay: 1 as in photographs; 0: all frequencies alike.

    Example:
        from interp_plugins.optim import params

        p = params.Fourier()
        picture = torch.rand(1, 3, 7, 6)
        found = p.image(p.leaves(picture, (7, 6)), (7, 6))
        bool((found - picture).abs().max() < 1e-5)  # -> True
    """

    decay: float = 1.0
    name = "fft"

    def scale(self, space: Sequence[int]) -> Tensor:
        """How strongly a coefficient of each frequency counts, float64."""
        return frequencies(space).clamp(min=1 / max(space)) ** -self.decay / _DAMPING

    def start(self, channels: int, space: Sequence[int], generators: Sequence[torch.Generator]) -> list[Tensor]:
        """Normal numbers of deviation 0.01 for real and imaginary parts, (R, C, ..., W//2+1, 2)."""
        return [_normal((channels, *space[:-1], space[-1] // 2 + 1, 2), generators)]

    def image(self, leaves: Sequence[Tensor], space: Sequence[int]) -> Tensor:
        """The image of the scaled spectrum."""
        return from_spectrum(torch.view_as_complex(leaves[0]) * self.scale(space).to(leaves[0]), space)

    def leaves(self, image: Tensor, space: Sequence[int]) -> list[Tensor]:
        """The coefficients of an image, exactly."""
        return [torch.view_as_real(to_spectrum(image, space) / self.scale(space).to(image)).contiguous()]


@dataclass(frozen=True, eq=False)
class Phases(Param):
    """The phases of a spectrum whose magnitudes stay as they are; each image has mean 0 and deviation 1.

    Args:
        magnitude: "natural", 1 / frequency, as in photographs on the whole; or the magnitudes themselves (C, ...,
            W//2+1), in decorrelated colours. `visualize(param="maco", magnitude="data")` measures them on the data.
    """

    magnitude: str | Tensor = "natural"
    lr = 1.0
    nesterov = True
    crops = True
    name = "maco"

    def __post_init__(self) -> None:
        if not isinstance(self.magnitude, Tensor) and self.magnitude != "natural":
            raise InputError(f"magnitude must be 'natural' or a tensor (C, ..., W//2+1), got {self.magnitude!r}.")

    def magnitudes(self, space: Sequence[int], like: Tensor) -> Tensor:
        """The strength of each frequency, to broadcast over (R, C, ...)."""
        if isinstance(self.magnitude, Tensor):
            wanted = (*space[:-1], space[-1] // 2 + 1)
            if tuple(self.magnitude.shape[-len(space) :]) != wanted:
                raise InputError(
                    f"magnitude has the shape {tuple(self.magnitude.shape)}; a picture of {tuple(space)} needs "
                    f"(channels, {', '.join(map(str, wanted))})."
                )
            return self.magnitude.to(like)
        return (1 / frequencies(space).clamp(min=1 / max(space))).to(like)

    def start(self, channels: int, space: Sequence[int], generators: Sequence[torch.Generator]) -> list[Tensor]:
        """Phases, uniform from -pi to pi, (R, C, ..., W//2+1)."""
        shape = (channels, *space[:-1], space[-1] // 2 + 1)
        return [torch.stack([(torch.rand(shape, generator=g) * 2 - 1) * math.pi for g in generators])]

    def image(self, leaves: Sequence[Tensor], space: Sequence[int]) -> Tensor:
        """The image with these phases, of mean 0 and deviation 1 in each row."""
        found = from_spectrum(torch.polar(self.magnitudes(space, leaves[0]).expand_as(leaves[0]), leaves[0]), space)
        rows = found.flatten(1)
        rows = rows - rows.mean(1, keepdim=True)
        deviation = rows.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
        return (rows / deviation).reshape(found.shape)

    def leaves(self, image: Tensor, space: Sequence[int]) -> list[Tensor]:
        """The phases of an image."""
        return [to_spectrum(image, space).angle()]


PARAMS: dict[str, type[Param]] = {"pixel": Pixels, "fft": Fourier, "maco": Phases}


def as_param(param: str | Param) -> Param:
    """A parametrisation by name: "fft", "pixel", "maco"; itself where it is one.

    Raises:
        UnknownNameError: no such name.
    """
    if isinstance(param, Param):
        return param
    if param not in PARAMS:
        raise unknown("parametrisation", param, PARAMS)
    return PARAMS[param]()


def measured_magnitudes(images: Tensor, space: Sequence[int]) -> Tensor:
    """The mean magnitude of every frequency in images (N, C, *space) of decorrelated colours, (C, ..., W//2+1)."""
    centred = images - images.flatten(2).mean(2).reshape(*images.shape[:2], *[1] * len(space))
    found = to_spectrum(centred, space).abs().mean(0)
    return found.clamp(min=float(found.max()) * 1e-6)
