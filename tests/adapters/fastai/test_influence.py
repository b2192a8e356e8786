"""`learn.influence`: items of the data by their numbers, checkpoints of the last fit, the Learner as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fastai.callback.schedule import *  # noqa: F403 - adds fit_one_cycle
from fastai.callback.tracker import SaveModelCallback
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from torch import nn

from interp_plugins.core.errors import InputError
from interp_plugins.fastai.influence import HINT, checkpoints_of_fit, mean_rates
from interp_plugins.influence import influence


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    )


def test_items_have_their_numbers_in_the_data(dls: Any, tmp_path: Path, unchanged: Any) -> None:
    learn = Learner(dls, small(), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    item = dls.valid_ds.items[0]
    with unchanged(learn):
        found = learn.influence(item, k=4, method="fast", checkpoints="last", all_scores=True)
        rows = learn.influence(ds_idx=1, idxs=[0, 1], k=4, method="fast", checkpoints="last", all_scores=True)
    n = len(dls.train_ds)
    assert found.n == n and torch.allclose(found.every, rows.every[:1], atol=1e-6)
    for number in found.indices[0].tolist():
        file = dls.train_ds.items[number]
        assert found.names[number].endswith(file.name) and found.labels[number] == file.parent.name
    batch = dls.test_dl(list(dls.train_ds.items), with_labels=True, rm_type_tfms=0, num_workers=0, bs=n).one_batch()
    query = dls.test_dl([item], num_workers=0).one_batch()[0].as_subclass(torch.Tensor)
    train = tuple(v.as_subclass(torch.Tensor) for v in batch)
    plain = influence(learn.model, query, train, method="fast", all_scores=True)
    assert torch.allclose(found.every, plain.every, atol=1e-5)
    assert found.asked[0] in ("predicted cat", "predicted dog")
    found.show(maps=found.explain(learn.model, "saliency"))
    label = learn.influence(ds_idx=1, idxs=[0], k=2, method="fast", checkpoints="last", target="label")
    assert label.asked[0] == f"label {dls.valid_ds.items[0].parent.name}"
    with pytest.raises(InputError, match="train=7"):
        learn.influence(item, train=7)


def test_checkpoints_of_the_last_fit_are_found(dls: Any, tmp_path: Path) -> None:
    learn = Learner(dls, small(), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(3, 1e-2, cbs=SaveModelCallback(every_epoch=True, with_opt=True))
    files = checkpoints_of_fit(learn)
    assert [c.title for c in files] == ["model_0.pth", "model_1.pth", "model_2.pth"]
    assert [c.lr for c in files] == pytest.approx(mean_rates(learn.recorder.lrs, 3)) and files[2].lr > 1e-4
    learn.validate()  # the Recorder forgets its rates; the schedule keeps them
    assert learn.recorder.lrs == [] and [c.lr for c in checkpoints_of_fit(learn)] == pytest.approx(
        [c.lr for c in files]
    )
    found = learn.influence(ds_idx=1, idxs=[0], k=2)
    assert "TracIn (last layer)" in repr(found) and "3 checkpoints" in repr(found)
    assert "no learning rates" not in repr(found)
    learn.opt.hypers[-1]["lr"] = 0.5  # trained on without a schedule: what an earlier one wrote down is not its own
    assert [c.lr for c in checkpoints_of_fit(learn)] == [None] * 3
    with torch.no_grad():
        learn.model[5].weight.add_(1)  # the files are of another training now
    assert checkpoints_of_fit(learn) == []
    assert HINT in learn.influence(ds_idx=1, idxs=[0], k=2).notes


def test_rows_of_a_table_are_read_as_people_do(tmp_path: Path) -> None:
    import pandas as pd
    from fastai.tabular.all import Categorify, Normalize, TabularDataLoaders, tabular_learner

    df = pd.DataFrame({"job": ["cook", "nurse"] * 20, "age": range(20, 60), "y": ["no", "yes", "yes", "no"] * 10})
    dls = TabularDataLoaders.from_df(
        df, path=tmp_path, procs=[Categorify, Normalize], cat_names=["job"], cont_names=["age"], y_names="y",
        valid_idx=range(20), bs=8,
    )  # fmt: skip
    held = tabular_learner(dls, layers=[8]).influence(df.iloc[1], k=20).readable
    assert held.names == ("job", "age") and held.queries == (("nurse", "21"),)
    assert held.items[0] == ("cook", "40") and held.close(0, 1) == [True, False] and held.close(0, 0) == [False, False]


def test_texts_of_different_lengths_have_words(tmp_path: Path) -> None:
    import pandas as pd
    from fastai.text.all import AWD_LSTM, TextDataLoaders, awd_lstm_clas_config, text_classifier_learner

    known = ["xxunk", "xxpad", "xxbos", "a", "very", "fine", *(f"word{i}" for i in range(12))]
    df = pd.DataFrame({"text": [f"a {'very ' * (i % 3)}fine word{i}" for i in range(12)], "label": ["no", "yes"] * 6})
    dls = TextDataLoaders.from_df(df, path=tmp_path, text_col="text", label_col="label", bs=4, seed=1, text_vocab=known)
    config = {**awd_lstm_clas_config, "emb_sz": 6, "n_hid": 6, "n_layers": 1}
    learn = text_classifier_learner(dls, AWD_LSTM, config=config, pretrained=False)
    found = learn.influence(ds_idx=0, idxs=[0, 1, 2], k=3, method="similarity")
    assert found.indices[:, 0].tolist() == [0, 1, 2] and found.item_inputs is None  # lengths differ
    held = found.readable
    assert [held.items[i] for i in range(3)] == list(held.queries) and held.queries[0][:2] == ("xxbos", "a")
    assert set(found.labels) == set(held.items) and len({len(text) for text in held.queries}) > 1
    assert held.close(0, 0)[:2] == [False, False] and held.close(0, 0)[-1]  # of the text itself, the rare word alone
