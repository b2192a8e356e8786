"""Numbers from removal curves: by hand, against a slow re-implementation, shared rows, features, explanations."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import interp_plugins as ip
from interp_plugins import metrics as im
from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.report import collect
from interp_plugins.core.spec import InputSpec
from interp_plugins.metrics import list_metrics

W = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
ONES = torch.ones(1, 4)


def linear(x: Tensor) -> Tensor:
    return (x * W).sum(1)


BY_HAND = [
    ("srg", {}, 2.5),
    ("pixel_flipping", {}, 6.0),
    ("comprehensiveness", {"shares": (0.5,)}, 7.0),
    ("comprehensiveness", {"shares": (0.25,)}, 4.0),
    ("comprehensiveness", {"shares": (0.25, 0.5)}, 5.5),
    ("comprehensiveness", {"shares": (0.01,)}, 4.0),
    ("sufficiency", {"shares": (0.5,)}, 3.0),
    ("sufficiency", {"shares": (0.25,)}, 6.0),
    ("irof", {}, 0.625),
    ("irof", {"features": torch.tensor([0, 0, 7, 7])}, 1 - (1 + 2 * 0.3) / 4),
    ("srg", {"features": torch.tensor([0, 0, 7, 7])}, 2.0),
]


@pytest.mark.parametrize(("name", "params", "expected"), BY_HAND)
def test_the_exact_map_of_a_linear_model(name: str, params: dict, expected: float) -> None:
    assert im.metric_info(name).function(linear, ONES, W, **params).tolist() == pytest.approx([expected])


def test_curves_say_the_same() -> None:
    curves = im.removal_curves(linear, ONES, W)
    assert curves.deletion.tolist() == [[10, 6, 3, 1, 0]] and curves.insertion.tolist() == [[0, 4, 7, 9, 10]]
    assert curves.srg.tolist() == [2.5] and curves.aopc().tolist() == [6.0] and curves.aopc(2).tolist() == [11 / 3]
    worst = im.removal_curves(linear, ONES, -W)
    assert worst.srg.tolist() == [-2.5]
    assert torch.equal(worst.deletion, curves.insertion.flip(1))  # the least first is insertion, read backwards
    with pytest.raises(InputError, match="upto must be a positive int"):
        curves.aopc(0)


def test_a_model_that_does_not_care_and_one_that_says_zero() -> None:
    assert im.irof(lambda x: torch.full((len(x),), 3.0), ONES, W).tolist() == [0.0]
    found = im.metric("irof").of(W, model=lambda x: 0 * x.sum(1), inputs=ONES)
    assert found.undefined == {"the clean score is 0": 1}


def slow(model, x: Tensor, a: Tensor, groups: Tensor, base: float) -> tuple[list[float], list[float]]:
    """Deletion and insertion, one segment at a time, of one sample without ties."""
    numbers = groups.unique().tolist()
    means = {g: a[groups == g].mean().item() for g in numbers}
    deleted, inserted = x.clone(), torch.full_like(x, base)
    curves = [[model(deleted[None]).item()], [model(inserted[None]).item()]]
    for g in sorted(numbers, key=lambda g: -means[g]):
        where = (groups == g).expand_as(x)
        deleted, inserted = torch.where(where, base, deleted), torch.where(where, x, inserted)
        curves[0].append(model(deleted[None]).item())
        curves[1].append(model(inserted[None]).item())
    return curves[0], curves[1]


def area(curve: list[float]) -> float:
    return sum((p + q) / 2 for p, q in itertools.pairwise(curve)) / (len(curve) - 1)


class Net(nn.Module):
    """A small net with one output, that counts the rows it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 30, 1)).double()
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.body(x)[:, 0]


G = torch.Generator().manual_seed(0)
X, A = torch.randn(4, 2, 5, 6, generator=G).double(), torch.randn(4, 2, 5, 6, generator=G).double()
SEGMENTS = torch.randint(0, 5, (4, 1, 5, 6), generator=G) * 3
SEGMENTS[1] = SEGMENTS[1].clamp_max(3)  # fewer than the others


def test_segments_against_a_slow_reference() -> None:
    net = Net()
    curves = im.removal_curves(net, X, A, 0.5, features=SEGMENTS, reduce="sum", steps=None)
    assert curves.steps.tolist() == [5, 2, 5, 5] and curves.fraction.shape == (4, 6)
    for i in range(4):
        deletion, insertion = slow(net, X[i], A[i].sum(0, keepdim=True), SEGMENTS[i], 0.5)
        k = len(deletion)
        torch.testing.assert_close(curves.deletion[i, :k], torch.tensor(deletion).double())
        torch.testing.assert_close(curves.insertion[i, :k], torch.tensor(insertion).double())
        assert curves.srg[i].item() == pytest.approx(area(insertion) - area(deletion))
        assert curves.aopc()[i].item() == pytest.approx(sum(deletion[0] - v for v in deletion) / k)
        irof = im.irof(net, X[i : i + 1], A[i : i + 1], 0.5, features=SEGMENTS[i : i + 1]).item()
        assert irof == pytest.approx(1 - area([v / deletion[0] for v in deletion]))


WITH_FEATURES = [n for n in list_metrics(needs="order") if "features" in im.metric_info(n).parameters]


@pytest.mark.parametrize("name", WITH_FEATURES)
def test_segments_of_batch_mates_do_not_matter(name: str) -> None:
    maps = A.clone()
    maps[2] = 0  # ties, drawn by sample

    def model(x: Tensor) -> Tensor:
        return (x.flatten(1).clamp(-1, 1) * torch.linspace(-1, 1, 60).double()).sum(1)

    whole = im.metric(name)
    whole.update(maps, ids=range(4), model=model, inputs=X, features=SEGMENTS)
    parts = im.metric(name)
    for i in (2, 0, 3, 1):
        one = slice(i, i + 1)
        parts.update(maps[one], ids=[i], model=model, inputs=X[one], features=SEGMENTS[one])
    assert torch.equal(parts.compute().values.nan_to_num(9), whole.compute().values.nan_to_num(9))


def test_windows_are_features_that_tile_the_picture() -> None:
    net = Net()
    rows, columns = torch.arange(5) // 2, torch.arange(6) // 2
    tiles = (rows[:, None] * 3 + columns)[None, None]
    for name, of in (("region_perturbation", "aopc"), ("selectivity", "deletion_auc")):
        found = im.metric_info(name).function(net, X, A, window=2)
        curves = im.removal_curves(net, X, A, features=tiles, reduce="sum", steps=None)
        expected = curves.aopc() if of == "aopc" else curves.deletion_auc
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "rows"),
    [("srg", 2 * 7), ("pixel_flipping", 8), ("irof", 31), ("comprehensiveness", 6), ("sufficiency", 6)],
)
def test_passes_are_those_that_the_metric_tells(name: str, rows: int) -> None:
    net = Net()
    params = {"steps": 7} if name in ("srg", "pixel_flipping") else {}
    with collect() as report:
        im.metric_info(name).function(net, X, A, batch_size=1, **params)
    assert report["forward_passes"] == 4 * rows
    score = im.metric(name, **params).of(A, model=net, inputs=X)
    assert score.passes >= 4 * rows  # a probe of six rows at most sees whether rows feel each other
    assert f"{score.passes / 4:g} F a sample" in repr(score)


def test_a_constant_map_is_neutral_and_not_a_raster_scan() -> None:
    slope = torch.linspace(1, 0, 400)
    n = 200
    x, flat = torch.ones(n, 400), torch.zeros(n, 400)

    def model(v: Tensor) -> Tensor:
        return (v * slope).sum(1)

    scan = im.srg(model, x[:1], flat[:1], ties="index")
    assert scan.item() > 50
    drawn = im.metric("srg").of(flat, model=model, inputs=x)
    assert abs(drawn.mean) < 4 * drawn.sd / n**0.5 and drawn.chance == 0


def test_an_explanation_knows_inputs_baselines_and_classes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)).eval()
    x = torch.rand(3, 3, 8, 8)
    exp = ip.explain(model, x, "integrated_gradients", target=torch.tensor([0, 4, 2]), baselines=0.3)[0]
    summed = exp.attribution.sum(1, keepdim=True)
    expected = im.srg(model, x, summed, 0.3, target=[0, 4, 2])
    torch.testing.assert_close(im.srg(model, exp), expected)
    torch.testing.assert_close(im.metric("srg").of(exp, model=model).values, expected)
    torch.testing.assert_close(im.removal_curves(model, exp, reduce="sum").srg, expected)
    other = im.srg(model, exp, target=1)
    torch.testing.assert_close(other, im.srg(model, x, summed, 0.3, target=1))
    layer = ip.explain(model, x, "grad_cam", layer="0", target=1)[0]
    enlarged = torch.stack([torch.from_numpy(layer.heatmap(i).copy()) for i in range(3)])[:, None]
    torch.testing.assert_close(im.srg(model, layer), im.srg(model, x, enlarged, target=1))


def test_layouts_and_tokens() -> None:
    last = Explanation(
        A.movedim(1, -1), X.movedim(1, -1), "m", target=(None,) * 4, spec=InputSpec("image", layout="last")
    )
    net = Net()

    def channels_last(x: Tensor) -> Tensor:
        return net(x.movedim(-1, 1))

    torch.testing.assert_close(im.srg(channels_last, last, target=lambda o: o), im.srg(net, X, A))
    words = torch.randn(2, 5, 3, generator=G)
    text = Explanation(words, words, "m", target=None, spec=InputSpec("text"))

    def of_words(x: Tensor) -> Tensor:
        return x[..., 0].clamp_min(0).sum(1)

    by_hand = im.removal_curves(of_words, words, words.sum(2, keepdim=True)).srg
    torch.testing.assert_close(im.srg(of_words, text, target=lambda o: o), by_hand)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: im.srg(linear, ONES), InputError, "attributions are missing"),
        (lambda: im.srg(linear, Explanation(W, ONES, "m")), InputError, "knows no class index .* give target="),
        (lambda: im.srg(linear, ONES, W, steps=0), InputError, "steps must be a positive int, got 0"),
        (lambda: im.srg(linear, ONES, W, ties="none"), UnknownNameError, "Unknown ties 'none'"),
        (lambda: im.sufficiency(linear, ONES, W, shares=()), InputError, r"shares must be numbers in \(0, 1\]"),
        (lambda: im.sufficiency(linear, ONES, W, shares=(0.5, 2)), InputError, "shares must be"),
        (lambda: im.selectivity(linear, ONES, W), InputError, r"Windows need one input .* got shape \(1, 4\)"),
        (lambda: im.selectivity(Net(), X, A, window=0), InputError, "window must be a positive int"),
        (lambda: im.metric("srg").of(W, model=linear), InputError, "give an Explanation, or inputs="),
        (lambda: im.metric("srg").of(W, inputs=ONES), InputError, "srg needs model="),
        (lambda: im.metric("srg", step=3), UnknownNameError, "Did you mean 'steps'"),
    ],
)
def test_what_is_refused(call, error, text: str) -> None:
    with pytest.raises(error, match=text):
        call()
