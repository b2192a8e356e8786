"""The state behind a viewer, without any page."""

from __future__ import annotations

import base64
import threading

import pytest
import torch
from torch import nn

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.insights import Session
from tests.insights.nets import Broken, Squares, squares


def test_the_catalogue_knows_what_the_model_says(new_session):
    about = new_session().catalogue
    first, second = about["samples"][:2]
    assert first["models"][0]["predictionText"] == "red" and first["models"][0]["correct"] is True
    assert second["models"][0]["correct"] is False and second["labelText"] == "red"
    assert first["models"][0]["top"][0]["label"] == "red"
    assert second["models"][0]["loss"] > first["models"][0]["loss"]
    assert {"integrated_gradients", "occlusion"} <= {m["name"] for m in about["methods"]}


def test_forms_are_read_off_the_signatures(new_session):
    methods = {m["name"]: m["params"] for m in new_session().catalogue["methods"]}
    steps = next(p for p in methods["integrated_gradients"] if p["name"] == "n_steps")
    assert steps == {"name": "n_steps", "type": "int", "default": 50, "min": 1, "max": 100_000}
    assert "target" not in {p["name"] for p in methods["integrated_gradients"]}
    assert next(p for p in methods["saliency"] if p["name"] == "abs")["type"] == "bool"


def test_explaining_answers_with_progress_and_maps_that_are_kept(new_session, talk):
    session = new_session()
    *progress, last = talk(session, type="explain", samples=[0, 2], method="saliency", params={})
    assert [(p["done"], p["total"]) for p in progress] == [(1, 2), (2, 2)]
    assert [r["sample"] for r in last["result"]["records"]] == [0, 2]
    assert talk(session, type="maps", sample=2)[-1]["result"][0]["method"] == "saliency"
    assert talk(session, type="maps", sample=1)[-1]["result"] == []


def test_another_class_and_another_baseline_can_be_asked_for(new_session, talk):
    session = new_session()
    ask = {"type": "explain", "samples": [0], "method": "integrated_gradients", "params": {"n_steps": "7"}}
    talk(session, **ask, target=1, baseline="uniform")
    made = session.explanations()[0]
    assert made.target == (1,) and made.params["n_steps"] == 7 and made.baselines.abs().sum() > 0


def test_too_many_steps_are_answered_at_once_with_what_is_allowed(new_session, talk):
    ask = {"type": "explain", "samples": [0], "method": "integrated_gradients", "params": {"n_steps": 10**7}}
    answer = talk(new_session(), **ask)[-1]
    assert answer["type"] == "error" and "n_steps must be at most 100,000" in answer["error"]


def test_an_error_of_the_model_is_an_answer(new_session, talk):
    session = new_session(model=Broken())
    answer = talk(session, type="explain", samples=[0, 1], method="saliency")[-1]
    assert answer["type"] == "error" and "the third layer has no GPU" in answer["error"]


class Picky(nn.Module):
    def forward(self, x):
        if torch.is_grad_enabled() and bool((x[:, 1] > 0).any()):
            raise RuntimeError("no green")
        return x.sum((2, 3))


def test_one_failing_sample_does_not_stop_the_others(new_session, talk):
    result = talk(new_session(model=Picky()), type="explain", samples=[0, 1, 2], method="saliency")[-1]["result"]
    assert [r["sample"] for r in result["records"]] == [0, 2]
    (failure,) = result["failures"]
    assert failure["sample"] == 1 and failure["error"].endswith("raised RuntimeError: no green")


class Slow(Squares):
    def __init__(self):
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()

    def forward(self, x):
        if torch.is_grad_enabled():
            self.begun.set()
            assert self.go.wait(60)
        return super().forward(x)


def test_work_can_be_cancelled_between_samples(new_session):
    model = Slow()
    session, answers, done = new_session(model=model), [], threading.Event()

    def send(message):
        answers.append(message)
        if message["type"] != "progress":
            done.set()

    session.receive({"id": 4, "type": "explain", "samples": [0, 1, 2], "method": "saliency"}, send)
    assert model.begun.wait(60)
    session.receive({"id": 5, "type": "cancel", "job": 4}, send)
    model.go.set()
    assert done.wait(60)
    assert answers[-1]["result"]["cancelled"] and len(answers[-1]["result"]["records"]) == 1


@pytest.mark.parametrize(
    "message, text",
    [
        ({"type": "maps", "sample": 99}, "no sample 99"),
        ({"type": "input", "sample": -1}, "no sample -1"),
        ({"type": "dance"}, "Unknown message type 'dance'"),
        ({"type": "maps"}, "sample"),
        ({"type": "export", "format": "safetensors"}, "no map to save yet"),
        ({"type": "explain", "samples": [0], "method": "salency"}, "saliency"),
    ],
)
def test_what_cannot_be_answered_says_why(new_session, talk, message, text):
    answer = talk(new_session(), **message)[-1]
    assert answer["type"] == "error" and text in answer["error"]


def test_two_sessions_do_not_see_each_other(new_session, talk):
    model = Squares()
    one, other = new_session(model=model), new_session(model=model)
    talk(one, type="explain", samples=[0], method="saliency")
    one.receive({"id": 0, "type": "notes", "notes": {"0": {"note": "mine", "tags": []}}}, lambda _: None)
    assert talk(other, type="maps", sample=0)[-1]["result"] == [] and other.notes == {}


def test_unlabelled_data_and_regressions_have_a_catalogue():
    model = nn.Linear(4, 1)
    session = Session(model, torch.randn(3, 4), input_spec=InputSpec(kind="tabular"))
    outcome = session.catalogue["samples"][0]["models"][0]
    assert outcome["predictions"] is None and outcome["correct"] is None and outcome["predictionText"]
    session.close()


def test_several_models_are_asked_side_by_side(new_session, talk):
    session = new_session(model={"first": Squares(), "second": Squares()})
    assert len(session.catalogue["samples"][0]["models"]) == 2
    result = talk(session, type="explain", samples=[0], method="saliency", model="all")[-1]["result"]
    assert [r["record"]["model"] for r in result["records"]] == [0, 1]


def test_maps_can_be_taken_away(new_session, talk, tmp_path):
    session = new_session()
    talk(session, type="explain", samples=[0, 1], method="saliency")
    file = talk(session, type="export", format="safetensors")[-1]["result"]
    (tmp_path / file["name"]).write_bytes(base64.b64decode(file["data"]))
    assert len(Explanations.load(tmp_path / file["name"])) == 2
    page = base64.b64decode(talk(session, type="export", format="html")[-1]["result"]["data"]).decode()
    assert page.startswith("<!DOCTYPE html>") and '"live": false' in page


@pytest.mark.parametrize("wrong", [{"labels": [0]}, {"names": ["a"]}])
def test_labels_and_names_fit_the_samples(wrong):
    with pytest.raises(InputError, match="came for 6 samples"):
        Session(Squares(), squares(6), **wrong)


def test_a_widget_carries_the_same_messages(new_session):
    pytest.importorskip("anywidget")
    from interp_plugins.insights import widget

    session = new_session()
    shown = widget(session)
    sent = []
    shown.send = lambda message, buffers=None: sent.append(message)
    assert shown.catalogue["title"] == "Insights"
    shown._handle_custom_msg({"id": 1, "type": "maps", "sample": 0}, [])
    assert sent == [{"id": 1, "type": "result", "result": []}]
    shown.notes = {"0": {"note": "odd", "tags": []}}
    assert session.notes["0"]["note"] == "odd"
    shown.close()


def test_without_anywidget_a_notebook_shows_the_still_page(new_session):
    from interp_plugins.insights.widget import StillPage

    html = StillPage(new_session())._repr_html_()
    assert html.startswith("<iframe srcdoc=") and 'sandbox="allow-scripts' in html and "allow-same-origin" not in html
