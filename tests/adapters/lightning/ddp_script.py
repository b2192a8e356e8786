"""Trains on two processes; prints the weights, the files written and the numbers logged. Started by test_ddp.py."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only
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


class OnRankZero(Logger):
    """As the loggers of services are: a picture can be given, and only the first process has a connection."""

    name, version = "service", "0"

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[int] = []
        self.numbers: list[int] = []

    @property
    @rank_zero_experiment
    def experiment(self):
        return self

    def log_image(self, key: str, images: list, step: int | None = None) -> None:
        rank: Any = rank_zero_only
        assert rank.rank == 0, "a picture from another process"
        self.pictures.append(step)

    def log_metrics(self, metrics: dict, step: int | None = None) -> None:
        if any("attribution" in name for name in metrics):
            rank: Any = rank_zero_only
            assert rank.rank == 0, "numbers from another process"  # the Trainer itself asks on each
            self.numbers.append(step)

    def log_hyperparams(self, *args, **kwargs) -> None:
        pass


def fit(folder: Path, with_callback: bool, loggers: list[Logger]) -> None:
    """One training; its weights are printed."""
    folder.mkdir()
    pl.seed_everything(0, verbose=False)
    data = TensorDataset(torch.randn(12, 1, 8, 8), torch.randint(3, (12,)))
    methods = {"ig": {"n_steps": 5}, "noise_tunnel": {"nt_samples": 2, "n_steps": 3}, "occlusion": {}}
    callback = AttributionCallback(methods, n_samples=1, stages=("validate", "train"), on_error="raise")
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_epochs=2,
        logger=loggers or False,
        default_root_dir=folder,
        callbacks=[*([callback] if with_callback else []), Report(folder, callback)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=2,
    )
    net = Net()
    trainer.fit(net, DataLoader(data, 3), DataLoader(data, 3))
    parts = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    pngs = sorted(p.name for p in folder.rglob("*.png"))
    print(json.dumps({**parts[0], "other": parts[1], "files": pngs}))


class Report(pl.Callback):
    """What each process has found, written where it was found: the processes are forks of this one."""

    def __init__(self, folder: Path, explained: AttributionCallback):
        self.folder, self.explained = folder, explained

    def on_fit_end(self, trainer, pl_module) -> None:
        digest = hashlib.sha256()
        for value in pl_module.state_dict().values():
            digest.update(value.contiguous().numpy().tobytes())
        found = {"weights": digest.hexdigest(), "history": len(self.explained.history)}
        for logger in trainer.loggers if trainer.is_global_zero else []:
            if isinstance(logger, CSVLogger):
                with open(Path(logger.log_dir) / "metrics.csv", newline="") as lines:
                    drift = "attribution/validate/integrated_gradients/cosine_to_previous"
                    found["drift"] = [row["step"] for row in csv.DictReader(lines) if row.get(drift)]
            if isinstance(logger, OnRankZero):
                found |= {"pictures": logger.pictures, "numbers": logger.numbers}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    root = Path(sys.argv[1])
    fit(root / "without", with_callback=False, loggers=[CSVLogger(root / "without")])
    fit(root / "csv", with_callback=True, loggers=[CSVLogger(root / "csv")])
    fit(root / "none", with_callback=True, loggers=[])
    several = [OnRankZero(), TensorBoardLogger(root / "several"), CSVLogger(root / "several")]
    fit(root / "several", with_callback=True, loggers=several)
