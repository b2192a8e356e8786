"""A LightningModule around the trained network, and its validation data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from interp_plugins.demo.network import MEAN, RESIZE, SIZE, STD, imagenet_classes, lite0
from interp_plugins.demo.photographs import PHOTOGRAPHS


class ImageNetModule(pl.LightningModule):
    """The trained network, with a validation step as anybody would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = lite0()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 1000) of pictures (N, 3, 224, 224)."""
        return self.net(x)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy of a batch of pictures and labels."""
        x, y = batch
        self.log("val_acc", (self(x).argmax(1) == y).float().mean())


class Photographs(Dataset[tuple[Tensor, int]]):
    """Picture files with their ImageNet class, prepared as the network expects them."""

    def __init__(self, files: Sequence[Path]):
        from torchvision import transforms as T

        self.files, self.classes = list(files), imagenet_classes()
        self.prepare = T.Compose(
            [
                T.Resize(RESIZE, T.InterpolationMode.BICUBIC),
                T.CenterCrop(SIZE),
                T.ToTensor(),
                T.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        from PIL import Image

        picture: Any = self.prepare(Image.open(self.files[i]).convert("RGB"))
        return picture, self.classes.index(PHOTOGRAPHS[self.files[i].stem])


def photograph_loader(files: Sequence[Path]) -> DataLoader[tuple[Tensor, int]]:
    """A validation dataloader over the pictures, in order."""
    return DataLoader(Photographs(files), batch_size=len(files))
