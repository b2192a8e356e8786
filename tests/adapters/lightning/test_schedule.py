"""Which epochs and which samples are explained."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset

from interp_plugins.core.errors import InterpWarning
from interp_plugins.lightning import AttributionCallback


def test_L10_nothing_in_the_sanity_check(make_net, make_loader, make_trainer, make_callback) -> None:
    callback = make_callback()
    trainer = make_trainer(callback, num_sanity_val_steps=2, limit_val_batches=1, max_epochs=0)
    trainer.fit(make_net(), make_loader(), make_loader())
    assert callback.n_runs == 0


def test_L10_fast_dev_run_explains_and_writes_nothing(
    make_net, make_loader, make_trainer, make_callback, tmp_path
) -> None:
    callback = make_callback(loggers="both", dirpath=str(tmp_path / "pictures"))
    make_trainer(callback, fast_dev_run=True, logger=True).fit(make_net(), make_loader(), make_loader())
    assert callback.n_runs == 1 and len(callback.last) == 1
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(("every", "runs"), [(1, 5), (2, 3), (3, 2), (10, 1)])
def test_L10_every_nth_validation_epoch(every, runs, make_net, make_loader, make_trainer, make_callback) -> None:
    callback = make_callback(every_n_epochs=every)
    make_trainer(callback, max_epochs=5).fit(make_net(), make_loader(4), make_loader(4))
    assert callback.n_runs == runs


def test_L10_no_validation_no_run(make_net, make_loader, make_trainer, make_callback) -> None:
    callback = make_callback()
    trainer = make_trainer(callback, limit_val_batches=0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer.fit(make_net(), make_loader(4), make_loader(4))
    [warning] = [w for w in told if issubclass(w.category, InterpWarning)]
    assert callback.n_runs == 0 and "the validation set is empty" in str(warning.message)


def test_L10_no_validation_epoch_is_said(make_net, make_loader, make_trainer, make_callback, warned) -> None:
    trainer = make_trainer(make_callback(), check_val_every_n_epoch=3, max_epochs=1, num_sanity_val_steps=0)
    with warned("no validation epoch came .check_val_every_n_epoch=3"):
        trainer.fit(make_net(), make_loader(4), make_loader(4))


def test_L10_a_later_validation_is_always_explained(make_net, make_loader, make_trainer, make_callback) -> None:
    callback, net = make_callback(every_n_epochs=2), make_net()
    trainer = make_trainer(callback)
    trainer.fit(net, make_loader(4), make_loader(4))
    before = callback.last[0].input
    trainer.validate(net, make_loader(4, seed=3), verbose=False)
    assert callback.n_runs == 2
    assert torch.equal(callback.last[0].input, make_loader(4, seed=3).dataset.tensors[0][:2])
    assert not torch.equal(callback.last[0].input, before)


def test_L11_a_file_for_each_of_several_validations_in_a_step(
    make_net, make_loader, make_trainer, make_callback, tmp_path
) -> None:
    callback = make_callback(n_samples=1, loggers="files", dirpath=str(tmp_path / "pictures"))
    trainer = make_trainer(callback, val_check_interval=1, accumulate_grad_batches=4)
    trainer.fit(make_net(), make_loader(16, 4), make_loader(4))
    names = sorted(p.name for p in (tmp_path / "pictures").iterdir())
    assert len(names) == callback.n_runs == 4
    assert [n.split("-epoch")[0] for n in names] == [f"attribution-validate-run000{i}" for i in (1, 2, 3, 4)]
    assert [n.split("-step")[1] for n in names] == [
        "0-saliency.png",
        "0-saliency.png",
        "0-saliency.png",
        "1-saliency.png",
    ]


@pytest.mark.parametrize("index", [0, 1])
def test_L12_only_one_of_several_dataloaders(index, make_net, make_loader, make_trainer, make_callback) -> None:
    loaders = [make_loader(8, 2, seed=1), make_loader(8, 2, seed=2)]
    callback = make_callback(n_samples=3, dataloader_idx=index)
    make_trainer(callback).fit(make_net(), make_loader(4), loaders)
    assert torch.equal(callback.last[0].input, loaders[index].dataset.tensors[0][:3])


def test_L12_fewer_samples_than_asked_for(make_net, make_loader, make_trainer, make_callback) -> None:
    loaders = [make_loader(6, 2, seed=1), make_loader(8, 2, seed=2)]
    callback = make_callback(n_samples=50, dataloader_idx=0)
    make_trainer(callback).validate(make_net(), loaders, verbose=False)
    assert len(callback.last[0]) == 6


def test_L12_a_dataloader_that_does_not_exist(make_net, make_loader, make_trainer, make_callback, warned) -> None:
    callback = make_callback(dataloader_idx=1, on_error="warn")
    with warned("No batch of dataloader_idx=1 came in this validate epoch"):
        make_trainer(callback).validate(make_net(), make_loader(4), verbose=False)


def test_L12_a_combined_loader_gives_a_dict(net_class, make_net, make_loader, make_trainer, make_callback) -> None:
    class Two(net_class):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.step(batch["a"])

    loaders = {"a": make_loader(4, 2, seed=1), "b": make_loader(4, 2, seed=2)}
    callback = make_callback(input_key="b", target="label")
    trainer = make_trainer(callback)
    trainer.validate(make_net(Two), CombinedLoader(loaders, "min_size"), verbose=False)
    assert torch.equal(callback.last[0].input, loaders["b"].dataset.tensors[0][:2])
    assert list(callback.last[0].target) == loaders["b"].dataset.tensors[1][:2].tolist()


class Stream(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(self.data)


def test_L12_a_stream_without_a_length(make_net, make_loader, make_trainer, make_callback) -> None:
    stream = DataLoader(Stream(make_loader(6).dataset), batch_size=2)
    callback = make_callback(n_samples=50)
    make_trainer(callback, max_epochs=2).fit(make_net(), make_loader(4), stream)
    assert callback.n_runs == 2 and len(callback.last[0]) == 6


def test_L13_two_callbacks_and_a_resumed_run(make_net, make_loader, make_trainer, make_callback, tmp_path) -> None:
    def callbacks():
        return make_callback(tag="a"), make_callback(tag="b", every_n_epochs=2)

    first, second = callbacks()
    saver = ModelCheckpoint(tmp_path, save_last=True)
    trainer = make_trainer(first, second, saver, max_epochs=2, enable_checkpointing=True)
    trainer.fit(make_net(), make_loader(4), make_loader(4))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert saved["AttributionCallback{'tag': 'a'}"] == {"n_runs": 2}
    assert saved["AttributionCallback{'tag': 'b'}"] == {"n_runs": 1}

    first, second = callbacks()
    trainer = make_trainer(first, second, max_epochs=3)
    trainer.fit(make_net(), make_loader(4), make_loader(4), ckpt_path=tmp_path / "last.ckpt")
    assert first.n_runs == 3 and second.n_runs == 2


def test_L13_two_callbacks_need_two_tags(make_trainer, make_callback) -> None:
    with pytest.raises(RuntimeError, match="state_key"):
        make_trainer(make_callback(), make_callback())


@pytest.mark.parametrize("fixed", [True, False])
def test_L21_a_shuffled_loader_gives_the_same_samples_each_epoch(
    fixed, make_net, make_loader, make_trainer, make_callback
) -> None:
    seen = []

    class Recording(AttributionCallback):
        def on_validation_epoch_end(self, trainer, pl_module):
            super().on_validation_epoch_end(trainer, pl_module)
            seen.append(self.last[0].input)

    torch.manual_seed(0)
    callback = Recording("saliency", n_samples=4, fixed_samples=fixed, loggers="none", on_error="raise")
    trainer = make_trainer(callback, max_epochs=3, num_sanity_val_steps=0)
    trainer.fit(make_net(), make_loader(4), make_loader(32, shuffle=True))
    assert len(seen) == 3
    assert torch.equal(seen[0], seen[1]) == torch.equal(seen[0], seen[2]) == fixed


def test_the_training_stage_explains_the_batches_that_trained(
    make_net, make_loader, make_trainer, make_callback, tmp_path
) -> None:
    callback = make_callback(n_samples=3, stages=("train",), loggers="files", dirpath=str(tmp_path / "p"))
    make_trainer(callback, limit_val_batches=0).fit(make_net(), make_loader(8, 2))
    assert torch.equal(callback.last[0].input, make_loader(8).dataset.tensors[0][:3])
    assert [Path(p).name for p in (tmp_path / "p").iterdir()] == ["attribution-train-run0001-epoch0-step4-saliency.png"]


def test_pictures_of_different_sizes_end_the_collection(net_class, make_net, make_trainer, make_callback) -> None:
    class AnySize(net_class):
        def forward(self, x):
            return self.body(x).flatten(2).mean(2)[:, :3]

    sizes = (8, 8, 10, 8)
    batches = [(torch.randn(1, 1, s, s), torch.zeros(1, dtype=torch.long)) for s in sizes]
    callback = make_callback(n_samples=4)
    make_trainer(callback).validate(make_net(AnySize), DataLoader(batches, batch_size=None), verbose=False)
    assert len(callback.last[0]) == 2
