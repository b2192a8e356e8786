"""Trains on two processes; prints a sum of the weights and the files written. Started by test_ddp.py."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins.lightning import AttributionCallback


class Net(pl.LightningModule):
    """With a buffer that DDP broadcasts."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(144, 3)
        )

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.training_step(batch, batch_idx), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder: Path, with_callback: bool, with_logger: bool) -> None:
    """One training; its weights are printed."""
    pl.seed_everything(0, verbose=False)
    data = TensorDataset(torch.randn(12, 1, 8, 8), torch.randint(3, (12,)))
    methods = {"ig": {"n_steps": 5}, "noise_tunnel": {"nt_samples": 2, "n_steps": 3}, "occlusion": {}}
    callback = AttributionCallback(methods, n_samples=1, stages=("validate", "train"), on_error="raise")
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_epochs=1,
        logger=CSVLogger(folder) if with_logger else False,
        default_root_dir=folder,
        callbacks=[callback] if with_callback else [],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=1,
    )
    net = Net()
    trainer.fit(net, DataLoader(data, 3), DataLoader(data, 3))
    total = sum(v.double().sum().item() for v in net.state_dict().values())
    print(json.dumps({"weights": total, "files": sorted(p.name for p in folder.rglob("*.png"))}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    root = Path(sys.argv[1])
    fit(root / "without", with_callback=False, with_logger=True)
    fit(root / "csv", with_callback=True, with_logger=True)
    fit(root / "none", with_callback=True, with_logger=False)
