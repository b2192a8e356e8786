"""From an image of uncorrelated channels to a picture in raw units, and back.

    picture = low + (high - low) * squash(M image)

M is the square root of the channels' covariance, so that a step in one channel of the image moves the colours as they
move together in photographs. Its constants for RGB are those of Olah, Mordvintsev, Schubert 2017, Feature
visualization, doi:10.23915/distill.00007 ("decorrelated space"), measured on ImageNet; of other data they are measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError

_IMAGENET = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
_EDGE = 1e-4  # shares this close to 0 and 1 are not asked of a sigmoid
SQUASHES = ("sigmoid", "clamp", None)


def natural_matrix() -> Tensor:
    """The square root of ImageNet's colour covariance (3, 3), its longest column of length one."""
    found = torch.tensor(_IMAGENET, dtype=torch.float64)
    return found / found.norm(dim=0).max()


def measured_matrix(values: Tensor) -> Tensor:
    """The square root of the channels' covariance in some data, its longest column of length one.

    Args:
        values: (N, C, ...) in raw units.

    Returns:
        (C, C), float64: eigenvectors times the roots of their eigenvalues, so that M M^T is the covariance up to scale.

    Raises:
        InputError: data without any variance.

    Example:
        from interp_plugins.optim.colour import measured_matrix

        m = measured_matrix(torch.rand(4, 2, 8, 8))
        m.shape  # -> (2, 2)
    """
    rows = values.detach().double().movedim(1, -1).flatten(0, -2)
    centred = rows - rows.mean(0)
    spread, axes = torch.linalg.eigh(centred.T @ centred / len(rows))
    found = axes.flip(1) * spread.flip(0).clamp(min=0).sqrt()
    longest = found.norm(dim=0).max()
    if not longest > 0:
        raise InputError("colour='data' needs data that vary: every value of every channel is the same.")
    return found / longest


@dataclass(frozen=True, eq=False)
class Colour:
    """How an image of uncorrelated channels becomes a picture.

    Attributes:
        low: smallest raw value per channel, (C,).
        high: largest raw value per channel, (C,).
        matrix: (C, C), or None: channels as they are.
        squash: "sigmoid" keeps values inside (low, high); "clamp" cuts them there (their gradient ends); None: the
            image is shifted and scaled, without bounds.
    """

    low: Tensor
    high: Tensor
    matrix: Tensor | None = None
    squash: str | None = "sigmoid"

    def __post_init__(self) -> None:
        if self.squash not in SQUASHES:
            raise InputError(f"squash must be 'sigmoid', 'clamp' or None, got {self.squash!r}.")
        if not bool((self.high > self.low).all()):
            raise InputError(f"The range of raw values is empty: from {self.low.tolist()} to {self.high.tolist()}.")

    def picture(self, image: Tensor) -> Tensor:
        """Pictures (R, C, ...) in raw units of images (R, C, ...)."""
        low, span = self._ends(image)
        mixed = self._mixed(image, self.matrix)
        if self.squash == "sigmoid":
            return low + span * mixed.sigmoid()
        shares = mixed + 0.5
        return low + span * (shares.clamp(0, 1) if self.squash == "clamp" else shares)

    def image(self, picture: Tensor) -> Tensor:
        """The images that give these pictures; shares at the ends of a sigmoid's range are moved in by 0.0001."""
        low, span = self._ends(picture)
        shares = (picture - low) / span
        if self.squash == "sigmoid":
            mixed = shares.clamp(_EDGE, 1 - _EDGE).logit()
        else:
            mixed = shares - 0.5
        return self._mixed(mixed, None if self.matrix is None else torch.linalg.inv(self.matrix))

    def grey(self, like: Tensor) -> Tensor:
        """The middle of the range, to broadcast over pictures (R, C, ...)."""
        low, span = self._ends(like)
        return low + span / 2

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, *[1] * (like.ndim - 2))
        low = self.low.to(like).reshape(shape)
        return low, self.high.to(like).reshape(shape) - low

    def _mixed(self, image: Tensor, matrix: Tensor | None) -> Tensor:
        if matrix is None:
            return image
        return (matrix.to(image) @ image.flatten(2)).reshape(image.shape)
