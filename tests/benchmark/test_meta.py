"""Metrics judged: what each notices on maps whose worth is known, and the order of methods that is true."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from interp_plugins.benchmark import TaskError, task_info
from interp_plugins.benchmark.contenders import NOISE, SCALED, SHUFFLED, methods_of, rivals, shuffled
from interp_plugins.benchmark.meta import TASKS, above, kendall, meta_evaluation
from interp_plugins.metrics import list_metrics, metric_info

PAGE = Path(__file__).parents[2] / "docs" / "benchmark" / "meta.json"


@pytest.fixture(scope="module")
def found():
    metrics = ("srg", "faithfulness_estimate", "gini_index", "sensitivity_avg", "truth_cosine", "relevance_mass", "sic")
    return meta_evaluation(("transparent.additive",), metrics, size="tiny")


def test_a_metric_that_works_tells_all_of_them_apart(found):
    for name in ("srg", "faithfulness_estimate"):
        mean = found["metrics"][name]["mean"]
        assert mean["noise"] == mean["sign"] == mean["mixing"] == 1 and mean["weights"] >= 0.8 and mean["scale"] < 1e-9
        assert mean["order"] > 0.8 and mean["halves"] > 0.5
    assert found["metrics"]["truth_cosine"]["mean"]["blind"] == 1


def test_what_a_metric_does_not_see_is_seen(found):
    stable, sparse = (found["metrics"][name]["mean"] for name in ("sensitivity_avg", "gini_index"))
    assert stable["noise"] == stable["blind"] == 0 and stable["mixing"] < 0, "what never changes is the most stable"
    assert sparse["noise"] < 0.9 and sparse["order"] is None and sparse["sign"] == 0.5
    assert found["metrics"]["srg"]["tasks"]["transparent.additive"]["rows"] > 20


def test_what_cannot_be_tried_is_said(found):
    why = {name: found["metrics"][name]["tasks"]["transparent.additive"]["why"] for name in ("sic", "relevance_mass")}
    assert "pictures" in why["sic"] and "another kind (values)" in why["relevance_mass"]
    assert found["metrics"]["sic"]["mean"] == {
        "tasks": 0,
        **dict.fromkeys(found["metrics"]["srg"]["mean"].keys() - {"tasks"}),
    }
    with pytest.raises(TaskError, match="is not defined for all methods"):
        meta_evaluation(("functions.max",), ["srg"], size="tiny")


def test_numbers_by_hand():
    assert above(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0, float("nan")])) == pytest.approx(3.5 / 4)
    assert kendall([1, 2, 3], [1, 2, 3]) == 1 and kendall([1, 2, 3], [3, 2, 1]) == -1
    assert kendall([1, 2, 2], [1, 2, 3]) == pytest.approx(2 / 6**0.5)
    assert kendall([1, 1, 1], [1, 2, 3]) != kendall([1, 1, 1], [1, 2, 3]), "a constant has no order"


def test_contenders_are_what_their_names_say():
    problem = task_info("transparent.additive").build(0, "tiny")
    good = methods_of(problem)[2]
    many = {one.name: one for one in rivals(problem, good)}
    assert torch.equal(many[SCALED].maps, 7 * good.maps) and torch.equal(
        many["noise 25%"].maps.isfinite(), good.maps == good.maps
    )
    again = many[SCALED].again.method(problem.model, problem.inputs, problem.targets)
    assert torch.allclose(again, 7 * good.maps, atol=1e-4)
    noise = many[NOISE].again.method(problem.model, problem.inputs, problem.targets)
    assert torch.equal(noise[0], noise[1]) and not torch.equal(many[SHUFFLED].maps, good.maps)
    other, net = shuffled(problem.model, 0), problem.model
    assert isinstance(net, nn.Module) and other is not None
    weights = dict(net.named_parameters())
    for name, weight in other.named_parameters():
        assert torch.equal(weight.flatten().sort().values, weights[name].flatten().sort().values)
    assert shuffled(lambda x: x, 0) is None


def test_the_page_holds_all_metrics_and_its_claims_are_so():
    page = json.loads(PAGE.read_text(encoding="utf-8"))
    assert set(page["metrics"]) == {n for n in list_metrics() if metric_info(n).needs != "pair"}
    assert page["tasks"] == list(TASKS)
    stable = [m["mean"] for n, m in page["metrics"].items() if metric_info(n).kind == "robustness"]
    assert all(one["noise"] <= 0.5 and one["blind"] <= 0.5 for one in stable)
    sparse = [m["mean"] for n, m in page["metrics"].items() if metric_info(n).kind == "complexity"]
    assert all(one["noise"] < 0.9 for one in sparse)
