"""`learn.explain_dataset`: a run directory from a Learner's own data, the same store as everywhere."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.store import ExplanationStore, RunDiffersError
from interp_plugins.store.source import sample_seed

METHODS = {"ig": {"n_steps": 3}, "noise_tunnel": {"nt_samples": 2, "n_steps": 2}}


@pytest.fixture
def run_path(tmp_path) -> Any:
    return tmp_path / "run"


def test_every_row_is_what_explain_gives(learn, run_path, unchanged) -> None:
    with unchanged(learn):
        store = learn.explain_dataset(learn.dls.valid, run_path, METHODS, target="label", unit_size=2, progress=False)
    assert store.complete and store.samples == list(range(6))
    wanted = learn.explain(ds_idx=1, idxs=[3], methods=METHODS, target="label", seed=sample_seed(0, 3))
    for mine, theirs in zip(store[3], wanted, strict=True):
        assert torch.equal(mine.attributions, theirs.attributions)
        assert torch.equal(mine.inputs, theirs.inputs)
        for name in ("target", "target_label", "prediction_label", "names", "title", "spec"):
            assert getattr(mine, name) == getattr(theirs, name), name
    truth = [learn.dls.valid_ds[i][1] for i in range(6)]
    assert store.table()["label"].to_pylist() == [int(y) for y in truth]
    assert store.table()["label_name"].to_pylist() == [learn.dls.vocab[int(y)] for y in truth]
    assert set(store.summary(by="label").index) <= {"cat", "dog"}


def test_training_data_are_read_without_augmentation_and_two_processes_share_the_work(learn, tmp_path) -> None:
    whole = learn.explain_dataset(0, tmp_path / "one", "saliency", unit_size=4, progress=False)
    for rank in (1, 0):
        learn.explain_dataset(0, tmp_path / "two", "saliency", unit_size=4, rank=rank, world_size=2, progress=False)
    halves = ExplanationStore(tmp_path / "two")
    assert halves.complete and len(halves) == 14
    for name in ("saliency", "inputs"):
        assert halves.array(name)[:].tobytes() == whole.array(name)[:].tobytes()


def test_a_broken_picture_is_recorded_and_the_rest_goes_on(learn, dls, tmp_path, run_path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for source, file in zip(dls.valid_ds.items, files):
        shutil.copy(source, file)
    files[2].write_bytes(b"no picture")
    loader = learn.dls.test_dl(files)
    store = learn.explain_dataset(loader, run_path, "saliency", unit_size=2, batch_size=2, progress=False)
    assert list(store.failed) == [2] and "2.png" in store.failed[2]
    assert store.table()["name"].to_pylist() == [f.name for f in files]
    shutil.copy(dls.valid_ds.items[2], files[2])
    with pytest.raises(RunDiffersError, match=r"data\.samples"):  # the data are not what they were
        learn.explain_dataset(loader, run_path, "saliency", unit_size=2, batch_size=2, progress=False)


def test_a_trained_model_is_another_run(learn, run_path) -> None:
    learn.explain_dataset(path=run_path, methods="saliency", progress=False)
    with learn.no_logging():
        learn.fit(1, 1e-2)
    with pytest.raises(RunDiffersError, match=r"model\.weights"):
        learn.explain_dataset(path=run_path, methods="saliency", progress=False)


def test_what_is_no_loader_with_data_is_refused(learn, run_path, picture) -> None:
    for dl, error, text in (
        (7, InputError, "dl=7, but the data have 2 splits"),
        ([torch.zeros(1, 3, 20, 20)], InputTypeError, "takes a fastai or PyTorch DataLoader"),
    ):
        with pytest.raises(error, match=text):
            learn.explain_dataset(dl, run_path)
    with pytest.raises(InputTypeError, match="takes baselines by name"):
        learn.explain_dataset(1, run_path, baselines=picture)
    learn.export(run_path.with_suffix(".pkl"))
    from fastai.learner import load_learner

    with pytest.raises(InputError, match="holds no data"):
        load_learner(run_path.with_suffix(".pkl")).explain_dataset(1, run_path)


def test_loaders_of_pytorch_in_a_known_order(tmp_path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(10, 4), torch.arange(10) % 2
    data = torch.utils.data.TensorDataset(x, y)
    loaders = [torch.utils.data.DataLoader(data, batch_size=4, shuffle=mixed) for mixed in (True, False)]
    learn = Learner(DataLoaders(*loaders), torch.nn.Linear(4, 2), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    store = learn.explain_dataset(loaders[1], tmp_path / "run", "ixg", target="label", progress=False)
    assert store.complete and store.table()["label"].to_pylist() == y.tolist()
    expected = x * learn.model.weight.detach()[y]
    assert torch.allclose(torch.cat([store[i][0].attribution for i in range(10)]), expected, atol=1e-6)
    assert len(learn.explain_dataset(1, tmp_path / "split", "ixg", progress=False)) == 10
    for dl in (loaders[0], 0):
        with pytest.raises(InputError, match=r"shuffles.*DataLoader\(dl\.dataset"):
            learn.explain_dataset(dl, tmp_path / "never", "ixg", progress=False)
