"""`compare_methods`: right where a mark decides, none for a net that has learnt nothing, and every number said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import interp_plugins as ip
from interp_plugins import metrics as im
from interp_plugins.api.samples import SampleBatch
from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.metrics.candidates import able, candidates
from interp_plugins.metrics.comparing import Comparing
from interp_plugins.metrics.controls import BLIND
from interp_plugins.metrics.model_check import _at_least, learnt, told_apart

N = 12
METHODS = ("saliency", "input_x_gradient", "integrated_gradients")
PLUS = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
CROSS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])


def marked_pictures(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with a bright mark somewhere, a plus or a cross, which is the class; and where it is."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.rand(n, 1, 14, 14, generator=g) * 0.6, torch.randint(2, (n,), generator=g)
    masks = torch.zeros(n, 14, 14, dtype=torch.bool)
    for i in range(n):
        r, c = torch.randint(1, 10, (2,), generator=g).tolist()
        place = x[i, 0, r : r + 3, c : c + 3]
        x[i, 0, r : r + 3, c : c + 3] = torch.where((PLUS if y[i] else CROSS) > 0, 1.0, place * 0.3)
        masks[i, r : r + 3, c : c + 3] = True
    return x, y, masks


def untrained() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(32, 2)).eval()


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    model, (x, y, _) = untrained().train(), marked_pictures(384, 0)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(20):
        for rows in torch.arange(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    return model.eval()


X, Y, MASKS = marked_pictures(N, 1)


class Blind:
    """A method that shows the input, whatever the model."""

    def __init__(self, power: float):
        self.power = power

    def attribute(self, inputs: Tensor, target: Any = None) -> Tensor:
        return inputs.abs() ** self.power


@pytest.fixture(scope="module")
def found(trained: nn.Module) -> im.Comparison:
    loader = DataLoader(TensorDataset(X, Y), 8)
    return ip.compare_methods(trained, loader, (*METHODS, Blind(3)), masks=MASKS, budget="fast", n_steps=10)


def test_where_a_mark_decides_the_methods_that_find_it_are_named(found: im.Comparison) -> None:
    assert found.best in ("input_x_gradient", "integrated_gradients") and found.best in found.order
    assert all(check.passed for check in found.model)
    best = found.scores[found.best, "relevance_mass"]
    assert best.ci()[0] > 5 * float(best.chance or 1)  # its mass lies on the mark
    assert "Blind" not in found.order and found.verdict("Blind").startswith("fails: above maps that ignore the model")
    assert {m for m in found.methods if found.verdict(m).startswith("fails")} >= {"saliency", "Blind"}


def test_why_says_every_number_and_what_was_not_tested(found: im.Comparison) -> None:
    text = found.why()
    assert text.startswith(f"Use {found.best}, the first of 4 methods compared on {N} samples")
    srg = found.scores[str(found.best), "srg"]
    low, high = srg.ci()
    assert f"{srg.mean:.3g} [{low:.3g}, {high:.3g}], n = {N}" in text and "sign-flip test of no difference" in text
    assert "this 95% interval decides: it lies above 0" in text
    for said in ("Blind was ruled out", "nats of its sample", "binomial test", "rank correlation", "Not tested: "):
        assert said in text
    assert text.endswith("shows the wrong thing.") and "no masks" not in text
    assert repr(found).startswith(f"Comparison: best = '{found.best}'")


def test_it_is_shown_as_a_table_a_picture_and_a_page(found: im.Comparison, tmp_path: Path) -> None:
    table = found.to_df()
    assert list(table["method"])[: len(found.order)] == list(found.order) and len(table) == 4 + len(BLIND)
    assert set(table["verdict"]) >= {"best", "control"} and found.passes["saliency"] == 2
    figure, axes = found.show()
    assert axes.size >= len(found.scores.metrics) and figure.get_size_inches()[0] < 16
    text = Path(found.to_html(tmp_path / "page.html")).read_text()
    assert "http" not in text.replace("http-equiv", "") and text.count("<img") == 1
    assert all(word in text for word in ("Why", "All numbers", "control.edges", "rank correlation"))
    assert found.to_html() == text and "<table>" in found._repr_html_()
    score = found.scores["saliency", "srg"]
    low, high = (f"{v:.3g}" for v in score.ci())
    assert f"<td>{score.mean:.3g} [{low},\u00a0{high}]</td>" in text  # a mean and its interval are one cell


def test_its_page_needs_no_scrolling_sideways(found: im.Comparison, tmp_path: Path, page: Any) -> None:
    found.scores.to_html(tmp_path / "scores.html")
    found.to_html(tmp_path / "page.html")
    page.set_viewport_size({"width": 1200, "height": 900})
    for name in ("page.html", "scores.html"):
        page.goto((tmp_path / name).as_uri())
        wide = "[...document.querySelectorAll('.scroll, html')].filter(e => e.scrollWidth > e.clientWidth).length"
        assert page.evaluate(wide) == 0, name


def test_a_net_that_has_learnt_nothing_has_no_best_method() -> None:
    seen = ip.compare_methods(untrained(), DataLoader(TensorDataset(X, Y), 8), METHODS[:2], budget="fast")
    assert seen.best is None and seen.order == [] and [check.passed for check in seen.model] == [False, False]
    assert seen.why().startswith("None of 2 methods can be recommended") and "do not tell" in seen.why()
    assert any("no masks were given" in one for one in seen.untested)
    unlabelled = ip.compare_methods(untrained(), X, "input_x_gradient", budget="fast")
    assert unlabelled.best is None and any("without labels" in one for one in unlabelled.untested)


def test_equal_methods_are_told_apart_by_their_cost(trained: nn.Module) -> None:
    """More steps of the same integral find the same map."""
    seen = ip.compare_methods(trained, X, [of_steps(trained, 30), of_steps(trained, 20)], budget="fast")
    assert set(seen.ties) == {"Steps30", "Steps20"} and seen.best == "Steps20"
    assert seen.passes["Steps20"] < seen.passes["Steps30"] and "cannot be told apart" in seen.why()


def of_steps(model: nn.Module, steps: int) -> Any:
    from interp_plugins.attr import IntegratedGradients

    class Steps(IntegratedGradients):
        def attribute(self, inputs: Tensor, target: Any = None) -> Tensor:
            found: Tensor = super().attribute(inputs, target=target, n_steps=steps)
            return found

    Steps.__name__ = f"Steps{steps}"
    return Steps(model)


def test_a_function_without_weights_and_outputs_without_classes_are_said_not_tested() -> None:
    seen = ip.compare_methods(lambda x: x.flatten(1).clamp_min(0).sum(1), X, METHODS[1:], budget="fast")
    assert [check.passed for check in seen.model] == [None] and "parameter_randomisation" not in seen.scores.metrics
    assert any("other weights" in one for one in seen.untested)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(196, 1))
    seen = ip.compare_methods(linear, X, "input_x_gradient", budget="fast")
    assert [check.passed for check in seen.model] == [None] and "no probabilities" in seen.why()


def test_candidates_that_cannot_explain_a_model_are_left_out_and_said() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(196, 2))
    seen = ip.compare_methods(model, X[:4], budget="fast")
    assert "grad_cam" in seen.left_out and "grad_cam was left out" in seen.why()
    assert set(seen.checks) == set(candidates("image", "fast")) - set(seen.left_out)


def test_what_a_class_says_of_its_sample() -> None:
    assert told_apart(torch.eye(4)) == pytest.approx(math.log(4)) and told_apart(torch.full((5, 3), 1 / 3)) == 0
    same, unlike = torch.tensor([[0.9, 0.1]] * 6), torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    assert told_apart(same) < 1e-12 < told_apart(unlike)
    for hits, n, share in ((3, 10, 0.3), (0, 5, 0.5), (16, 16, 0.56), (2, 2, 1.0)):
        assert _at_least(hits, n, share) == pytest.approx(scipy.stats.binom.sf(hits - 1, n, share))
    [check] = learnt(None, None, "it has none")
    assert check.passed is None and "it has none" in check.says


def test_a_map_that_ignores_the_weights_gains_nothing_by_them(trained: nn.Module) -> None:
    exp = ip.explain(trained, X, "input_x_gradient")[0]
    blind = im.weights_gain(trained, X, X.abs(), explain=lambda model, x, target: x.abs(), target=Y, steps=5)
    assert torch.equal(blind, torch.zeros(N).double())
    own = im.weights_gain(trained, exp, steps=10)
    assert own.mean() > 0.5 * im.srg(trained, exp, steps=10).mean() > 0
    assert torch.equal(own, im.weights_gain(trained, exp, steps=10))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"budget": "quick"}, UnknownNameError, "Unknown budget 'quick'"),
        ({"data": []}, InputError, "There is no sample"),
        ({"methods": "salience"}, UnknownNameError, "Did you mean 'saliency'"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ip.compare_methods(untrained(), options.pop("data", X), **{"methods": "saliency", **options})


def test_methods_are_tried_with_what_comes_with_the_samples() -> None:
    """A model that gives more than its scores, as fastai's classifiers of texts do: which part counts goes along."""

    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :2], x

    batch = SampleBatch(model, torch.rand(2, 4), (0, 1), options={"output": 0})
    assert able(["saliency"], batch, lambda name: {}, 0) == (["saliency"], {})
    found = Comparing("saliency", budget="fast").of([batch])
    assert found.passes["saliency"] == 2
