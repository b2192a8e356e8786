"""`reader_of`: the kind of data is told once per call, and a kind of one's own is one class."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.tabular.all import Categorify, Normalize, TabularDataLoaders, tabular_learner
from fastai.text.all import (
    AWD_LSTM,
    BaseTokenizer,
    TextDataLoaders,
    awd_lstm_clas_config,
    awd_lstm_lm_config,
    language_model_learner,
    text_classifier_learner,
)
from torch import nn

from interp_plugins.core.errors import InputTypeError, InterpError
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.fastai import reader as readers
from interp_plugins.fastai.batch import ReadBatch
from interp_plugins.fastai.reader import Reader, reader_of, register_reader
from interp_plugins.fastai.tabular import TabularReader
from interp_plugins.fastai.text import TextReader
from interp_plugins.fastai.vision import VisionReader

BANDS = ("red", "green", "blue", "infrared")


class SpectrumLoaders(DataLoaders):
    """Loaders of spectra, a kind of data that fastai does not know."""


@pytest.fixture
def own_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(readers, "_READERS", list(readers._READERS))


def spectra() -> Learner:
    made = torch.Generator().manual_seed(0)
    rows = [(torch.rand(4, generator=made), i % 2) for i in range(8)]
    loaders = [DataLoader(rows[:5], bs=2, n_inp=1), DataLoader(rows[5:], bs=2, n_inp=1)]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return Learner(SpectrumLoaders(*loaders), model, loss_func=CrossEntropyLossFlat())


@pytest.fixture
def spectrum_reader(own_kinds: None) -> type[Reader]:
    @register_reader
    class SpectrumReader(Reader):
        baseline_names = ("dark",)

        @classmethod
        def reads(cls, learn: Any) -> bool:
            return isinstance(learn.dls, SpectrumLoaders)

        def from_items(self, item: Any, *, labelled: bool = False, rm_type_tfms: Any = None) -> list[ReadBatch]:
            if not isinstance(item, dict):
                raise InputTypeError("A spectrum is a dict band -> value.")
            return self.ready(ReadBatch((torch.tensor([[float(item[band]) for band in BANDS]]),), names=("probe",)))

        def baselines(self, given: Any, inputs: Any) -> Any:
            return torch.full_like(inputs, 0.25) if given == "dark" else given

        def spec(self, inputs: Any, batch: ReadBatch) -> InputSpec:
            return InputSpec(kind="tabular", vocab=("rock", "leaf"), feature_names=BANDS)

        def told(self, exps: Explanations, batch: ReadBatch, baselines: Any = None) -> Explanations:
            told = super().told(exps, batch, baselines)
            return Explanations([replace(e, values=tuple(map(tuple, e.input.tolist()))) for e in told])

    return SpectrumReader


def test_a_kind_of_ones_own_is_one_class(spectrum_reader: type[Reader], tmp_path: Any) -> None:
    learn = spectra()
    assert isinstance(reader_of(learn), spectrum_reader)
    item = dict(zip(BANDS, (0.1, 0.9, 0.2, 0.8)))
    exp = learn.explain(item, "ig", "leaf", baselines="dark")[0]
    assert exp.names == ("probe",) and exp.feature_names == BANDS and exp.target_label == ("leaf",)
    assert exp.values is not None and exp.values[0] == pytest.approx((0.1, 0.9, 0.2, 0.8))
    assert isinstance(exp.baselines, torch.Tensor) and torch.equal(exp.baselines, torch.full((1, 4), 0.25))
    with pytest.raises(InputTypeError, match="A spectrum is a dict"):
        learn.explain([1.0, 2.0])
    # the other verbs know no kind at all
    rows = learn.explain(ds_idx=1, methods="saliency")[0]
    store = learn.explain_dataset(1, tmp_path / "run", "saliency", progress=False)
    assert torch.equal(store[2][0].attributions, rows.attributions[2:])
    table = learn.attribution_importance(methods="saliency")
    assert set(table["feature"]) == set(BANDS)
    assert learn.show_explanations(methods="saliency", max_n=2)[0].get_title()
    page = learn.insights(item, "saliency", show="file", path=tmp_path / "look.html")
    assert "infrared" in page.read_text(encoding="utf-8")


def test_without_a_reader_of_its_own_data_are_tensors(own_kinds: None) -> None:
    learn = spectra()
    assert type(reader_of(learn)) is Reader
    exp = learn.explain(xb=torch.rand(3, 4), methods="saliency")[0]
    assert exp.attributions.shape == (3, 4) and exp.names is None


def test_the_kind_is_told_once_per_call(own_kinds: None, learn: Learner, tmp_path: Any) -> None:
    asked: list[Any] = []

    @register_reader
    class Counting(Reader):
        @classmethod
        def reads(cls, learn: Any) -> bool:
            asked.append(learn)
            return False

    calls = {
        "explain": lambda: learn.explain(ds_idx=1, methods="saliency"),
        "show_explanations": lambda: learn.show_explanations(max_n=2, methods="saliency"),
        "explain_dataset": lambda: learn.explain_dataset(1, tmp_path / "run", "saliency", progress=False),
        "insights": lambda: learn.insights(ds_idx=1, methods="saliency", show="file", path=tmp_path / "look.html"),
    }
    for name, call in calls.items():
        asked.clear()
        call()
        assert asked == [learn], name


def test_the_last_reader_that_is_registered_comes_first(own_kinds: None, learn: Learner) -> None:
    assert type(reader_of(learn)) is VisionReader

    @register_reader
    class Thermal(VisionReader):
        """Pictures of another camera."""

    assert type(reader_of(learn)) is Thermal


def test_tables_and_texts_have_readers_of_their_own(tmp_path: Any) -> None:
    frame = pd.DataFrame({"age": [20.0, 40.0] * 8, "job": ["a", "b"] * 8, "rich": ["no", "yes"] * 8})
    dls = TabularDataLoaders.from_df(
        frame, tmp_path, procs=[Categorify, Normalize], cat_names=["job"], cont_names=["age"], y_names="rich", bs=4,
        seed=0, num_workers=0, device=torch.device("cpu"),
    )  # fmt: skip
    assert type(reader_of(tabular_learner(dls, layers=[4]))) is TabularReader
    learn = texts()
    reader = reader_of(learn)
    assert type(reader) is TextReader
    batch = learn.dls.valid.one_batch()
    exps = learn.explain(dl=[batch], idxs=[1, 0], methods="saliency")  # a list of batches, as for all data
    [row] = learn.explain(xb=tuple(part[1:2] for part in batch), methods="saliency")
    assert exps[0].tokens is not None and row.tokens is not None and exps[0].tokens[0] == row.tokens[0]


def test_a_language_model_has_no_rows_to_explain(tmp_path: Any) -> None:
    learn = texts(is_lm=True)
    assert len(learn.explain("a good film", "saliency")[0].tokens[0]) == 4
    for call in (lambda: learn.explain(ds_idx=1), lambda: learn.explain_dataset(1, tmp_path / "run", progress=False)):
        with pytest.raises(InterpError, match="explained for the next token of a text"):
            call()


def texts(is_lm: bool = False) -> Learner:
    frame = pd.DataFrame({"text": ["a good film", "a bad film of the bad kind"] * 8, "label": ["pos", "neg"] * 8})
    dls = TextDataLoaders.from_df(
        frame, text_col="text", label_col=None if is_lm else "label", is_lm=is_lm, bs=2, seed=0, seq_len=5,
        tok_tfm=BaseTokenizer(), device=torch.device("cpu"),
    )  # fmt: skip
    small = {"emb_sz": 8, "n_hid": 8, "n_layers": 1}
    if is_lm:
        return language_model_learner(dls, AWD_LSTM, pretrained=False, config={**awd_lstm_lm_config, **small})
    return text_classifier_learner(dls, AWD_LSTM, pretrained=False, config={**awd_lstm_clas_config, **small}, seq_len=5)


def test_rows_explained_together_keep_their_names(learn: Learner, dls: Any) -> None:
    reader = reader_of(learn)
    [whole] = reader.from_dl(dls.valid, [3, 1])
    [one], [other] = reader.from_dl(dls.valid, [3]), reader.from_dl(dls.valid, [1])
    both = readers.joined([one, other])
    assert both.names == whole.names == tuple(dls.valid_ds.items[i].name for i in (3, 1))
    assert torch.equal(both.inputs[0], whole.inputs[0])
    assert both.rows([1]).names == other.names and torch.equal(both.rows([1]).inputs[0], other.inputs[0])
