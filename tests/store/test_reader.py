"""Reading a run: samples, tables, arrays, selections, summaries, and runs that are not finished."""

from __future__ import annotations

import importlib
import shutil
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import zarr

from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, UnknownNameError
from interp_plugins.store import DamagedError, ExplanationStore, StoreError
from interp_plugins.store.arrays import shard_path
from interp_plugins.store.errors import need


@pytest.fixture
def copy(finished, tmp_path) -> ExplanationStore:
    """A copy that a test may damage."""
    shutil.copytree(finished.path, tmp_path / "copy")
    return ExplanationStore(tmp_path / "copy")


def test_samples_come_one_by_one_together_and_in_order(finished) -> None:
    assert len(finished) == finished.size == 11
    several = finished.load([7, 2])
    for mine, a, b in zip(several, finished[7], finished[2], strict=True):
        assert torch.equal(mine.attributions, torch.cat([a.attributions, b.attributions]))
        assert torch.equal(mine.score, torch.cat([a.score, b.score]))
        assert mine.target == (*a.target, *b.target)
        assert mine.meta["samples"] == [7, 2]
    assert [e[0].meta["samples"] for e in finished] == [[i] for i in range(11)]
    assert torch.equal(finished[-1]["ig"].attributions, finished[10]["integrated_gradients"].attributions)
    assert len(finished[2:5][0]) == 3
    assert finished.load([1, 2])["nt"].params["stdevs"] == finished[1]["nt"].params["stdevs"]


def test_what_is_read_can_be_drawn_and_saved(finished, tmp_path) -> None:
    figure, _ = finished.load([0, 1]).plot()
    figure.savefig(tmp_path / "maps.png")
    assert (tmp_path / "maps.png").stat().st_size > 5_000
    path = finished[0].save(tmp_path / "one.safetensors")
    assert path.exists()


def test_the_table_holds_a_row_per_sample(finished) -> None:
    frame = finished.to_df()
    assert isinstance(frame, pd.DataFrame)
    assert frame["sample"].tolist() == list(range(11))
    assert frame["label"].tolist() == [i % 3 for i in range(11)]
    assert frame["label_name"].tolist() == [("cat", "dog", "fox")[i % 3] for i in range(11)]
    for i in (0, 5):
        exp = finished[i]["ig"]
        row = frame.iloc[i]
        assert row["probability"] == pytest.approx(float(exp.probability))
        assert row["integrated_gradients.sum"] == pytest.approx(float(exp.attributions.double().sum()))
        assert row["integrated_gradients.relative_delta"] == pytest.approx(float(exp.relative_delta))
        assert row["integrated_gradients.forward_passes"] == exp.meta["forward_passes"]


def test_others_read_the_files_without_us(finished) -> None:
    """The layout is Zarr 3 and Parquet as anybody's tools read them; a unit is one shard and one part."""
    group = zarr.open_group(str(finished.path / "arrays"), mode="r")
    array = group["integrated_gradients"]
    assert array.metadata.zarr_format == 3
    assert array.shards == (4, 1, 8, 8) and array.chunks == (1, 1, 8, 8)
    assert array.metadata.dimension_names[0] == "sample"
    for unit in range(3):
        assert shard_path(finished.path, "integrated_gradients", unit, 4).is_file()
    assert len(list((finished.path / "arrays" / "integrated_gradients").rglob("*"))) == 2 + 3 * 4
    parts = sorted((finished.path / "parts").iterdir())
    assert [pq.read_metadata(p).num_rows for p in parts] == [4, 4, 3]
    table = pq.read_table(finished.path / "parts")  # as a data set
    assert sorted(table["sample"].to_pylist()) == list(range(11))
    assert pq.read_schema(parts[1]).metadata[b"unit"] == b"1"


def test_arrays_by_name_and_alias(finished) -> None:
    assert finished.array("ig").shape == finished.array("inputs").shape == (11, 1, 8, 8)
    assert finished.array("nt") is finished.array("noise_tunnel")
    with pytest.raises(UnknownNameError, match=r"Unknown method in this run 'saliency'.*integrated_gradients"):
        finished.array("saliency")
    with pytest.raises(UnknownNameError, match="Unknown array of this run ''"):
        finished.array()


@pytest.mark.parametrize(
    ("conditions", "wanted"),
    [
        ({"label": 1}, lambda f: f["label"] == 1),
        ({"label": "dog"}, lambda f: f["label"] == 1),
        ({"label": ["cat", "fox"]}, lambda f: f["label"] != 1),
        ({"label": {0, 2}}, lambda f: f["label"] != 1),
        ({"target": "fox"}, lambda f: f["target"] == 2),
        ({"correct": True}, lambda f: f["label"] == f["prediction"]),
        ({"correct": False, "label": 0}, lambda f: (f["label"] != f["prediction"]) & (f["label"] == 0)),
        ({"probability": (0.3, None)}, lambda f: f["probability"] >= 0.3),
        ({"probability": (None, 0.35)}, lambda f: f["probability"] <= 0.35),
        ({"sample": (3, 6)}, lambda f: f["sample"].between(3, 6)),
        ({"sample": range(2, 4)}, lambda f: f["sample"].isin([2, 3])),
        ({"name": None}, lambda f: f["name"].isna()),
        ({"status": "error"}, lambda f: f["status"] == "error"),
    ],
)
def test_where_selects(finished, conditions, wanted) -> None:
    frame = finished.to_df()
    found = finished.where(**conditions)
    assert found.samples == frame["sample"][wanted(frame)].tolist()
    assert len(found) == len(found.samples) and len(finished) == 11
    assert [e[0].meta["samples"][0] for e in found] == found.samples


def test_where_takes_expressions_and_chains(finished) -> None:
    frame = finished.to_df()
    found = finished.where(pc.field("score") > 0).where(label=[0, 1])
    assert found.samples == frame["sample"][(frame["score"] > 0) & frame["label"].isin([0, 1])].tolist()
    assert torch.equal(found[10][0].inputs, finished[10][0].inputs)  # numbers stay those of the data set


def test_where_refuses_what_it_does_not_know(finished) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown column 'probabilty'. Did you mean 'probability'"):
        finished.where(probabilty=1)
    with pytest.raises(InputTypeError, match="takes pyarrow expressions"):
        finished.where("score > 3")


def test_summary_counts_and_averages(finished) -> None:
    frame = finished.to_df()
    by_label = finished.summary(by="label")
    assert by_label.index.tolist() == ["cat", "dog", "fox"]
    assert by_label["samples"].tolist() == [4, 4, 3]
    right = frame["prediction"] == frame["label"]
    assert by_label["accuracy"].tolist() == pytest.approx([right[frame["label"] == c].mean() for c in range(3)])
    assert by_label["probability"]["dog"] == pytest.approx(frame["probability"][frame["label"] == 1].mean())
    assert by_label["integrated_gradients.forward_passes"].tolist() == [6, 6, 6]  # 5 steps and F(baseline)
    whole = finished.summary()
    assert whole["samples"].tolist() == [11] and whole["failed"].tolist() == [0]
    assert set(finished.summary(by="correct").index) == set(right.astype(float))
    assert finished.where(label=1).summary()["samples"].tolist() == [4]
    with pytest.raises(UnknownNameError, match=r"Unknown column 'lable'. Did you mean 'label'"):
        finished.summary(by="lable")


def test_a_run_that_is_not_finished_says_what_is_missing(copy) -> None:
    (copy.path / "parts" / "part-00000001.parquet").unlink()
    store = ExplanationStore(copy.path)
    assert store.missing == [1] and not store.complete
    assert store.samples == [0, 1, 2, 3, 8, 9, 10]
    assert "7 of 11 samples" in repr(store) and "1 of 3 units missing" in repr(store)
    with pytest.raises(StoreError, match=r"Sample 5 belongs to unit 1, which is not done .missing: 1.. Run"):
        store[5]
    assert torch.equal(store[9][0].attributions, copy[9][0].attributions)
    assert copy.refresh().missing == [1]


def test_a_damaged_array_is_an_error_and_no_wrong_map(copy) -> None:
    shard = shard_path(copy.path, "occlusion", 0, 4)
    damaged = bytearray(shard.read_bytes())
    damaged[40] ^= 255
    shard.write_bytes(damaged)
    with pytest.raises(DamagedError, match=r"c/0/0/0/0 is not what was written: its digest does not fit .unit 0."):
        copy.array("occlusion")[0]


def test_what_is_no_run_is_said(tmp_path, copy) -> None:
    with pytest.raises(StoreError, match=r"No run of explanations at .*there is no manifest.json"):
        ExplanationStore(tmp_path / "nothing")
    shutil.rmtree(copy.path / "arrays" / "occlusion")
    with pytest.raises(StoreError, match="has no array 'occlusion' on the disk, though its manifest lists it"):
        copy[0]
    with pytest.warns(InterpWarning, match=r"3 unit.s. of the run at .* are damaged and count as missing"):
        store = ExplanationStore(copy.path)
    with pytest.raises(DamagedError, match=r"Sample 0 belongs to unit 0: .*occlusion/c/0/0/0/0 is missing"):
        store[0]


def test_samples_are_asked_for_by_number(finished) -> None:
    for bad, error, text in (
        (11, IndexError, "Sample 11 asked for, but the run has 11 samples"),
        ("a", InputTypeError, "by its number in the data set, got 'a'"),
        (True, InputTypeError, "by its number"),
        (slice(4, 4), InputError, "No samples are asked for"),
    ):
        with pytest.raises(error, match=text):
            finished[bad]


def test_missing_packages_are_named(monkeypatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"need pyarrow: pip install 'interp-plugins\[store\]'"):
        need("pyarrow")
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    with pytest.raises(
        ImportError, match=r"need zarr: its version 3 format needs Python 3.11 or later, and this is 3.10"
    ):
        need("zarr")


def test_arrays_are_numpy_for_numpy(finished) -> None:
    mean_map = np.abs(np.asarray(finished.array("occlusion")[:])).mean((0, 1))
    assert mean_map.shape == (8, 8) and np.isfinite(mean_map).all()
