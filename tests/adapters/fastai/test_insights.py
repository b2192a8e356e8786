"""`learn.insights`: what `learn.explain` knows, in the viewer; the Learner stays as it was."""

from __future__ import annotations

import json
import queue
import re
from typing import Any

import pandas as pd
import pytest
import torch
from fastai.data.block import MultiCategoryBlock, RegressionBlock
from fastai.losses import BCEWithLogitsLossFlat, MSELossFlat
from fastai.tabular.all import Categorify, Normalize, TabularDataLoaders, tabular_learner
from fastai.text.all import AWD_LSTM, BaseTokenizer, TextDataLoaders, awd_lstm_clas_config, text_classifier_learner
from fastai.vision.data import ImageBlock

import interp_plugins.fastai  # noqa: F401 - Learner.insights
from interp_plugins.api.binding import first_looks
from interp_plugins.core.errors import InterpError
from interp_plugins.fastai.insights import LearnerSubject
from interp_plugins.fastai.items import SampleSource
from interp_plugins.insights import Ask, Session


def looked_at(learn: Any, **source: Any) -> LearnerSubject:
    named = {name: source.pop(name) for name in SampleSource._fields if name in source}
    return LearnerSubject(learn, SampleSource(**named), **source)


def test_predictions_and_maps_are_those_of_explain(learn, unchanged):
    with unchanged(learn):
        subject = looked_at(learn, ds_idx=1)
        made = subject.explain(0, 2, Ask("saliency"))[0]
        other = subject.explain(0, 2, Ask("saliency", target=1, baseline="blur"))[0]
    with unchanged(learn):
        want = learn.explain(ds_idx=1, methods="saliency")
    assert subject.n == len(learn.dls.valid_ds) and made.names == (want[0].names[2],)
    torch.testing.assert_close(made.attributions, want[0].attributions[2:3])
    assert made.spec == want[0].spec and other.target == (1,)
    for i, sample in enumerate(subject.samples()):
        said = sample["models"][0]
        assert said["predictions"] == [want[0].prediction[i]] and sample["labelText"] in sample["name"]
        assert said["probability"] == pytest.approx(want[0].probability[i].item(), rel=1e-5)
        assert said["correct"] is (said["predictionText"] == sample["labelText"])


def test_raw_items_have_a_truth_where_the_data_know_it(learn, picture, folder):
    assert looked_at(learn, item=[picture]).samples()[0]["labelText"] == picture.parent.name
    assert looked_at(learn, item=torch.zeros(3, 32, 48)).samples()[0]["labelText"] is None


def test_a_file_a_page_and_a_widget(learn, unchanged, tmp_path, capsys):
    with unchanged(learn):
        ask = {"ds_idx": 1, "idxs": [0, 1], "methods": {"ig": {"n_steps": 5}}}
        path = learn.insights(**ask, show="file", path=tmp_path / "look.html", curves=True)
        blocks = re.findall(r'id="insights-maps-0-\d+">(.*?)</script>', path.read_text(encoding="utf-8"))
        with learn.insights(**ask, show="server") as server:
            assert server.url in capsys.readouterr().out
        shown = learn.insights(ds_idx=1, idxs=[0], show="notebook")
    records = [json.loads(block)[0] for block in blocks]
    assert [r["title"] for r in records] == ["Integrated Gradients"] * 2
    assert all(len(r["curves"]["deletion"]) == 21 and r["curves"]["of"] == "probability" for r in records)
    assert "learn.explain(items[0], methods={'integrated_gradients'" in records[0]["code"]
    assert shown.catalogue["samples"][0]["labelText"] in ("cat", "dog")
    shown.close()


def test_the_first_page_is_explained_at_once_and_stays_in_a_saved_notebook(learn, unchanged, monkeypatch):
    kept = []
    monkeypatch.setattr("interp_plugins.fastai.insights.PAGE", 2)
    monkeypatch.setattr("IPython.display.display", lambda *what, **how: kept.append(what[0]))
    with unchanged(learn):
        shown = learn.insights(ds_idx=1, show="notebook")
    subject = shown.session.subject
    assert [len(subject.given(i)) for i in range(4)] == [1, 1, 0, 0]  # the first page, by one method
    shown._ipython_display_()
    still, viewer = kept
    assert f'data-insights-still="{shown.still}"' in still.data and still.data.count("<img") == 4
    assert "application/vnd.jupyter.widget-view+json" in viewer
    shown.close()


def test_where_no_method_is_made_for_the_data_the_next_one_answers(learn):
    assert first_looks("image") == ["grad_cam", "input_x_gradient"] and first_looks("text") == ["input_x_gradient"]
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))
    flat(learn.dls.one_batch()[0])
    learn.model = flat  # no layer with a map
    subject = learn.insights(ds_idx=1, idxs=[0], show="notebook").session.subject
    assert [one.exp.method for one in subject.given(0)] == ["input_x_gradient"]


def test_a_baseline_may_be_a_raw_picture(learn, picture):
    subject = looked_at(learn, ds_idx=1, idxs=[0], baselines=picture)
    made = subject.explain(0, 0, Ask("ig", {"n_steps": "4"}))[0]
    want = learn.explain(ds_idx=1, idxs=[0], methods="ig", n_steps=4, baselines=picture)[0]
    torch.testing.assert_close(made.attributions, want.attributions)


def test_several_labels(block_dls, make_learner, net):
    dls = block_dls((ImageBlock, MultiCategoryBlock), lambda path: [path.parent.name, "picture"])
    learn = make_learner(dls, net(classes=3), loss_func=BCEWithLogitsLossFlat())
    subject = looked_at(learn, ds_idx=1)
    first = subject.samples()[0]
    said = first["models"][0]
    p = learn.get_preds(with_input=False)[0][0]
    assert first["labelText"] in ("cat, picture", "dog, picture") and len(first["labels"]) == 2
    assert set(said["predictions"]) == set((p > 0.5).nonzero().flatten().tolist())
    want = torch.nn.functional.binary_cross_entropy(p, torch.tensor([float(k in first["labels"]) for k in range(3)]))
    assert said["loss"] == pytest.approx(want.item(), rel=1e-4)


def test_a_regression(block_dls, make_learner, net):
    dls = block_dls((ImageBlock, RegressionBlock), lambda path: float(path.parent.name == "cat"))
    learn = make_learner(dls, net(classes=1), loss_func=MSELossFlat())
    subject = looked_at(learn, ds_idx=1)
    first = subject.samples()[0]
    said = first["models"][0]
    assert first["labels"] is None and first["labelText"] in ("0", "1") and said["correct"] is None
    p = learn.get_preds(with_input=False)[0][0].item()
    assert said["loss"] == pytest.approx((p - float(first["labelText"])) ** 2, rel=1e-4)
    assert subject.explain(0, 0, Ask("saliency"))[0].score.item() == pytest.approx(p, rel=1e-4)


def test_rows_of_a_table_and_their_curves(tmp_path):
    frame = pd.DataFrame({"age": [20.0, 40.0, 60.0, 30.0] * 4, "job": ["a", "b"] * 8, "rich": ["no", "yes"] * 8})
    dls = TabularDataLoaders.from_df(
        frame, tmp_path, procs=[Categorify, Normalize], cat_names=["job"], cont_names=["age"], y_names="rich", bs=4,
        seed=0, num_workers=0, device=torch.device("cpu"),
    )  # fmt: skip
    learn = tabular_learner(dls, layers=[4])
    session = Session.over(looked_at(learn, ds_idx=1))
    assert session.catalogue["samples"][0]["labelText"] in ("no", "yes")
    assert re.fullmatch(r"[ab] [2346]0(\.0)?", session.catalogue["samples"][0]["words"])
    box: queue.Queue[dict[str, Any]] = queue.Queue()
    session.receive({"id": 1, "type": "input", "sample": 0}, box.put)
    assert box.get(timeout=30)["result"]["names"] == ["job", "age"]
    session.receive({"id": 2, "type": "explain", "samples": [0], "method": "ig"}, box.put)
    session.receive({"id": 3, "type": "curves", "sample": 0, "key": 0}, box.put)
    answers = [box.get(timeout=30) for _ in range(3)]
    assert answers[1]["result"]["records"][0]["record"]["view"] == "bars"
    assert answers[2]["result"]["fraction"] == [0, 0.5, 1]
    session.close()


def test_texts_of_any_length_and_their_curves():
    frame = pd.DataFrame({"text": ["a good film", "a bad film of the bad kind"] * 8, "label": ["pos", "neg"] * 8})
    dls = TextDataLoaders.from_df(
        frame, text_col="text", label_col="label", bs=4, seed=0, seq_len=8, tok_tfm=BaseTokenizer(),
        device=torch.device("cpu"),
    )  # fmt: skip
    small = {**awd_lstm_clas_config, "emb_sz": 8, "n_hid": 8, "n_layers": 1}
    learn = text_classifier_learner(dls, AWD_LSTM, pretrained=False, config=small, seq_len=8)
    subject = looked_at(learn, item=["a good film", "a bad film of the bad kind"])
    found = subject.samples()
    assert (
        subject.n == 2 and "bad kind" in found[1]["words"] and found[0]["models"][0]["predictionText"] in ("pos", "neg")
    )
    subject.prepare("ig", curves=True)
    made = subject.given(1)[0]
    assert len(made.exp.tokens[0]) == made.exp.attributions.shape[1] == len(made.curves["fraction"]) - 1


@pytest.mark.parametrize("wrong, text", [({"show": "browser"}, "host 'browser'"), ({}, "nothing to explain")])
def test_what_cannot_be_shown_says_why(learn, wrong, text):
    with pytest.raises(InterpError, match=text):
        learn.insights(**wrong)


def test_results_of_the_learner_stand_beside_its_maps_or_alone(learn, unchanged, tmp_path):
    with unchanged(learn):
        found = learn.influence(ds_idx=1, idxs=[0], k=2, checkpoints="last")
        alone = learn.insights(records=[found], show="file", path=tmp_path / "alone.html").read_text()
        both = learn.insights(ds_idx=1, idxs=[0], records=[found], show="file", path=tmp_path / "both.html").read_text()
    for text, samples in ((alone, 0), (both, 1)):
        assert text.count('id="insights-record-') == 1 and text.count('id="insights-input-') == samples
    with pytest.raises(InterpError, match="shows results of the kinds"):
        learn.insights(records=[3], show="file")
