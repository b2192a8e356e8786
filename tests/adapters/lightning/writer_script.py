"""`AttributionWriter` under the Lightning packages: one process, interrupted, then two; and one that is not.

    python writer_script.py FOLDER PACKAGE[,PACKAGE]

Prints a line of JSON per package.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

PACKAGES = sys.argv[2].split(",")
modules = [importlib.import_module(name) for name in PACKAGES]

from interp_plugins.lightning import AttributionWriter  # noqa: E402
from interp_plugins.store import ExplanationStore  # noqa: E402

METHODS = {"ig": {"n_steps": 3}, "noise_tunnel": {"nt_samples": 2, "n_steps": 2}}


def module_of(pl: Any) -> Any:
    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [2 * batch[0], batch[1]]  # what a transfer hook changes reaches the maps

        def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self(batch[0])

    torch.manual_seed(0)
    return Net()


class Data(TensorDataset):
    """Eleven samples; the reading stops the process at one of them, if asked to."""

    stop_at: int | None = None

    def __getitem__(self, i: int) -> Any:
        if i == self.stop_at:
            raise KeyboardInterrupt
        return super().__getitem__(i)


def predict(pl: Any, path: Path, devices: int, stop_at: int | None = None) -> Any:
    data = Data(pixels(), torch.arange(11) % 3)
    data.stop_at = stop_at
    writer = AttributionWriter(str(path), METHODS, target="label", unit_size=2)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        logger=False,
        callbacks=[writer],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_predict_batches=1,
    )
    trainer.predict(module_of(pl), DataLoader(data, 3), return_predictions=False)
    return writer


def contents(store: ExplanationStore) -> str:
    arrays = [store.array(name)[:].tobytes() for name in (*store.methods, "inputs")]
    columns = {n: store.table()[n].to_pylist() for n in store.table().column_names if "seconds" not in n}
    return repr((arrays, columns))


def main(folder: Path) -> None:
    for name, pl in zip(PACKAGES, modules, strict=True):
        missing = missing_after_stop(pl, folder / name / "two")
        two = predict(pl, folder / name / "two", devices=2).store
        one = predict(pl, folder / name / "one", devices=1).store
        found = {
            "samples": two.table()["sample"].to_pylist(),
            "labels": two.table()["label"].to_pylist(),
            "missing_after_stop": missing,
            "equal": contents(two) == contents(one),
            "transferred": torch.equal(torch.tensor(one.array("inputs")[4]), 2 * pixels()[4]),
        }
        print(json.dumps({"package": name, **found}))


def pixels() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(11, 1, 8, 8)


def missing_after_stop(pl: Any, path: Path) -> list[int]:
    """A run on one process that is interrupted at sample 6; the units that are missing then."""
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        predict(pl, path, devices=1, stop_at=6)
    return ExplanationStore(path).missing


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.ERROR)
    main(Path(sys.argv[1]))
