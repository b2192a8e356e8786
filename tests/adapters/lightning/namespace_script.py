"""Trains with the callback under each of the two packages, in one process; prints what was found as JSON.

Arguments: the package that is imported before the callback, or both (separated by a comma).
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

PACKAGES = ("pytorch_lightning", "lightning.pytorch")


def fit(package: str, callback: Any) -> dict[str, Any]:
    """Two epochs under a package's Trainer, with its CSV logger."""
    pl: Any = importlib.import_module(package)
    loggers = importlib.import_module(f"{package}.loggers")

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.training_step(batch, batch_idx))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    with tempfile.TemporaryDirectory() as folder:
        logger = loggers.CSVLogger(folder)
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=2,
            logger=logger,
            callbacks=[callback],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = DataLoader(TensorDataset(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])), 2)
        trainer.fit(Net(), data, data)
        with open(f"{logger.log_dir}/metrics.csv") as lines:
            columns = lines.readline()
        pictures = len(list(Path(folder).rglob("*.png")))
    return {"pictures": pictures, "numbers": "attribution/validate/saliency/cosine_to_previous" in columns}


def accepted_by_the_command_line(package: str) -> bool:
    """Whether the package's own command line takes the callback for one of its kind."""
    cli = importlib.import_module(f"{package}.cli").LightningCLI(
        importlib.import_module(f"{package}.demos.boring_classes").BoringModel,
        run=False,
        save_config_callback=None,
        args=[
            "--trainer.callbacks+=interp_plugins.lightning.AttributionCallback",
            "--trainer.callbacks.target=label",
            "--trainer.logger=false",
            "--trainer.accelerator=cpu",
        ],
    )
    return any(isinstance(c, AttributionCallback) and c.target == "label" for c in cli.trainer.callbacks)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in sys.argv[1].split(","):
        importlib.import_module(name)
    from interp_plugins.lightning import AttributionCallback

    loaded = [name for name in PACKAGES if name in sys.modules]
    found: dict[str, Any] = {"loaded": loaded}
    for package in sorted(PACKAGES, key=lambda name: name not in loaded):
        logging.getLogger(package).setLevel(logging.ERROR)
        callback = AttributionCallback("saliency", n_samples=1, on_error="raise")
        found[package] = fit(package, callback)
        found[package]["subclass"] = isinstance(callback, importlib.import_module(package).Callback)
        if package in loaded:
            found[package]["cli"] = accepted_by_the_command_line(package)
    print(json.dumps(found))
