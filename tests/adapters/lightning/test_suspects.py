"""`suspects` of a LightningModule, and `MarginHistory`: training stays the same to the last bit."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins import suspects as plain_suspects
from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.influence.margins import margins_of
from interp_plugins.lightning import MarginHistory, suspects
from tests.adapters.lightning.conftest import QUIET, Net, dataset, loader, pl


def trainer(**kwargs: Any) -> Any:
    return pl.Trainer(**{**QUIET, **kwargs})


def test_a_module_is_as_plain_torch(tmp_path: Any) -> None:
    net = Net().train()
    found = suspects(net, loader(60, 8, shuffle=True, drop_last=True), k=5, class_names=["a", "b", "c"])
    other = plain_suspects(net, dataset(60), k=5)
    assert torch.equal(found.score, other.score) and net.training and found.spec.vocab == ("a", "b", "c")
    assert set(found.to_df()["given"]) == {"a", "b", "c"} and found.show(2).fig is not None


def test_named_arguments_and_parts_of_a_batch() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

        def forward(self, values: Tensor, mask: Tensor) -> Tensor:
            return self.net(values * mask)

    x = torch.randn(40, 4)
    y = torch.arange(40) % 2
    data = [{"values": x[i], "mask": torch.ones(4), "y": y[i], "name": f"n{i}"} for i in range(40)]
    found = suspects(Named(), DataLoader(data, 7, shuffle=True), k=5, id_key="name")
    assert found.names == tuple(f"n{i}" for i in range(40)) and found.layer.endswith("net.2")
    with pytest.raises(InputError, match="not both"):
        suspects(Named(), DataLoader(data, 7), class_names=["a"], input_spec=found.spec)


def test_a_datamodule_is_searched_for_leakage() -> None:
    class Module(pl.LightningDataModule):
        def setup(self, stage: str | None = None) -> None:
            self.data = dataset(40)

        def train_dataloader(self) -> Any:
            return DataLoader(self.data, 8, shuffle=True)

        def val_dataloader(self) -> Any:
            return DataLoader(TensorDataset(*(t[:3] for t in self.data.tensors)), 8)

    with pytest.warns(InterpWarning, match="LEAKAGE: 3 items"):
        assert [c.item for c in suspects(Net(), Module(), k=5).leakage()] == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_with_a_history_is_the_same(workers: int) -> None:
    ends = []
    for callbacks in ([], [MarginHistory()]):
        pl.seed_everything(1, verbose=False)
        net, data = Net(), loader(18, 4, shuffle=True, num_workers=workers)
        before = data.batch_sampler
        trainer(max_epochs=2, callbacks=callbacks).fit(net, data)
        assert data.batch_sampler is before and not any(m._forward_hooks for m in net.modules())
        ends.append({k: v.clone() for k, v in net.state_dict().items()})
    assert all(torch.equal(v, ends[1][k]) for k, v in ends[0].items())
    assert callbacks[0].margins.counts == dict.fromkeys(range(18), 2)
    assert suspects(net, data, history=callbacks[0], k=5).votes == ("knn", "head", "margin")


class Still(pl.LightningModule):
    """A net that does not learn, without what makes an output depend on its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def train_dataloader(self) -> Any:
        return loader(18, 4, shuffle=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


def test_margins_belong_to_their_items() -> None:
    net, history = Still(), MarginHistory("net")
    trainer(max_epochs=2, callbacks=[history], limit_val_batches=0).fit(net)
    x, y = dataset(18).tensors
    wanted = margins_of(net.net(x), y)
    assert wanted is not None and torch.allclose(history.margins.mean(range(18)), wanted, atol=1e-5)


class Around(Still):
    """A net whose training goes around its forward."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_outputs_that_are_not_seen_are_told_of() -> None:
    history = MarginHistory()
    with warnings.catch_warnings(record=True) as said:  # Lightning's own are none of ours
        warnings.simplefilter("always")
        trainer(callbacks=[history], limit_val_batches=0).fit(Around())
    assert sum("Name the module that gives them" in str(w.message) for w in said) == 1
    assert len(history.margins) == 0


def test_an_error_in_training_leaves_loader_and_module() -> None:
    class Broken(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise RuntimeError("broken")

    net, data = Broken(), loader()
    before = data.batch_sampler
    with pytest.raises(RuntimeError, match="broken"):
        trainer(callbacks=[MarginHistory()]).fit(net, data)
    assert data.batch_sampler is before and not any(m._forward_hooks for m in net.modules())
