"""A fastai Learner around the trained network, as a user would build it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp_plugins.demo.network import MEAN, RESIZE, SIZE, STD, imagenet_classes, lite0
from interp_plugins.demo.photographs import PHOTOGRAPHS


def imagenet_learner(files: Sequence[Path]) -> Any:
    """A Learner with 1,000 ImageNet classes whose data set is a few photographs.

    Args:
        files: at least two pictures; file stems in `PHOTOGRAPHS` give their labels.
    """
    from fastai.losses import CrossEntropyLossFlat
    from fastai.vision.all import (
        CategoryBlock,
        CropPad,
        DataBlock,
        ImageBlock,
        Learner,
        Normalize,
        Resize,
        accuracy,
    )
    from PIL import Image

    classes = imagenet_classes()
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=classes, sort=False)),
        get_y=_label,
        splitter=_all_for_both,
        # fastai orders transforms by their `order`: the crop has to come after the resize, whose order is 1.
        item_tfms=[
            Resize(RESIZE, resamples=(Image.Resampling.BICUBIC, Image.Resampling.NEAREST)),
            CropPad(SIZE, order=2),
        ],
        batch_tfms=Normalize.from_stats(MEAN, STD),
    )
    dls = block.dataloaders(list(files), bs=max(1, len(files)), num_workers=0)
    return Learner(dls, lite0(), loss_func=CrossEntropyLossFlat(), metrics=accuracy)


def _label(path: Path) -> str:
    return PHOTOGRAPHS.get(Path(path).stem, imagenet_classes()[0])


def _all_for_both(items: Sequence[Path]) -> tuple[list[int], list[int]]:
    """Every picture is in both splits: nothing is trained here."""
    every = list(range(len(items)))
    return every, every
