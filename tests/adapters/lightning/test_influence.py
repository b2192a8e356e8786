"""`influence` for Lightning: the Trainer's checkpoints, DataModules, shuffling loaders."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins.core.errors import InputTypeError
from interp_plugins.influence import influence as plain
from interp_plugins.lightning import influence
from interp_plugins.lightning.influence import of_trainer


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.my_module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.my_module(x)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return self.loss(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Rows(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        draw = torch.Generator().manual_seed(0)
        data = TensorDataset(torch.randn(30, 4, generator=draw), torch.arange(30) % 3)
        return DataLoader(data, batch_size=7, shuffle=True, drop_last=True)


def test_the_trainers_checkpoints_are_read_in_order(make_trainer: Any) -> None:
    module, rows = Classifier(), Rows()
    trainer = make_trainer(ModelCheckpoint(save_top_k=-1), max_epochs=3, enable_checkpointing=True, logger=False)
    trainer.fit(module, rows)
    files, note = of_trainer(trainer)
    assert note is None and len(files) == 3
    state = {k: v.clone() for k, v in module.state_dict().items()}
    dataset = rows.train_dataloader().dataset
    found = influence(module, dataset[:2], rows, checkpoints=trainer, k=4, all_scores=True)
    assert found.n == 30 and "TracIn (last layer)" in repr(found) and found.params["learning_rates"] == [0.1] * 3
    assert torch.allclose(
        found.every, plain(module, dataset[:2][0], dataset, checkpoints=files, all_scores=True).every, atol=1e-6
    )
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    label = influence(module, dataset[:2], rows.train_dataloader(), target="label", method="ekfac_last")
    assert label.asked == ("label 0", "label 1")
    with pytest.raises(InputTypeError, match="train is a DataLoader"):
        influence(module, dataset[:2], dataset[:2][0])


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* not empty")
def test_files_of_an_earlier_training_in_the_folder_do_not_count(make_trainer: Any, tmp_path: Any) -> None:
    def trained(epochs: int) -> Any:
        keep = ModelCheckpoint(tmp_path, save_top_k=-1)
        trainer = make_trainer(keep, max_epochs=epochs, enable_checkpointing=True, logger=False)
        trainer.fit(Classifier(), Rows())
        return trainer

    trained(4)
    files, _ = of_trainer(trained(2))
    assert [f.source.name for f in files] == ["epoch=0-step=4-v1.ckpt", "epoch=1-step=8-v1.ckpt"]


def test_without_files_the_weights_as_they_are_serve(make_trainer: Any) -> None:
    found = influence(Classifier(), torch.randn(1, 4), Rows(), checkpoints=make_trainer(), k=2)
    assert "kept no checkpoint" in repr(found)
