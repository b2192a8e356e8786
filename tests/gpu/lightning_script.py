"""The strategies of a cluster on one CUDA device; prints a line of JSON. Started by test_lightning.py.

NCCL with inference mode and batch norm over processes: DDP around one device (NCCL takes no two ranks on one device).
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins.lightning import AttributionCallback

METHODS = {"ig": {"n_steps": 5}, "noise_tunnel": {"nt_samples": 2, "n_steps": 3}, "grad_cam": {}}


class Net(pl.LightningModule):
    """With a batch norm that is to become one over all processes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(144, 3)
        )

    def forward(self, x):
        return self.net(x)

    def on_train_epoch_start(self):
        self.kinds = [type(m).__name__ for m in self.net]  # after `fit` Lightning turns the batch norms back

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.training_step(batch, batch_idx), sync_dist=True)

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(strategy, *callbacks, **more):
    return pl.Trainer(
        accelerator="gpu", devices=1, strategy=strategy, callbacks=list(callbacks), max_epochs=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **more,
    )  # fmt: skip


def ddp(data, folder: Path | None):
    """Fit, validate and test, with the callback where there is a folder; weights, kinds of layers, maps."""
    pl.seed_everything(0, verbose=False)
    net = Net()
    callback = AttributionCallback(
        METHODS, n_samples=2, stages=("validate", "test"), on_error="raise", dirpath=str(folder)
    )
    strategy = DDPStrategy(process_group_backend="nccl")
    one = trainer(strategy, *([callback] if folder else []), sync_batchnorm=True)
    one.fit(net, data, data)
    seen = {"backend": torch.distributed.get_backend(), "layers": net.kinds}
    one.validate(net, data, verbose=False)
    one.test(net, data, verbose=False)
    weights = {k: v.cpu() for k, v in net.state_dict().items()}
    finite = all(bool(e.attribution.isfinite().all()) for e in callback.last) if folder else None
    return weights, {**seen, "runs": callback.n_runs, "finite": finite}


def refused(data) -> str:
    """What the callback says to FSDP."""
    callback = AttributionCallback("saliency", loggers="none")
    try:
        trainer(FSDPStrategy(), callback).fit(Net(), data, data)
    except NotImplementedError as error:
        return str(error)
    return "nothing"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.backends.cudnn.deterministic = True
    g = torch.Generator().manual_seed(0)
    data = DataLoader(TensorDataset(torch.randn(12, 1, 8, 8, generator=g), torch.randint(3, (12,), generator=g)), 4)
    without, _ = ddp(data, None)
    weights, found = ddp(data, Path(sys.argv[1]))
    found["equal"] = all(torch.equal(without[k], weights[k]) for k in without)
    found["files"] = len(list(Path(sys.argv[1]).iterdir()))
    print(json.dumps({**found, "fsdp": refused(data)}))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
