"""`Learner.suspects` for every kind of data; the Learner stays as it was, with a `MarginHistory` and without."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastai.callback.progress  # noqa: F401 - Learner.no_bar
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.mixup import MixUp
from fastai.collab import CollabDataLoaders, EmbeddingDotBias
from fastai.data.block import CategoryBlock, DataBlock, RegressionBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import ColReader, RandomSplitter
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from fastai.tabular.all import Categorify, Normalize, TabularDataLoaders, TabularModel
from fastai.tabular.all import CategoryBlock as Category
from fastai.text.data import TextBlock
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
from fastai.text.models.core import get_text_classifier
from fastai.torch_core import set_seed
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.fastai import MarginHistory


@pytest.fixture
def train(make_learner: Callable[..., Learner]) -> Callable[..., Learner]:
    def fit(data: Any = None, model: Any = None, epochs: int = 2, **kwargs: Any) -> Learner:
        learn = make_learner(data, model, **kwargs)
        with learn.no_bar(), learn.no_logging():
            learn.fit(epochs, 1e-2)
        return learn

    return fit


def test_pictures_in_item_order(train: Callable[..., Learner], unchanged: Any, tmp_path: Path) -> None:
    learn = train()
    with unchanged(learn):
        found = learn.suspects(k=5)
        again = learn.suspects(k=5)
        shown, page = found.show(3), found.to_html(tmp_path / "s.html", n=3)
    assert torch.equal(found.score, again.score) and len(found) == len(learn.dls.train_ds)
    paths = [p.name for p in learn.dls.train_ds.items]
    assert list(found.names or ()) == paths and found.spec.vocab == ("cat", "dog")
    assert [found.label(g) for g in found.given] == [p.split("_")[0] for p in paths]
    assert shown.fig is not None and page.path.read_text().count("<article") == 3
    valid = learn.suspects(1, k=3, valid=None)
    assert len(valid) == len(learn.dls.valid_ds) and not valid.searched_valid


def test_fastai_s_cleaner_shows_them_in_our_order(train: Callable[..., Learner], monkeypatch: Any) -> None:
    pytest.importorskip("ipywidgets")
    from fastai.vision import widgets

    found = train().suspects(k=5, valid=None)
    monkeypatch.delattr(widgets, "display", raising=False)
    with pytest.raises(InputError, match="in notebooks alone"):
        found.cleaner()
    monkeypatch.setattr(widgets, "display", lambda *shown: None, raising=False)
    cleaner = found.cleaner(6)
    rows = found.order[:6].tolist()
    for label in found.spec.vocab or ():
        cleaner.dd_cats.value = label
        assert [p.name for p in cleaner.iw.fns] == [
            (found.names or ())[r] for r in rows if found.label(found.given[r]) == label
        ]
    assert list(cleaner.delete()) == [] and list(cleaner.change()) == []


def test_the_same_picture_in_both_splits_is_leakage(tmp_path: Path, make_learner: Callable[..., Learner]) -> None:
    rng = np.random.default_rng(0)
    for i in range(16):
        pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02}_{'ab'[i % 2]}.png")
        if i == 3:
            Image.fromarray(pixels).save(tmp_path / "zz_b.png")
    from fastai.data.transforms import get_image_files
    from fastai.vision.data import ImageBlock

    files = sorted(get_image_files(tmp_path))
    dls = DataBlock(
        (ImageBlock, CategoryBlock),
        get_y=lambda p: p.stem[-1],
        splitter=lambda f: (list(range(12)), list(range(12, 17))),
    ).dataloaders(files, bs=4, num_workers=0, device=torch.device("cpu"))
    learn = make_learner(dls)
    with pytest.warns(InterpWarning, match="LEAKAGE: 1 items"):
        [copy] = learn.suspects(k=3).leakage()
    assert dls.train_ds.items[copy.item].name.startswith("03") and dls.valid_ds.items[copy.other].name == "zz_b.png"


def test_training_with_a_history_is_the_same(make_learner: Callable[..., Learner], make_dls: Any) -> None:
    ends = []
    for cbs in ([], [MarginHistory()]):
        set_seed(3)
        learn = make_learner(make_dls())
        with learn.no_bar(), learn.no_logging():
            learn.fit(2, 1e-2, cbs=cbs)
        ends.append({k: v.clone() for k, v in learn.model.state_dict().items()})
    assert all(torch.equal(v, ends[1][k]) for k, v in ends[0].items())
    seen = cbs[0].margins
    n = len(learn.dls.train_ds)
    assert sum(seen.counts.values()) == 2 * (n // 4 * 4) and max(seen.counts) < n
    assert learn.suspects(history=cbs[0], k=5).votes == ("knn", "head", "margin")


def test_margins_belong_to_their_items() -> None:
    x, y = torch.randn(24, 3), torch.arange(24) % 3
    from fastai.data.load import DataLoader as FastLoader

    data = [(x[i], y[i]) for i in range(24)]
    dls = DataLoaders(FastLoader(data, bs=5, shuffle=True, num_workers=2), FastLoader(data, bs=8))
    net = nn.Linear(3, 3)
    expected = net(x).detach()
    learn = Learner(dls, net, loss_func=nn.CrossEntropyLoss(), cbs=MarginHistory())
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 0.0)
    from interp_plugins.influence.margins import margins_of

    found = learn.cbs[-1].margins if isinstance(learn.cbs[-1], MarginHistory) else learn.margin_history.margins
    wanted = margins_of(expected, y)
    assert wanted is not None and torch.allclose(found.mean(range(24)), wanted, atol=1e-5)


def test_mixed_pictures_have_no_margins(make_learner: Callable[..., Learner]) -> None:
    history = MarginHistory()
    learn = make_learner()
    with learn.no_bar(), learn.no_logging(), pytest.warns(InterpWarning, match="mixed"):
        learn.fit(1, 1e-2, cbs=[MixUp(), history])
    assert len(history.margins) == 0


def rows(n: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=n), "age": rng.normal(size=n), "kind": rng.choice(["x", "y"], n)})
    frame["big"] = np.where(frame["size"] + (frame["kind"] == "x") > 0.5, "yes", "no")
    frame["value"] = frame["size"] * 2 + (frame["kind"] == "x")
    return frame


@pytest.mark.parametrize("target", ["big", "value"])
def test_tables(target: str, unchanged: Any) -> None:
    frame = rows()
    frame.loc[7, "big"] = "no" if frame.loc[7, "big"] == "yes" else "yes"
    frame.loc[7, "value"] += 9
    dls = TabularDataLoaders.from_df(
        frame,
        procs=[Categorify, Normalize],
        cat_names=["kind"],
        cont_names=["size", "age"],
        y_names=target,
        y_block=Category() if target == "big" else RegressionBlock(),
        valid_idx=list(range(100, 120)),
        bs=16,
        seed=0,
    )
    set_seed(0)
    net = TabularModel([(3, 2)], 2, 2 if target == "big" else 1, [16])
    learn = Learner(dls, net, loss_func=None if target == "big" else MSELossFlat())
    with learn.no_bar(), learn.no_logging():
        learn.fit(6, 2e-2)
    with unchanged(learn):
        found = learn.suspects(k=10)
        shown = found.show(2, 1)
    assert found.kind == ("classes" if target == "big" else "values") and found.names is not None
    assert found.names[int(found.order[0])] == "7" or "7" in [found.names[r] for r in found.order[:6].tolist()]
    assert {"kind", "size", "age"} <= set(shown.columns) and shown["kind"][0] in ("x", "y")


def test_texts(tmp_path: Path, unchanged: Any) -> None:
    words = {"good": ["fine", "nice", "great"], "bad": ["poor", "awful", "weak"]}
    rng = np.random.default_rng(0)
    texts = [
        {"text": " ".join(rng.choice(words[label], 3 + i % 4)), "label": label}
        for i, label in enumerate(["good", "bad"] * 10)
    ]
    block = DataBlock(
        (TextBlock.from_df("text", seq_len=20), CategoryBlock),
        get_x=ColReader("text"),
        get_y=ColReader("label"),
        splitter=RandomSplitter(seed=0),
    )
    dls = block.dataloaders(pd.DataFrame(texts), bs=8, num_workers=0, device=torch.device("cpu"))
    config = {**awd_lstm_clas_config, "emb_sz": 8, "n_hid": 10, "n_layers": 1}
    set_seed(0)
    learn = Learner(
        dls, get_text_classifier(AWD_LSTM, len(dls.vocab[0]), 2, config=config, lin_ftrs=[6]), path=tmp_path
    )
    from fastai.callback.rnn import RNNCallback

    learn.add_cb(RNNCallback())
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    with unchanged(learn):
        found = learn.suspects(k=5, valid=None)
        table = found.show(2, 1)
    assert found.spec.vocab == ("bad", "good") and len(found) == 16
    assert any(word in table["text"][0] for word in words["good"] + words["bad"])


def test_collaborative_filtering_reads_the_embeddings() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"user": rng.integers(0, 8, 90), "item": rng.integers(0, 9, 90)})
    frame["rating"] = rng.uniform(1, 5, 90)
    dls = CollabDataLoaders.from_df(frame, bs=16, seed=0)
    learn = Learner(dls, EmbeddingDotBias(4, 9, 10, (0, 5.5)), loss_func=MSELossFlat())
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    found = learn.suspects(k=5, valid=None)
    assert found.kind == "values" and found.layer == "embeddings"


def test_plain_loaders_inside_a_learner() -> None:
    x, y = torch.randn(60, 4), torch.arange(60) % 3
    data = TensorDataset(x, y)
    dls = DataLoaders(DataLoader(data, 8, shuffle=True), DataLoader(data, 8))
    learn = Learner(dls, nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), loss_func=nn.CrossEntropyLoss())
    with pytest.warns(InterpWarning, match="LEAKAGE: 60 items"):
        found = learn.suspects(k=5)
    assert found.items.tolist() == list(range(60))
    with pytest.raises(InputError, match="pictures in files"):
        found.cleaner()


def test_what_is_refused(train: Callable[..., Learner]) -> None:
    learn = train(epochs=1)
    with pytest.raises(InputError, match="valid= takes"):
        learn.suspects(valid="no")
    with pytest.raises(InputError, match="2 splits"):
        learn.suspects(7)
