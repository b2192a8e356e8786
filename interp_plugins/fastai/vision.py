"""Pictures: paths, PIL images, arrays, tensors and bytes become the image class of the Learner's data."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image
from torch import Tensor

from interp_plugins.api.pictures import check_file
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.tensors import describe
from interp_plugins.fastai.batch import ReadBatch
from interp_plugins.fastai.learner_info import image_class, valid
from interp_plugins.fastai.pictures import LISTED, as_picture, is_path, is_picture, mode_of
from interp_plugins.fastai.reader import Reader, register_reader


@register_reader
class VisionReader(Reader):
    """Data whose raw inputs are pictures."""

    def __init__(self, learn: Any):
        super().__init__(learn)
        cls = image_class(self.dls)
        assert cls is not None  # `reads` has seen it
        self.image_class = cls

    @classmethod
    def reads(cls, learn: Any) -> bool:
        """Whether the data's inputs are pictures before their transforms."""
        return image_class(learn.dls) is not None

    @property
    def channels(self) -> int | None:
        """Colour channels of the pictures: 3 for RGB, 1 for grey; None where their class takes any mode."""
        mode = mode_of(self.image_class)
        return None if mode is None else len(Image.new(mode, (1, 1)).getbands())

    def prepared(self, value: Any) -> Any:
        """A picture in memory as the data's image class; a path, or what the data's own getters read, as it is.

        Raises:
            InputError: a picture that cannot be read without guessing.
            InputTypeError: something that is no picture.
        """
        if is_picture(value):
            return as_picture(value, self.image_class)
        if is_path(value) and self._opens_files:
            check_file(value, LISTED)  # before a loader is made
        if isinstance(value, os.PathLike):
            return Path(value)
        if isinstance(value, dict):
            return pd.Series(value)  # a row of a table, as the data's column readers take it
        if value is None or isinstance(value, (bool, int, float)):
            raise InputTypeError(
                f"{describe(value)} is no picture. Give a path, a PIL image, an array or a tensor, a list of these, or "
                "an encoded batch as xb=."
            )
        return value  # a path as text, or what the data's own getters read: a row of a table, an identifier

    @property
    def _opens_files(self) -> bool:
        """Whether the data's items are files: its image class opens them, and no getter of its own comes before."""
        lists = getattr(getattr(valid(self.dls), "dataset", None), "tls", None)
        names = [str(getattr(one, "name", "")) for one in getattr(lists[0].tfms, "fs", ())] if lists else []
        return next((name for name in names if name != "noop"), "").endswith(".create")

    def name(self, value: Any) -> str:
        """The file's name, also where the path is a text."""
        return Path(value).name if is_path(value) else super().name(value)

    def from_xb(self, xb: Any) -> list[ReadBatch]:
        """An encoded batch, whose first input must be floats (N, C, H, W).

        Raises:
            InputError: it is not.
        """
        [batch] = super().from_xb(xb)
        first = batch.inputs[0]
        if batch.image or not isinstance(first, Tensor):
            return [batch]
        if first.ndim != 4 or not first.is_floating_point():
            raise InputError(
                f"xb= takes an encoded batch of pictures, floats (N, C, H, W), got {describe(first)}. Raw pictures are "
                "items: learn.explain(picture)."
            )
        return [replace(batch, image=True)]
