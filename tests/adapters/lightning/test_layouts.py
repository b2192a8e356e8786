"""Real fits with every layout of batches, data modules and combined loaders."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader

Pair = namedtuple("Pair", "x label")


@dataclass
class Sample:
    """A batch as a dataclass."""

    x: torch.Tensor
    label: torch.Tensor


# How a dataset's rows become a batch, how the step finds its parts again, and the callback's arguments.
LAYOUTS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "tuple": (lambda x, y: (x, y), itemgetter(0, 1), {}),
    "list": (lambda x, y: [x, y], itemgetter(0, 1), {}),
    "label first": (lambda x, y: (y, x), itemgetter(1, 0), {"input_key": 1}),
    "dict": (lambda x, y: {"x": x, "label": y}, itemgetter("x", "label"), {}),
    "dict with other names": (lambda x, y: {"scan": x, "y": y}, itemgetter("scan", "y"), {}),
    "dict inside a dict": (
        lambda x, y: {"in": {"scan": x}, "y": y}, lambda b: (b["in"]["scan"], b["y"]), {"input_key": "in"},
    ),
    "named tuple": (Pair, itemgetter(0, 1), {}),
    "dataclass": (Sample, lambda b: (b.x, b.label), {}),
    "dataclass with a key": (Sample, lambda b: (b.x, b.label), {"input_key": "x"}),
    "anything, by a function": (
        lambda x, y: [{"deep": (x, y)}], lambda b: b[0]["deep"], {"input_fn": lambda b: b[0]["deep"][0]},
    ),
}  # fmt: skip


def batches(make_loader, layout: Any, n: int = 8, seed: int = 0) -> DataLoader:
    data = make_loader(n, seed=seed).dataset
    return DataLoader(data, batch_size=2, collate_fn=lambda rows: layout(*map(torch.stack, zip(*rows))))


@pytest.fixture
def net_for(net_class):
    """A net whose step takes a layout, and whose output is a dict."""

    def make(parts: Any) -> Any:
        class OfLayout(net_class):
            def forward(self, x):
                return {"logits": super().forward(x), "aux": x.mean()}

            def step(self, batch):
                x, y = parts(batch)
                return torch.nn.functional.cross_entropy(self(x)["logits"], y)

        return OfLayout()

    return make


@pytest.mark.parametrize("layout", LAYOUTS)
def test_L14_every_layout_in_a_fit(layout, net_for, make_loader, make_trainer, make_callback) -> None:
    collate, parts, arguments = LAYOUTS[layout]
    labelled = layout not in ("anything, by a function", "dict inside a dict")
    callback = make_callback(
        n_samples=3,
        stages=("validate", "train"),
        output_key="logits",
        target="label" if labelled else None,
        **arguments,
    )
    trainer = make_trainer(callback)
    trainer.fit(net_for(parts), batches(make_loader, collate), batches(make_loader, collate, seed=1))
    expected = make_loader(seed=0, n=8).dataset.tensors
    assert callback.n_runs == 2 and torch.equal(callback.last[0].input, expected[0][:3])  # the training epoch ends last
    if labelled:
        assert list(callback.last[0].target) == expected[1][:3].tolist()


def test_L15_an_output_function_instead(net_for, make_loader, make_trainer, make_callback) -> None:
    callback = make_callback(output_fn=itemgetter("logits"), module=None)
    make_trainer(callback).fit(net_for(itemgetter(0, 1)), make_loader(4), make_loader(4))
    assert callback.n_runs == 1


def test_L15_a_module_inside_one_without_forward(net_class, make_loader, make_trainer, make_callback) -> None:
    import pytorch_lightning as pl

    class Wrapper(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net_class()

        def training_step(self, batch, batch_idx):
            return self.net.step(batch)

        def validation_step(self, batch, batch_idx):
            self.net.step(batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    callback = make_callback("gradcam", module="net", layer="net.body.0")
    make_trainer(callback, max_epochs=2).fit(Wrapper(), make_loader(4), make_loader(4))
    assert callback.n_runs == 2 and callback.last[0].layer == "body.0"


def test_a_data_module_with_transfer_hooks(make_net, make_loader, make_trainer, make_callback) -> None:
    class Data(LightningDataModule):
        def setup(self, stage):
            self.train, self.val = make_loader(8, 2), make_loader(8, 2, seed=1)

        def train_dataloader(self):
            return self.train

        def val_dataloader(self):
            return self.val

        def on_before_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] * 2, batch[1]]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] + 1, batch[1]]

    callback, data = make_callback(n_samples=3), Data()
    make_trainer(callback).fit(make_net(), datamodule=data)
    assert torch.equal(callback.last[0].input, data.val.dataset.tensors[0][:3] * 2 + 1)  # once each


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle", "sequential"])
def test_L12_combined_loaders_of_every_kind(
    mode, net_class, make_net, make_loader, make_trainer, make_callback
) -> None:
    class Combined(net_class):
        def step(self, batch):
            parts = [part for part in (batch.values() if isinstance(batch, dict) else [batch]) if part is not None]
            return sum(net_class.step(self, part) for part in parts)

    val = {"a": make_loader(4, 2, seed=1), "b": make_loader(6, 2, seed=2)}
    train = {"a": make_loader(4, 2, seed=3), "b": make_loader(6, 2, seed=4)}
    where = {"dataloader_idx": 1} if mode == "sequential" else {"input_key": "b"}
    callback = make_callback(n_samples=3, **where)
    trainer = make_trainer(callback)
    trainer.fit(make_net(Combined), CombinedLoader(train, "max_size_cycle"), CombinedLoader(val, mode))
    assert torch.equal(callback.last[0].input, val["b"].dataset.tensors[0][:3])
    callback = make_callback(n_samples=3, stages=("train",), input_key="b")
    make_trainer(callback).fit(make_net(Combined), CombinedLoader(train, "max_size_cycle"))
    assert torch.equal(callback.last[0].input, train["b"].dataset.tensors[0][:3])


def test_manual_optimization(net_class, make_net, make_loader, make_trainer, make_callback) -> None:
    class Manual(net_class):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.step(batch))
            optimizer.step()

    def trained(*callbacks: Any) -> dict[str, torch.Tensor]:
        net = make_net(Manual)
        torch.manual_seed(1)
        make_trainer(*callbacks, max_epochs=2, val_check_interval=1).fit(net, make_loader(4), make_loader(4))
        return net.state_dict()

    callback = make_callback(["ig", "gradient_shap"], stages=("validate", "train"))
    plain, explained = trained(), trained(callback)
    assert all(torch.equal(plain[k], explained[k]) for k in plain) and callback.n_runs == 4
