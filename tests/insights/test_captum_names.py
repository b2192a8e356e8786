"""Code written for Captum Insights finds its names here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from interp_plugins.core.errors import InputError
from interp_plugins.insights import AttributionVisualizer, Batch, GeneralFeature, ImageFeature
from tests.insights.nets import CLASSES, Squares, squares


def batches(n: int = 3):
    while True:  # Captum's data sets may be endless
        yield Batch(squares(n), torch.tensor([0, 2, 2][:n]))


def test_a_visualizer_of_two_models(talk):
    seen = AttributionVisualizer(
        [Squares(), Squares()],
        CLASSES,
        [ImageFeature("Photo", baseline_transforms=[lambda x: x * 0 + 1], input_transforms=[lambda x: x * 2])],
        batches(),
        score_func=lambda out: out.softmax(1),
        max_samples=6,
    ).session()
    assert len(seen.catalogue["samples"]) == 6 and len(seen.catalogue["models"]) == 2
    subject: Any = seen.subject
    assert float(subject.inputs.max()) == 2 and "own 1" in seen.catalogue["baselines"]
    talk(seen, type="explain", samples=[1], method="ig", params={"n_steps": 3}, baseline="own 1")
    made = seen.explanations()[0]
    assert made.target == (2,)  # the true class, as in Captum Insights
    assert torch.equal(made.baselines, torch.full((1, 3, 16, 16), 2.0))
    seen.close()


class TwoInputs(nn.Module):
    def forward(self, picture, columns):
        return torch.stack([picture.sum((1, 2, 3)), 3 * columns.sum(1)], 1)


def test_several_inputs_give_a_map_each_with_its_share(talk):
    dataset = [Batch((squares(2), torch.ones(2, 4)), None)]
    features = [ImageFeature("Photo"), GeneralFeature("Facts", categories=["a", "b", "c", "d"])]
    seen = AttributionVisualizer(TwoInputs(), ("picture", "facts"), features, dataset).session()
    records = talk(seen, type="explain", samples=[0], method="input_x_gradient", target=1)[-1]["result"]["records"]
    titles = [r["record"]["title"] for r in records]
    assert titles == ["Input X Gradient, Photo", "Input X Gradient, Facts"]
    assert [r["record"]["view"] for r in records] == ["heatmap", "bars"]
    assert [r["record"]["share"] for r in records] == [0, 1]
    seen.close()


def test_a_page_is_served_and_stopped(capsys):
    viewer = AttributionVisualizer(Squares(), CLASSES, ImageFeature("Photo"), batches(), max_samples=3)
    server = viewer.serve()
    assert server.url in capsys.readouterr().out
    server.stop()


@pytest.mark.parametrize(
    "features, dataset, text",
    [
        ([ImageFeature("a"), ImageFeature("b")], batches(), "1 inputs and there are 2 features"),
        (ImageFeature("a"), [], "gave no batch"),
    ],
)
def test_what_does_not_fit_is_refused(features, dataset, text):
    with pytest.raises(InputError, match=text):
        AttributionVisualizer(Squares(), CLASSES, features, dataset)
