"""What travels to the page: numbers come back, nothing is lost silently, text stays text."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import torch

from interp_plugins import explain
from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.spec import InputSpec
from interp_plugins.insights import Precomputed, report_html
from interp_plugins.insights.report import catalogue
from interp_plugins.insights.wire import code, input_record, map_record, quantised


def restored(record: dict) -> np.ndarray:
    """The page's arithmetic: a byte is the signed root of its value."""
    b = np.frombuffer(base64.b64decode(record["data"]), np.int8).astype(float)
    return (np.sign(b) * (b / 127) ** 2 * record["limit"]).reshape(record["shape"])


def test_values_come_back_within_a_hundredth_of_the_limit():
    values = np.random.default_rng(0).standard_cauchy((30, 40))
    assert np.abs(restored(quantised(values)) - values).max() <= 0.008 * np.abs(values).max()


def test_small_values_survive_beside_a_large_one():
    values = np.array([1000.0, 1.0, -1.0, 0.0])
    assert np.sign(restored(quantised(values))).tolist() == [1, 1, -1, 0]


def test_a_map_of_zeros_stays_zero():
    assert restored(quantised(np.zeros((2, 3)))).tolist() == [[0.0] * 3] * 2


def explanation(**fields) -> Explanation:
    known = {
        "attributions": torch.randn(2, 3, 8, 8),
        "inputs": torch.rand(2, 3, 8, 8),
        "method": "saliency",
        "prediction": (0, 1),
        "prediction_label": ("a", "b"),
        "target": (0, 1),
        "target_label": ("a", "b"),
        "probability": torch.tensor([0.5, 0.25]),
        "spec": InputSpec(kind="image", vocab=("a", "b")),
    }
    return Explanation(**{**known, **fields})


def test_a_map_with_nan_says_so_instead_of_a_picture():
    bad = torch.randn(2, 3, 8, 8)
    bad[0, 0, 0, 0] = float("nan")
    record = map_record(explanation(attributions=bad), 0)
    assert record["view"] == "error" and "1 NaN" in record["error"]


def test_tokens_get_one_value_each():
    exp = explanation(
        attributions=torch.tensor([[1.0, -2.0]]),
        inputs=torch.tensor([[5, 7]]),
        tokens=(["<b>good</b>", "film"],),
        spec=InputSpec(kind="text"),
        prediction=None, prediction_label=None, target=None, target_label=("output",), probability=None,
    )  # fmt: skip
    record = map_record(exp, 0)
    assert record["view"] == "tokens" and record["tokens"] == ["<b>good</b>", "film"]
    assert restored(record) == pytest.approx([1, -2], rel=0.02)
    assert input_record(exp, 0) == {"view": "tokens", "tokens": ["<b>good</b>", "film"]}


def test_columns_come_with_names_and_values():
    exp = explanation(
        attributions=torch.tensor([[0.5, -0.5]]),
        inputs=torch.tensor([[39.0, 1.5]]),
        spec=InputSpec(kind="tabular", feature_names=("age", "hours")),
        prediction=None, prediction_label=None, target=None, target_label=None, probability=None,
    )  # fmt: skip
    record = map_record(exp, 0)
    assert (record["view"], record["names"], record["texts"]) == ("bars", ["age", "hours"], ["39", "1.5"])
    assert input_record(exp, 0) == {"view": "values", "names": ["age", "hours"], "texts": ["39", "1.5"]}


@pytest.mark.parametrize("kind, shape", [("sequence", (1, 40, 2)), ("volume", (1, 1, 4, 8, 8))])
def test_series_and_volumes_travel_as_pictures(kind, shape):
    one = {k: v[:1] for k, v in vars(explanation()).items() if isinstance(v, tuple)}
    exp = explanation(**one, attributions=torch.randn(shape), inputs=torch.rand(shape), probability=torch.ones(1),
                      spec=InputSpec(kind=kind, vocab=("a", "b")))  # fmt: skip
    assert map_record(exp, 0)["view"] == "picture" and input_record(exp, 0)["wide"]
    assert map_record(exp, 0)["src"].startswith("data:image/png")


def test_the_file_holds_no_foreign_markup_and_no_addresses():
    spec = InputSpec(kind="image", vocab=("</script><img src=x onerror=alert(1)>", "b"))
    html = report_html([explanation(spec=spec, prediction_label=(spec.vocab[0], "b"))], title="<i>&")
    assert "<img src=x" not in html and "<title>&lt;i&gt;&amp;</title>" in html
    namespace = "http://www.w3.org/2000/svg"  # a name, which nothing fetches
    assert "http" not in html.replace("http-equiv", "").replace("https:", "").replace(namespace, "")
    start = html.index('id="insights-data">') + len('id="insights-data">')
    data = json.loads(html[start : html.index("</script>", start)])
    assert data["classes"][0] == "</script><img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    "exps, labels, text",
    [
        ([], None, "no explanation to show"),
        ([explanation()], [0], "1 labels came for 2 samples"),
        ([explanation()], [0, 7], "7 is no index of the 2 classes"),
        ([explanation(), explanation()[0]], None, "different samples: 2 in the first, 1 in another"),
    ],
)
def test_what_does_not_fit_together_is_refused(exps, labels, text):
    with pytest.raises(InputError, match=text):
        Precomputed(exps, labels)


def test_truth_and_prediction_are_compared_only_where_both_are_known():
    samples = catalogue(Precomputed([explanation()], [None, 0]))["samples"]
    assert [s["models"][0]["correct"] for s in samples] == [None, False]


def test_the_code_of_a_class_said_by_one_number_names_both():
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    spec = InputSpec(kind="tabular", vocab=("no", "yes"))
    net = torch.nn.Linear(2, 1)
    for target in (0, 1):
        exp = explain(net, x[:1], "input_x_gradient", target=target, input_spec=spec)[0]
        text = code(exp, "explain(model, inputs[[0]]")
        again = eval(text, {"explain": explain, "model": net, "inputs": x, "InputSpec": InputSpec})[0]
        assert torch.equal(again.attribution, exp.attribution), text
