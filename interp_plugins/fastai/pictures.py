"""Raw pictures, from memory or from files, as fastai's image class, or an error that says why not.

`PILBase.create` re-classes pictures without loading or converting them, and casts float tensors to integers (an image
in [0, 1] becomes black, without a word). So pictures are loaded, scaled and converted here, as fastai converts files.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastai.vision.core import PILBase, TensorImageBase
from PIL import Image, ImageFile
from torch import Tensor

from interp_plugins.api.pictures import check_file, fault, loaded, of_array
from interp_plugins.core.errors import InputError, InputTypeError, InterpError, InterpWarning
from interp_plugins.core.tensors import describe

_DEEP = ("I", "F", "I;16")  # PIL modes that convert() cuts off at 255


LISTED = "get_image_files(folder)"  # how a folder is given


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
        image = of_array(value, isinstance(value, TensorImageBase), encoded="as xb=")
    else:
        image = loaded(value)
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
    except (FileNotFoundError, IsADirectoryError) as err:
        check_file(err.filename, LISTED)
        raise
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
