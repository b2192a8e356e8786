"""A module, data and functions that a command line's YAML names by import path."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Module(pl.LightningModule):
    """A classifier of three classes whose output is a dict."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16 * width, 3))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.head(self.body(x))}

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self(batch["x"])["logits"], batch["label"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Pictures(torch.utils.data.Dataset):
    """Samples that are dicts."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        self.data = TensorDataset(torch.randn(4, 1, 8, 8, generator=g), torch.randint(3, (4,), generator=g))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        x, label = self.data[i]
        return {"x": x, "label": label}


class Data(pl.LightningDataModule):
    """The same batches for training and validation."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Pictures(), batch_size=2)

    val_dataloader = train_dataloader


def label_of(batch: Any) -> torch.Tensor:
    """A `label_fn`."""
    return batch["label"]


def picture_of(batch: Any) -> torch.Tensor:
    """An `input_fn`."""
    return batch["x"]


def logits_of(output: Any) -> torch.Tensor:
    """An `output_fn`."""
    return output["logits"]


def margin(output: torch.Tensor) -> torch.Tensor:
    """A target: the best score above the mean."""
    return output.max(1).values - output.mean(1)


def total(output: torch.Tensor) -> torch.Tensor:
    """A target for outputs without classes."""
    return output.flatten(1).sum(1)
