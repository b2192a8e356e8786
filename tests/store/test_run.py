"""Making a run: what it computes, how it is cut and resumed, what it refuses, what it does with samples that fail."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Subset, SubsetRandomSampler, TensorDataset

from interp_plugins import explain
from interp_plugins.core import files
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, TargetError
from interp_plugins.core.multi_target import AllClasses
from interp_plugins.core.random import sample_seed
from interp_plugins.core.target import Probability, RatherThan
from interp_plugins.store import DiskFullError, ExplanationStore, RunDiffersError, StoreError, explain_dataset
from interp_plugins.store import arrays as arrays_module
from interp_plugins.store import manifest as manifest_module
from interp_plugins.store import table_parts as parts_module
from interp_plugins.store.dataset import apart


@pytest.fixture
def go(new_net: Any, pictures: Any, methods: Any, spec: Any, run_path: Path) -> Callable[..., ExplanationStore]:
    """The run of `finished`, with changes."""

    def make(model: Any = None, data: Any = None, path: Path = run_path, **changes: Any) -> ExplanationStore:
        arguments = {"methods": methods, "target": "label", "unit_size": 4, "input_spec": spec, "progress": False}
        return explain_dataset(
            model if model is not None else new_net(),
            data if data is not None else pictures(),
            path,
            **{**arguments, **changes},
        )

    return make


def test_every_sample_is_what_explain_gives_for_it_alone(finished, net, pictures, methods, spec) -> None:
    data = pictures()
    for i in (0, 6, 10):
        x, y = data[i]
        wanted = explain(net, x[None], methods, target=torch.tensor([y]), input_spec=spec, seed=sample_seed(0, i))
        found = finished[i]
        assert found.methods == wanted.methods
        for mine, theirs in zip(found, wanted, strict=True):
            for name in ("attributions", "inputs", "probability", "score", "baseline_score", "convergence_delta"):
                a, b = getattr(mine, name), getattr(theirs, name)
                assert (a is None and b is None) or (a.dtype == b.dtype and torch.equal(a, b)), (mine.method, name)
            for name in (
                "target",
                "target_label",
                "prediction",
                "prediction_label",
                "title",
                "params",
                "layer",
                "seed",
            ):
                assert getattr(mine, name) == getattr(theirs, name), name
            assert mine.spec == theirs.spec
            assert mine.meta["fingerprint"] == theirs.meta["fingerprint"]
            assert mine.meta["forward_passes"] == theirs.meta["forward_passes"]


def test_shuffled_loaders_workers_and_processes_change_nothing(finished, go, pictures, contents) -> None:
    loader = DataLoader(pictures(), batch_size=5, shuffle=True, num_workers=2, drop_last=True)
    for rank in (2, 0, 1):
        store = go(data=loader, rank=rank, world_size=3)
    assert store.complete
    assert contents(store) == contents(finished)


def test_random_transforms_depend_on_the_sample_alone(go, pictures, contents, tmp_path) -> None:
    noisy = [go(data=pictures(noise=0.5), path=tmp_path / name, methods="saliency") for name in ("a", "b")]
    assert contents(noisy[0]) == contents(noisy[1])
    seeded = go(data=pictures(noise=0.5), path=tmp_path / "c", methods="saliency", seed=1)
    assert contents(seeded)[0]["inputs"] != contents(noisy[0])[0]["inputs"]


def test_nothing_of_the_caller_changes(go, new_net, pictures) -> None:
    model = new_net().train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    with pytest.raises(OSError, match="picture9"):
        go(model, pictures(unreadable=(9,)), on_error="raise")
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_methods_without_draws_may_share_a_pass(go, run_path, finished) -> None:
    store = go(methods={"ig": {"n_steps": 5}}, batch_size=3)
    assert store.manifest.identity["batch_size"] == 3
    np.testing.assert_allclose(store.array("ig")[:], finished.array("ig")[:], rtol=1e-4, atol=1e-6)
    assert store.table()["integrated_gradients.forward_passes"].to_pylist() == [6] * 11  # 5 steps and F(baseline)


def test_what_draws_nothing_goes_in_batches_by_itself(go, tmp_path, contents, finished) -> None:
    ways = {"methods": {"ig": {"n_steps": 5}}}
    store = go(path=tmp_path / "whole", unit_size=4, **ways)
    assert store.manifest.identity["batch_size"] is None
    assert store.table()["integrated_gradients.seconds"].to_pylist()[0] is not None
    np.testing.assert_allclose(store.array("ig")[:], finished.array("ig")[:], rtol=1e-4, atol=1e-6)
    for rank in (1, 0):  # another division of the work, the same bits
        shared = go(path=tmp_path / "shared", unit_size=4, rank=rank, world_size=2, **ways)
    assert contents(shared) == contents(store)
    begun = go(path=tmp_path / "one", unit_size=4, batch_size=1, rank=0, world_size=2, **ways)
    assert not begun.complete
    gone_on = go(path=tmp_path / "one", unit_size=4, **ways)  # as it began
    assert gone_on.complete and contents(gone_on) == contents(
        go(path=tmp_path / "alone", unit_size=4, batch_size=1, **ways)
    )


def test_rows_that_feel_each_other_are_explained_alone(tmp_path) -> None:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(6, 3))
    coupled = nn.Sequential(nn.Softmax(0), nn.Linear(3, 2))
    maps = []
    for size in (None, 1):
        options: dict[str, Any] = {"target": 0, "unit_size": 3, "batch_size": size, "progress": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InterpWarning)
            store = explain_dataset(coupled, data, tmp_path / f"{size}", "saliency", **options)
        maps.append(store.array("saliency")[:])
    assert maps[0].tobytes() == maps[1].tobytes()


@pytest.mark.parametrize(
    ("target", "threshold", "alike"),
    [
        (None, None, True), ("label", None, True), (3, 0.5, True), (None, 0.5, False), (["label"], 0.5, False),
        ("all", None, False), ([AllClasses()], None, False), (RatherThan(None, 2), 0.5, False), ([1, 2], 0.5, True),
    ],
)  # fmt: skip
def test_which_targets_are_a_samples_own(target, threshold, alike) -> None:
    assert apart(target, threshold) is alike


def test_methods_that_draw_are_explained_one_by_one(go, finished, contents) -> None:
    store = go(batch_size=8)
    assert store.manifest.identity["batch_size"] == 1
    assert contents(store) == contents(finished)


def test_several_targets_layers_and_several_inputs_are_kept_apart(run_path, new_net, pictures, tmp_path) -> None:
    store = explain_dataset(
        new_net(), pictures(), run_path, {"saliency": {}, "ig": {"n_steps": 3}}, target=[0, 2], progress=False
    )
    assert store.methods == ["saliency", "saliency_2", "integrated_gradients", "integrated_gradients_2"]
    found = store[4]
    assert [e.target for e in found] == [(0,), (2,), (0,), (2,)]
    assert not torch.equal(found[0].score, found[1].score)
    assert torch.equal(found[1].score, found[3].score)

    layered = explain_dataset(
        new_net(), pictures(), tmp_path / "layer", ("gradcam",), layer="0", batch_size=4, progress=False
    )
    assert layered.array("gradcam").shape == (11, 1, 6, 6)
    assert layered[3]["gradcam"].layer == "0"

    class Two(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return torch.stack([(a * b).sum(1), a.sum(1)], 1)

    pairs = TensorDataset(torch.randn(5, 3), torch.randn(5, 3))
    double = explain_dataset(
        Two(), pairs, tmp_path / "two", "input_x_gradient", target=0, input_fn=tuple_of_two, progress=False
    )
    (pair,) = double[4]
    a, b = pairs[4]
    assert torch.equal(pair.attributions[0], (a * b)[None])
    assert torch.equal(pair.inputs[1], b[None])
    assert double.array("input_x_gradient/1").shape == (5, 3)


def tuple_of_two(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return batch[0], batch[1]


def test_a_target_per_sample_of_the_data(go, finished, pictures, contents) -> None:
    store = go(target=torch.tensor(pictures().y))
    assert contents(store) == contents(finished)


def test_a_target_per_sample_and_the_ground_truth_stand_in_targets_too(go, finished, pictures) -> None:
    truth = torch.tensor(pictures().y)
    found = go(target=[Probability(truth), Probability("label"), truth], methods="input_x_gradient")
    first, second, plain = (found.array(f"input_x_gradient{end}")[:] for end in ("", "_2", "_3"))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - plain).max() > 0


def test_dtype_and_inputs_can_be_left_small(go, finished) -> None:
    store = go(dtype="float16", save_inputs=False, methods="ig", n_steps=5)
    assert store.array("ig").dtype == np.float16
    np.testing.assert_allclose(store.array("ig")[:], finished.array("ig")[:], rtol=1e-3, atol=1e-4)
    with pytest.raises(StoreError, match=r"keeps no inputs .save_inputs=False"):
        store[0]


# -- resuming ------------------------------------------------------------------------------------------------------


def test_it_goes_on_where_it_stopped_and_does_nothing_twice(go, pictures, finished, contents) -> None:
    class Stops(pictures):
        seen: list[int] = []

        def __getitem__(self, i: int) -> Any:
            if len(self.seen) > 12:
                raise KeyboardInterrupt
            self.seen.append(i)
            return super().__getitem__(i)

    with pytest.raises(KeyboardInterrupt):
        go(data=Stops())
    Stops.seen.clear()
    again = go(data=Stops())
    assert Stops.seen.count(1) == 0  # unit 0 was done; its samples are read for the fingerprint only
    assert contents(again) == contents(finished)
    written = {p: p.stat().st_mtime_ns for p in again.path.rglob("*") if p.is_file()}
    go()
    assert {p: p.stat().st_mtime_ns for p in again.path.rglob("*") if p.is_file()} == written


def test_parts_without_arrays_never_happen_and_arrays_without_parts_are_made_again(go, finished, contents) -> None:
    store = go()
    parts_module.path_of(store.path, 1).unlink()
    shard = arrays_module.shard_path(store.path, "occlusion", 1, 4)
    shard.write_bytes(shard.read_bytes()[:100])  # as after a power cut
    gone = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(gone, 0)
    for place in (store.path / "parts" / "part-00000001.parquet", store.path / "unit-00000001"):
        with files.draft_of(place) as draft:
            draft.with_name(draft.name.replace(f"-{os.getpid()}.", f"-{gone}.")).write_bytes(b"half")
    assert ExplanationStore(store.path).missing == [1]
    again = go()
    assert contents(again) == contents(finished)
    assert sorted(p.name for p in (store.path / "parts").iterdir()) == [f"part-0000000{u}.parquet" for u in range(3)]


def test_another_run_is_refused_with_the_keys_that_differ(go, new_net, pictures) -> None:
    go()
    other = pictures()
    other.x = other.x + 1
    longer = pictures(noise=0.1)
    for changes, keys in (
        ({"model": new_net(1)}, ["model.weights"]),
        ({"data": other}, ["data.samples"]),
        ({"data": longer}, ["data.samples"]),
        ({"n_samples": 10}, ["data.size: 11 there, 10 now"]),
        ({"seed": 4}, ["seed: 0 there, 4 now"]),
        ({"target": None}, ["target: 'label' there, None now"]),
        ({"unit_size": 5}, ["unit_size: 4 there, 5 now"]),
        ({"dtype": "float16"}, ["dtype: None there, 'float16' now"]),
        ({"baselines": "zero"}, ["options.baselines: nothing there, 'zero' now"]),
        ({"names": [str(i) for i in range(11)]}, ["data.names"]),
        ({"methods": {"ig": {"n_steps": 6}}}, ["methods\\[0\\].params.n_steps: 5 there, 6 now"]),
        ({"model": nn.Sequential(*list(new_net())[:-1], nn.Dropout(0.5))}, ["model.weights", "model.structure"]),
        ({"seed": 4, "target": 1}, ["target: 'label' there, 1 now", "seed: 0 there, 4 now"]),
    ):
        for key in keys:
            with pytest.raises(RunDiffersError, match=key):
                go(**changes)
    go(unit_size=None)  # None takes the size of the run


def test_only_the_keys_that_differ_are_named(go) -> None:
    go(methods="saliency", input_spec=None)
    with pytest.raises(RunDiffersError) as caught:
        go(methods="saliency", input_spec=None, baselines="zero")
    assert "is another one: options.baselines: nothing there, 'zero' now. To go on" in str(caught.value)


def test_functions_are_told_apart_by_what_they_do(go, run_path) -> None:
    def times(k: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda out: k * out[:, 0]

    go(target=times(2), methods="saliency")
    go(target=times(2), methods="saliency")
    with pytest.raises(RunDiffersError, match="target"):
        go(target=times(3), methods="saliency")
    with pytest.raises(RunDiffersError, match="target"):
        go(target=lambda out: 2 * out[:, 1], methods="saliency")


def test_other_versions_or_threads_are_said(go, monkeypatch) -> None:
    go(methods="saliency")
    monkeypatch.setattr(torch, "__version__", "2.0.0")
    with pytest.warns(InterpWarning, match=r"torch .* then, 2.0.0 now\); what is computed now may differ"):
        go(methods="saliency")


def test_a_directory_with_other_things_is_left_alone(go, run_path) -> None:
    run_path.mkdir()
    (run_path / "thesis.tex").write_text("...")
    with pytest.raises(StoreError, match=r"holds other files .thesis.tex. and no manifest.json"):
        go()
    assert [p.name for p in run_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(StoreError, match="is a file"):
        go(path=run_path / "thesis.tex")


# -- samples that fail, disks that are full ---------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_sample_that_cannot_be_read_is_recorded(go, pictures, finished, batch_size) -> None:
    store = go(data=pictures(unreadable=(0, 6)), batch_size=batch_size, methods={"ig": {"n_steps": 5}})
    assert store.complete and len(store) == 9
    assert store.failed == {i: f"OSError: cannot identify image file 'picture{i}.png'" for i in (0, 6)}
    maps = store.array("ig")[:]
    assert np.isnan(maps[[0, 6]]).all()
    good = [i for i in range(11) if i not in (0, 6)]
    np.testing.assert_allclose(maps[good], finished.array("ig")[:][good], rtol=1e-4, atol=1e-6)
    with pytest.raises(StoreError, match="Sample 6 has no maps: OSError: cannot identify"):
        store[6]


def test_a_sample_that_cannot_be_explained_is_recorded_and_its_neighbours_are_not(go, pictures) -> None:
    data = pictures()
    data.x[5, 0, 3, 3] = float("nan")
    store = go(data=data, methods={"ig": {"n_steps": 5}}, batch_size=4)
    assert list(store.failed) == [5]
    assert "contains NaN" in store.failed[5]
    assert len(store) == 10
    with pytest.raises(InputError, match="contains NaN"):
        go(data=data, on_error="raise", path=store.path.with_name("other"))


def test_failed_samples_are_done_again_when_asked(go, pictures, finished, contents) -> None:
    class Later(pictures):
        """Sample 6 can be read the second time."""

        tries = 0

        def __getitem__(self, i: int) -> Any:
            if i == 6:
                type(self).tries += 1
                if self.tries == 1:
                    raise OSError("stale file handle")
            return super().__getitem__(i)

    assert list(go(data=Later()).failed) == [6]
    assert list(go(data=Later()).failed) == [6]
    store = go(data=Later(), retry_failed=True)
    assert store.failed == {}
    assert contents(store) == contents(finished)


def test_pictures_of_another_size_are_recorded(run_path, pictures) -> None:
    class Sizes(pictures):
        def __getitem__(self, i: int) -> Any:
            return torch.ones(1, 8 + (i == 7), 8), 0

    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    store = explain_dataset(net, Sizes(), run_path, "saliency", batch_size=4, unit_size=4, progress=False)
    assert list(store.failed) == [7]
    assert "(1, 9, 8)" in store.failed[7] and "All samples of a run have one size" in store.failed[7]


def test_wrong_arguments_are_said_before_anything_is_written(go, run_path) -> None:
    with pytest.raises(InputTypeError, match="n_stepz"):
        go(n_stepz=3)
    assert not run_path.exists()


def test_no_readable_sample_is_an_error_and_no_run(go, pictures, run_path) -> None:
    with pytest.raises(StoreError, match=r"None of the first 8 samples can be read.*picture0"):
        go(data=pictures(unreadable=tuple(range(11))))
    assert not run_path.exists()


@pytest.mark.parametrize("where", ["arrays", "part"])
def test_a_full_disk_is_a_clear_error_and_loses_nothing(go, run_path, finished, contents, monkeypatch, where) -> None:
    """The third write of its kind finds no room, once; the system call fails as it does on a full disk."""
    count = 0
    real = os.fsync

    def full(fd: int) -> None:
        nonlocal count
        name = os.readlink(f"/proc/self/fd/{fd}")
        if ("/c/" in name and "arrays" in name if where == "arrays" else "/parts/." in name) and os.path.isfile(name):
            count += 1
            if count == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        DiskFullError, match=r"the disk is full .*Everything that was committed before is safe.*run again"
    ):
        go()
    store = ExplanationStore(run_path)
    assert store.missing == ([0, 1, 2] if where == "arrays" else [2])
    assert not list(store.path.glob("parts/.*"))
    assert contents(go()) == contents(finished)


# -- arguments -------------------------------------------------------------------------------------------------------


def test_rank_and_world_size_come_from_torchrun(go, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    store = go(methods="saliency")
    assert store.missing == [0, 2]
    assert go(methods="saliency", rank=0, world_size=1).complete


def test_data_that_cannot_be_resumed_are_refused(go, pictures) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    data = pictures()
    for bad, error, text in (
        (Stream(), InputTypeError, "is a stream"),
        (DataLoader(Stream()), InputTypeError, "is a stream"),
        (iter([1]), InputTypeError, "__getitem__ and __len__"),
        (DataLoader(data, sampler=SubsetRandomSampler([1, 2])), InputError, "SubsetRandomSampler chooses.*Subset"),
        (DataLoader(data, sampler=RandomSampler(data, num_samples=3)), InputError, "RandomSampler chooses"),
        (DataLoader(data, batch_size=None), InputError, "gives whole batches"),
        (Subset(data, []), InputError, "is empty"),
    ):
        with pytest.raises(error, match=text):
            go(data=bad)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"unit_size": 0}, "unit_size must be a positive int, got 0"),
        ({"batch_size": True}, "batch_size must be a positive int"),
        ({"dtype": "int8"}, "dtype must be None"),
        ({"on_error": "skip"}, "on_error must be 'record' or 'raise', got 'skip'"),
        ({"seed": None}, "seed must be an int"),
        ({"rank": 2, "world_size": 2}, "rank=2 does not fit world_size=2"),
        ({"rank": 2}, "Give rank and world_size, or neither"),
        ({"names": ["a"]}, "names has 1 entries for 11 samples"),
        ({"n_samples": 0}, "n_samples must be a positive int"),
        ({"input_fn": 3}, "input_fn must be a function"),
        ({"additional_forward_args": 1}, "takes no additional_forward_args"),
        ({"target": torch.zeros(3, dtype=torch.long)}, r"one class index per sample of the data, \(11,\)"),
    ],
)
def test_bad_arguments_are_refused(go, changes, text) -> None:
    with pytest.raises((InputError, InputTypeError), match=text):
        go(**changes)


def test_the_label_is_asked_for_where_there_is_none(run_path, net) -> None:
    data = TensorDataset(torch.randn(4, 1, 8, 8))
    with pytest.raises(TargetError, match='target="label" needs the ground truth'):
        explain_dataset(net, data, run_path, "saliency", target="label", progress=False)


def test_names_of_folders_of_files_are_found(run_path, net, pictures) -> None:
    class Folder(pictures):
        samples = [(f"/data/cats/{i}.png", 0) for i in range(11)]

    store = explain_dataset(net, Folder(), run_path, "saliency", n_samples=5, progress=False)
    assert store.table()["name"].to_pylist() == [f"cats/{i}.png" for i in range(5)]
    assert store[2][0].names == ("cats/2.png",)


def test_manifests_of_other_versions_are_refused(go) -> None:
    store = go(methods="saliency")
    file = store.path / manifest_module.NAME
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "schema": 99}))
    with pytest.raises(StoreError, match="has schema 99, and this version of interp_plugins reads schema 2"):
        ExplanationStore(store.path)
    file.write_text("{")
    with pytest.raises(StoreError, match="is no manifest of a run"):
        ExplanationStore(store.path)


# -- many processes at once ------------------------------------------------------------------------------------------


def test_a_manifest_that_appears_between_two_looks_is_no_foreign_file(go, run_path, monkeypatch) -> None:
    """The other process publishes just after this one has found no manifest."""
    real = manifest_module.read
    looks = []

    def read(path: Path) -> Any:
        looks.append(found := real(path))
        if len(looks) == 2:  # the look of check_free
            monkeypatch.setattr(manifest_module, "read", real)
            go(rank=1, world_size=2)
        return found

    run_path.mkdir()
    monkeypatch.setattr(manifest_module, "read", read)
    assert go(rank=0, world_size=2).complete
    assert looks == [None, None]


def test_arrays_that_appear_while_they_are_made_are_taken_as_they_are(go, run_path, monkeypatch) -> None:
    """The other process makes the arrays, and does a unit, while this one makes its own."""
    real = arrays_module._make
    shards = []

    def make(folder: Path, *rest: Any) -> None:
        real(folder, *rest)
        with monkeypatch.context() as inner:
            inner.setattr(arrays_module, "_make", real)
            shards.append(arrays_module.shard_path(go(rank=1, world_size=2).path, "occlusion", 1, 4).stat())

    monkeypatch.setattr(arrays_module, "_make", make)
    store = go(rank=0, world_size=2)
    assert store.complete
    assert arrays_module.shard_path(store.path, "occlusion", 1, 4).stat().st_mtime_ns == shards[0].st_mtime_ns
    assert sorted(p.name for p in run_path.iterdir()) == ["arrays", "manifest.json", "parts"]


def test_units_whose_arrays_are_gone_are_not_taken_for_done(go) -> None:
    store = go(methods="saliency")
    parts_module.path_of(store.path, 1).unlink()
    shutil.rmtree(store.path / "arrays")
    with pytest.raises(StoreError, match="lists units that are done, but its folder arrays is gone"):
        go(methods="saliency")
