"""Insertion and deletion curves in the viewer: of the right score, towards the right baseline, kept in the file."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from interp_plugins import explain
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Probability
from interp_plugins.insights import Precomputed, Session
from interp_plugins.metrics import removal_curves
from tests.insights.nets import CLASSES, Squares, squares

SPEC = InputSpec(kind="image", vocab=CLASSES)


def test_curves_are_of_the_probability_with_black_for_what_is_removed(new_session, talk):
    session = new_session()
    talk(session, type="explain", samples=[1], method="input_x_gradient", target=2)
    found = talk(session, type="curves", sample=1, key=0)[-1]["result"]
    map_ = session.explanations()[0].attributions.sum(1, keepdim=True)
    want = removal_curves(Squares(), squares(2)[1:], map_, target=Probability(2))
    assert found["of"] == "probability" and found["baseline"] == "black"
    assert found["deletion"] == pytest.approx(want.deletion[0].tolist())
    assert found["insertionArea"] == pytest.approx(want.insertion_auc.item())
    assert talk(session, type="maps", sample=1)[-1]["result"][0]["curves"] == found
    assert '"insertionArea"' in session.to_html()


@pytest.mark.parametrize(
    ("output", "call", "of"),
    [
        (lambda x: x.sum((1, 2, 3)), {}, "score"),
        (lambda x: x.mean((2, 3)).softmax(1), {}, "probability"),
        (lambda x: x.mean((2, 3)), {"activation": torch.sigmoid}, "probability"),
        (lambda x: x.mean((2, 3)), {"activation": lambda out: None, "target": 1}, "score"),
    ],
    ids=["one value", "probabilities", "sigmoid", "regression of three"],
)
def test_the_score_is_a_probability_where_there_is_one(output, call, of, talk):
    session = Session(output, torch.rand(1, 3, 8, 8), input_spec=SPEC, **{k: v for k, v in call.items()})
    talk(session, type="explain", samples=[0], method="input_x_gradient")
    found = talk(session, type="curves", sample=0, key=0)[-1]["result"]
    session.close()
    x = torch.zeros(1, 3, 8, 8)
    last = output(x).reshape(-1)[0].item() if of == "score" else None
    assert found["of"] == of and (last is None or found["deletion"][-1] == pytest.approx(last, abs=1e-6))
    assert of == "score" or 0 <= min(found["deletion"]) <= max(found["deletion"]) <= 1


class Two(nn.Module):
    def forward(self, picture, columns):
        return torch.stack([picture.mean((1, 2, 3)), columns.sum(1)], 1)


def test_layers_and_several_inputs_have_curves_too(talk):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    both = Session(Two(), (torch.rand(1, 3, 6, 6), torch.rand(1, 4)), target=1)
    for session, method in ((Session(net, torch.rand(1, 3, 9, 9)), "gradcam"), (both, "input_x_gradient")):
        talk(session, type="explain", samples=[0], method=method)
        assert len(talk(session, type="curves", sample=0, key=0)[-1]["result"]["fraction"]) == 21
        session.close()


def test_a_map_that_lies_on_no_input_says_so(talk):
    session = Session(nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 2)), torch.rand(1, 4))
    session.made(0).append(
        Precomputed([Explanation(torch.rand(1, 7), torch.rand(1, 4), "layer_activation")]).given(0)[0]
    )
    answer = talk(session, type="curves", sample=0, key=0)[-1]
    session.close()
    assert answer["type"] == "error" and "(1, 7) does not lie on the input ((1, 4))" in answer["error"]


def test_a_file_has_curves_where_the_model_is_given():
    x, model = squares(2), Squares()
    exps = explain(model, x, methods="saliency", input_spec=SPEC)
    made = Precomputed(exps, model=model).given(1)[0]
    assert made.curves["of"] == "probability" and len(made.curves["insertion"]) == 21
    assert Precomputed(exps).given(1)[0].curves is None
