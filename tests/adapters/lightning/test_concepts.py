"""Concepts of a LightningModule: from loaders and a DataModule, on the module or a part of it."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import interp_plugins as ip
from interp_plugins.core.errors import InputError
from interp_plugins.lightning import concept_test, concepts


class Pictures(pl.LightningDataModule):
    def __init__(self, several: bool = False) -> None:
        super().__init__()
        self.several = several

    def setup(self, stage: str) -> None:
        draw = torch.Generator().manual_seed(0)
        self.data = TensorDataset(torch.rand(12, 3, 12, 12, generator=draw), torch.arange(12) % 2)

    def val_dataloader(self) -> Any:
        loader = DataLoader(self.data, batch_size=5)
        return [loader, loader] if self.several else loader


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
        )

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


def test_a_datamodule_serves_as_its_loader_and_the_module_stays() -> None:
    module, data = Module().train(), Pictures()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    bank = concepts(module, data, target=1, n_concepts=2, items="all")
    plain = ip.concepts(module, data.val_dataloader(), target=1, n_concepts=2, items="all")
    assert torch.equal(bank.atoms, plain.atoms) and bank.facts["items"] == 12
    assert module.training and all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    x = next(iter(data.val_dataloader()))[0][:1]
    assert bank.explain(x).score == pytest.approx(module.eval()(x).detach()[0, 1].item(), abs=1e-5)


def test_examples_by_name_are_tested() -> None:
    module, draw = Module(), torch.Generator().manual_seed(1)
    examples = {name: torch.rand(8, 3, 12, 12, generator=draw) for name in ("bright", "dull")}
    random = torch.rand(8, 3, 12, 12, generator=draw)
    found = concept_test(module, examples, random, Pictures(), 1, ["net.2", "net.0"], items="all", permutations=99)
    assert [(r.concept, r.layer) for r in found] == [(c, i) for c in ("bright", "dull") for i in ("net.2", "net.0")]


def test_several_loaders_are_refused() -> None:
    with pytest.raises(InputError, match="no single validation loader"):
        concepts(Module(), Pictures(several=True), target=1)
