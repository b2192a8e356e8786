"""Raw pictures as PIL has them, from memory and from files, or an error that says why not."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
from PIL import Image, ImageFile
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.tensors import describe

BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what PIL raises for files it cannot read
_CHANNELS = (1, 3, 4)
_ROUNDING = 1e-3  # how far interpolation may leave [0, 1]


def check_file(path: Any, many: str = "list(Path(folder).glob('*.jpg'))") -> None:
    """Refuse a path where no file is.

    Args:
        path: of a picture.
        many: how a folder's pictures are listed, for the error.

    Raises:
        InputError: nothing is there, or a folder.
    """
    if os.path.isdir(path):
        raise InputError(f"{str(path)!r} is a folder. Give one picture or a list: {many}.")
    if not os.path.exists(path):
        raise InputError(f"There is no file {str(path)!r}. Check the path; a relative one starts at {os.getcwd()!r}.")


def opened(path: Any) -> Image.Image:
    """The picture of a file, RGB, as torchvision's data sets open files. Raises InputError: none, or a broken one."""
    check_file(path)
    reason = fault(path)
    if reason is not None:
        raise InputError(
            f"The picture {str(path)!r} cannot be read: {reason}. Check that the file is a complete picture."
        )
    with Image.open(path) as image:
        return image.convert("RGB")


def loaded(value: Any) -> Image.Image:
    """A PIL picture, or the bytes of a file, with its pixels read. Raises InputError: it is broken."""
    source = getattr(value, "filename", "") or "in memory"
    try:
        image = Image.open(io.BytesIO(value)) if isinstance(value, (bytes, bytearray)) else value
        image.load()
    except BROKEN as err:
        raise InputError(
            f"The picture {str(source)!r} cannot be read: {err}. Check that the file is complete."
        ) from err
    return image


def fault(path: Any) -> str | None:
    """Why PIL cannot decode a file completely; None where it can, or where there is no file."""
    if not os.path.isfile(path):
        return None
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(path) as image:
            image.load()
    except BROKEN as err:
        return str(err)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    return None


def of_array(value: Tensor | np.ndarray, channels_first: bool = False, encoded: str = "as a tensor") -> Image.Image:
    """A picture of an array or tensor.

    Args:
        value: (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, uint8, or float in [0, 1] (scaled to 255 and
            rounded).
        channels_first: whether the channels are known to come first.
        encoded: how a batch that is encoded already is given instead, for errors.

    Raises:
        InputError: what cannot be read without guessing.
    """
    pixels = _as_numpy(value)
    what = describe(value) if isinstance(value, Tensor) else f"array of shape {value.shape} and dtype {value.dtype}"
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise InputError(
            f"A picture is (H, W), (H, W, C) or (C, H, W), got an {what}. Give several pictures as a list, and a batch "
            f"that is encoded already (scaled and normalised) {encoded}."
        )
    if pixels.ndim == 3:
        pixels = _channels_last(pixels, channels_first, what)
    pixels = np.ascontiguousarray(_as_bytes(pixels, what, encoded))
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def _as_numpy(value: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(value, Tensor):
        plain = value.detach().as_subclass(Tensor).cpu()
        return (plain.float() if plain.is_floating_point() else plain).numpy()
    return value


def _channels_last(pixels: np.ndarray, channels_first: bool, what: str) -> np.ndarray:
    first, last = pixels.shape[0] in _CHANNELS, pixels.shape[2] in _CHANNELS
    if first and last and not channels_first:
        raise InputError(
            f"An {what} can be read as (C, H, W) and as (H, W, C). Give a PIL image, or a fastai TensorImage (C, H, W)."
        )
    if not (first or (last and not channels_first)):
        raise InputError(f"A picture has 1, 3 or 4 channels, first or last; got an {what}.")
    return pixels.transpose(1, 2, 0) if first else pixels


def _as_bytes(pixels: np.ndarray, what: str, encoded: str) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise InputError(f"A picture is uint8, or float in [0, 1]; got an {what}. For values 0 to 255, cast to uint8.")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN fails as well
        raise InputError(
            f"A picture of floats lies in [0, 1]; this {what} has values from {low:.4g} to {high:.4g}. Cast values 0 "
            f"to 255 to uint8; give a batch that is normalised already {encoded}."
        )
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)
