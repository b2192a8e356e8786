"""`AttributionWriter`: whole data sets under `Trainer.predict`, both packages, any number of processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler

from interp_plugins import explain
from interp_plugins.core.errors import InputError, InputTypeError, InterpError, UnknownNameError
from interp_plugins.lightning import AttributionWriter
from interp_plugins.store import RunDiffersError
from interp_plugins.store.source import sample_seed

SCRIPT = Path(__file__).with_name("writer_script.py")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def write(make_net, make_trainer, make_loader, tmp_path) -> Any:
    """Predict over 16 samples with a writer that computes something cheap."""

    def go(loaders: Any = None, model: Any = None, trainer: Any = None, **kwargs: Any) -> AttributionWriter:
        writer = AttributionWriter(str(tmp_path / "run"), **{"methods": "saliency", **kwargs})
        trainer = make_trainer(writer, **{"limit_predict_batches": 1, **(trainer or {})})
        trainer.predict(model or make_net(), make_loader() if loaders is None else loaders, return_predictions=False)
        return writer

    return go


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available() or sys.platform != "linux", reason="needs gloo and fork")
def test_L19_L20_every_sample_once_under_both_packages_and_two_processes(tmp_path) -> None:
    packages = "pytorch_lightning,lightning.pytorch"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), packages],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [f.pop("package") for f in found] == packages.split(",")
    for one in found:
        assert one == {
            "samples": list(range(11)),
            "labels": [i % 3 for i in range(11)],
            "missing_after_stop": [3, 4, 5],
            "equal": True,
            "transferred": True,
        }


def test_every_sample_is_what_explain_gives(write, make_net, make_loader) -> None:
    methods = {"ig": {"n_steps": 3}, "noise_tunnel": {"nt_samples": 2, "n_steps": 2}}
    shuffled = DataLoader(make_loader().dataset, 4, shuffle=True)
    store = write(shuffled, methods=methods, target="label", class_names=["a", "b", "c"]).store
    assert store.complete and store.samples == list(range(16))
    x, y = make_loader().dataset[5]
    wanted = explain(make_net(), x[None], methods, target=y[None], seed=sample_seed(0, 5))
    for mine, theirs in zip(store[5], wanted, strict=True):
        assert torch.equal(mine.attributions, theirs.attributions)
    assert store[5][0].target_label == ("abc"[int(y)],)
    assert store.table()["label_name"].to_pylist()[5] == "abc"[int(y)]


def test_limits_of_the_loop_do_not_limit_the_writer_but_n_samples_does(write, tmp_path) -> None:
    assert len(write(n_samples=6).store) == 6
    with pytest.raises(RunDiffersError, match=r"data\.size: 6 there, 16 now"):
        write()
    with pytest.raises(InputError, match="limit_predict_batches=0 leaves out the whole prediction loop"):
        write(trainer={"limit_predict_batches": 0})


def test_a_try_out_explains_one_sample_and_writes_nothing(write, tmp_path) -> None:
    write(trainer={"fast_dev_run": True})
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputTypeError, match="n_stepz"):
        write(trainer={"fast_dev_run": True}, method_kwargs={"n_stepz": 3})


def test_one_of_several_dataloaders(write, make_loader, net_class, make_net) -> None:
    class MultiTarget(net_class):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return self(batch[0])

    loaders = [make_loader(4), make_loader(6, seed=1)]
    store = write(loaders, make_net(MultiTarget), dataloader_idx=1).store
    assert torch.equal(torch.tensor(store.array("inputs")[:]), make_loader(6, seed=1).dataset.tensors[0])
    with pytest.raises(InputError, match="dataloader_idx=2, but there are 2 predict dataloaders"):
        write(loaders, make_net(MultiTarget), dataloader_idx=2)


def test_the_writer_ends_with_the_command_that_shows_the_run(write, capsys) -> None:
    writer = write(methods="saliency", n_samples=2)
    assert f"interp-plugins insights {writer.output_dir}" in capsys.readouterr().out


def test_the_module_stays_as_it_was_and_inference_mode_does_no_harm(write, make_net) -> None:
    net = make_net().train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    write(model=net, methods="ig", method_kwargs={"n_steps": 3}, trainer={"inference_mode": True})
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(m.training for m in net.modules())


def test_a_layer_in_a_module_with_workers_and_failing_samples(write, make_loader) -> None:
    data = make_loader().dataset
    data.tensors[0][3, 0, 0, 0] = float("nan")
    store = write(DataLoader(data, 4, num_workers=1), methods=["gradcam"], layer="body.0", batch_size=4).store
    assert list(store.failed) == [3]
    assert store.array("gradcam").shape == (16, 1, 8, 8)
    assert store[2]["gradcam"].layer == "body.0"


def test_loaders_without_numbered_samples_are_refused(write, make_loader) -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(make_loader().dataset)

    for bad, text in (
        (DataLoader(Stream(), 4), "is a stream"),
        (DataLoader(make_loader().dataset, 4, sampler=SubsetRandomSampler([1, 2])), "SubsetRandomSampler chooses"),
        ([torch.zeros(2, 1, 8, 8)], "is a Tensor|is a list|give a torch.utils.data.DataLoader"),
    ):
        with pytest.raises(InterpError, match=text):
            write(bad)


def test_wrong_arguments_are_said_when_the_writer_is_made(tmp_path) -> None:
    for kwargs, error, text in (
        ({"methods": "salincy"}, UnknownNameError, "saliency"),
        ({"unit_size": 0}, InputError, "unit_size must be a positive int"),
        ({"on_error": "warn"}, InputError, "on_error must be 'record' or 'raise'"),
        ({"input_key": 0, "input_fn": len}, InputError, "not both"),
        ({"methods": "occlusion", "layer": "net"}, InputError, "no layer variant"),
    ):
        with pytest.raises(error, match=text):
            AttributionWriter(str(tmp_path), **kwargs)


def test_strategies_that_split_the_weights_are_refused(tmp_path, make_net) -> None:
    class FSDPStrategy:
        pass

    trainer = type("Trainer", (), {"strategy": FSDPStrategy(), "limit_predict_batches": 1.0})()
    with pytest.raises(NotImplementedError, match="AttributionWriter does not support FSDPStrategy"):
        AttributionWriter(str(tmp_path)).setup(trainer, make_net(), "predict")
    AttributionWriter(str(tmp_path)).setup(trainer, make_net(), "fit")


def test_L18_a_configuration_file_can_say_everything(tmp_path) -> None:
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(AttributionWriter, "writer")
    arguments = {
        "output_dir": str(tmp_path),
        "methods": {"ig": {"n_steps": 3}},
        "target": [0, 1],
        "unit_size": 8,
        "dtype": "float16",
        "mean": [0.5],
        "std": [0.5],
        "method_kwargs": {"baselines": "black"},
    }
    config = {"writer": {"class_path": "interp_plugins.lightning.AttributionWriter", "init_args": arguments}}
    make = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name in older versions
    made = make(parser.parse_object(config)).writer
    assert made.methods == {"ig": {"n_steps": 3}} and made.target == [0, 1]
    assert made.settings["dtype"] == "float16" and made.method_kwargs == {"baselines": "black"}
