"""Raw pictures, from memory or from files, as fastai's image class, or an error that says why not.

`PILBase.create` re-classes pictures without loading or converting them, and casts float tensors to integers (an image
in [0, 1] becomes black, without a word). So pictures are loaded, scaled and converted here, as fastai converts files.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastai.vision.core import PILBase, TensorImageBase
from PIL import Image, ImageFile
from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError, InterpError, InterpWarning
from interp_plugins.core.tensors import describe

_CHANNELS = (1, 3, 4)
_DEEP = ("I", "F", "I;16")  # PIL modes that convert() cuts off at 255
_ROUNDING = 1e-3  # how far interpolation may leave [0, 1]
_BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what PIL raises for files it cannot read


def is_picture(value: Any) -> bool:
    """Whether a value is a picture in memory."""
    return isinstance(value, (Image.Image, Tensor, np.ndarray, bytes, bytearray))


def is_path(value: Any) -> bool:
    """Whether a value names a file."""
    return isinstance(value, (str, os.PathLike))


def as_picture(value: Any, cls: type[PILBase]) -> PILBase:
    """A private copy of a picture in memory, as `cls` and in its mode, if it has one.

    Args:
        value: PIL image (lazy ones are loaded), the bytes of a file, or an array or tensor: (H, W), (H, W, C) or
            (C, H, W) with 1, 3 or 4 channels, uint8, or float in [0, 1] (scaled to 255 and rounded).
        cls: the image class of the Learner's data, such as `PILImage` (RGB) or `PILImageBW` (L); one without a mode of
            its own takes the picture in the mode that it has.

    Raises:
        InputError: anything that cannot be read without guessing.
    """
    if isinstance(value, (Tensor, np.ndarray)):
        image = _from_array(value)
    else:
        image = _loaded(value)
    if image.mode.startswith(_DEEP):
        raise InputError(
            f"The picture has mode {image.mode!r} (more than 8 bits per channel), and its range is not known. Scale it "
            "to an array of uint8, or of float in [0, 1]."
        )
    # convert() copies, and cls() re-classes in place: the caller's own object is never touched.
    return cls(image.convert(mode) if (mode := mode_of(cls)) is not None else image.copy())


def mode_of(cls: type[PILBase]) -> str | None:
    """The mode that an image class converts pictures to; None where it takes them as they are."""
    mode: str | None = cls._open_args.get("mode")
    return mode


def _loaded(value: Any) -> Image.Image:
    source = getattr(value, "filename", "") or "in memory"
    try:
        image = Image.open(io.BytesIO(value)) if isinstance(value, (bytes, bytearray)) else value
        image.load()
    except _BROKEN as err:
        raise InputError(
            f"The picture {str(source)!r} cannot be read: {err}. Check that the file is complete."
        ) from err
    return image


def _from_array(value: Tensor | np.ndarray) -> Image.Image:
    channels_first = isinstance(value, TensorImageBase)
    pixels = _as_numpy(value)
    what = describe(value) if isinstance(value, Tensor) else f"array of shape {value.shape} and dtype {value.dtype}"
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise InputError(
            f"A picture is (H, W), (H, W, C) or (C, H, W), got an {what}. Give several pictures as a list, and a batch "
            "that is encoded already (scaled and normalised) as xb=."
        )
    if pixels.ndim == 3:
        pixels = _channels_last(pixels, channels_first, what)
    pixels = np.ascontiguousarray(_as_bytes(pixels, what))
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


def _as_bytes(pixels: np.ndarray, what: str) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise InputError(f"A picture is uint8, or float in [0, 1]; got an {what}. For values 0 to 255, cast to uint8.")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN fails as well
        raise InputError(
            f"A picture of floats lies in [0, 1]; this {what} has values from {low:.4g} to {high:.4g}. Cast values 0 "
            "to 255 to uint8; give a batch that is normalised already as xb=."
        )
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


@contextlib.contextmanager
def readable(values: Sequence[Any]) -> Iterator[None]:
    """Say which item cannot be read, and why, when fastai's transforms fail on one; warn of truncated files.

    PIL refuses a truncated file, unless `ImageFile.LOAD_TRUNCATED_IMAGES` is set: then it fills up with grey. Where the
    caller has set it, the filled picture is explained, as `predict` would predict it, but not without a warning.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        _warn_of_truncated(values)
    try:
        yield
    except InterpError:
        raise
    except FileNotFoundError as err:
        raise InputError(
            f"There is no file {str(err.filename)!r}. Check the path; a relative one starts at {os.getcwd()!r}."
        ) from err
    except IsADirectoryError as err:
        raise InputError(
            f"{str(err.filename)!r} is a folder. Give one picture or a list: get_image_files(folder)."
        ) from err
    except (OSError, SyntaxError, Image.DecompressionBombError) as err:
        broken = next((v for v in values if is_path(v) and fault(v)), None)
        where = f"The picture {os.fspath(broken)!r}" if broken is not None else "A picture"
        raise InputError(f"{where} cannot be read: {err}. Check that the file is a complete picture.") from err
    except AssertionError as err:
        if "Expected an input of type" not in str(err):
            raise
        raise InputTypeError(
            f"{describe(values[0])} is no item of this Learner's data. {' '.join(str(err).split())}. Give what "
            "learn.predict takes, or an encoded batch as xb=."
        ) from err


def fault(path: Any) -> str | None:
    """Why PIL cannot decode a file completely; None where it can, or where there is no file."""
    if not os.path.isfile(path):
        return None
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(path) as image:
            image.load()
    except _BROKEN as err:
        return str(err)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    return None


def _warn_of_truncated(values: Sequence[Any]) -> None:
    for value in values:
        reason = fault(value) if is_path(value) else None
        if reason:
            warnings.warn(
                f"{Path(value).name!r} is not complete ({reason}). PIL fills up what is missing because "
                "ImageFile.LOAD_TRUNCATED_IMAGES is set; the filled picture is explained.",
                InterpWarning,
                stacklevel=3,
            )
