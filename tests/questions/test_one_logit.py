"""One number for two classes: class 1 is the logit, class 0 its opposite, wherever a class can be asked for.

The oracle is the same network with its second column written out: logits [-z, z], or probabilities [1 - p, p].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp_plugins import Contrast, InputSpec, explain
from interp_plugins.core.errors import InterpWarning, TargetError
from interp_plugins.core.region import ClassRegion, Region
from interp_plugins.core.target import Probability
from interp_plugins.insights import Session
from interp_plugins.insights.curves import curves_of
from interp_plugins.insights.subject import prediction_of
from interp_plugins.store import explain_dataset

NAMES = InputSpec("tabular", vocab=("no", "yes"))
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
IMAGES = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.double)


class Net(nn.Module):
    """One number per sample, in the ways that people return it."""

    def __init__(self, shape: str = "column", probability: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
        self.shape, self.probability = shape, probability

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        z = torch.sigmoid(z) if self.probability else z
        return {"column": z, "squeezed": z.squeeze(), "flat": z[:, 0], "map": z[..., None, None]}[self.shape]


class Both(nn.Module):
    """The same with both columns written out."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        number = self.net(x)
        number = number.reshape(len(x), 1) if number.ndim < 4 or number.shape[-1] == 1 else number
        return torch.cat([1 - number if getattr(self.net, "probability", False) else -number, number], 1)


TARGETS: list[Any] = [
    None, "no", "yes", ("label", "no"), 0, 1, -1, torch.tensor([0, 1, 1, 0, 1, 0]), np.array([1, 0, 0, 1, 1, 0]), "all",
    Contrast("yes", "no"), Contrast(0, 1), ["yes", 0],
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize(
    ("shape", "probability", "method"),
    [("column", False, "ig"), ("squeezed", True, "occlusion"), ("flat", False, "saliency"), ("map", True, "ixg")],
)
def test_every_target_is_that_of_two_columns(target: Any, probability: bool, shape: str, method: str) -> None:
    net = Net(shape, probability)
    options = {"sliding_window_shapes": (1,)} if method == "occlusion" else {}
    found = explain(net, X, method, target=target, input_spec=NAMES, **options)
    expected = explain(Both(net), X, method, target=target, input_spec=NAMES, activation=lambda o: o, **options)
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert torch.allclose(one.attribution, other.attribution, atol=1e-12)
        assert one.score is not None and other.score is not None and torch.allclose(one.score, other.score)
        assert (one.target, one.target_label) == (other.target, other.target_label)
        assert (one.prediction, one.prediction_label) == (other.prediction, other.prediction_label)


@pytest.mark.parametrize("probability", [False, True])
def test_the_probability_shown_is_that_of_the_class_asked_for(probability: bool) -> None:
    net = Net(probability=probability)
    p = net(X).reshape(-1).detach() if probability else net(X).reshape(-1).sigmoid().detach()
    no, yes = explain(net, X, "saliency", target="all", input_spec=NAMES)
    assert no.probability is not None and yes.probability is not None
    assert torch.allclose(yes.probability, p.float()) and torch.allclose(no.probability, 1 - p.float())
    asked = explain(net, X, "ixg", target=Probability("no"), input_spec=NAMES)[0]
    x = X.clone().requires_grad_()
    out = net(x)
    gradient = torch.autograd.grad((1 - (out if probability else out.sigmoid())).sum(), x)[0]
    assert torch.allclose(asked.attribution, X * gradient)
    assert asked.score is not None and torch.allclose(asked.score, 1 - p) and asked.target_label is not None
    assert asked.target_label[0] == "p(no)"


def test_without_names_an_activation_says_that_there_are_two_classes() -> None:
    net = Net()
    found = explain(net, X, "saliency", activation=torch.sigmoid)[0]
    assert found.prediction == found.target == tuple((net(X) > 0).long().flatten().tolist())
    plain = explain(net, X, "saliency")[0]  # a regression as far as anybody knows
    assert plain.target is None and plain.prediction is None and plain.target_label == ("output",) * 6
    with pytest.raises(TargetError, match=r"logit of one of two classes, say so.*activation=torch.sigmoid"):
        explain(net, X, "saliency", target=1)
    with pytest.raises(TargetError, match=r"takes 0 \(its opposite\) and 1"):
        explain(net, X, "saliency", target=2, input_spec=NAMES)


def test_a_regression_does_not_become_a_class() -> None:
    price = InputSpec("tabular", vocab=("price",))
    found = explain(Net(), X, "saliency", input_spec=price)[0]
    assert found.prediction is None and found.target_label == ("price",) * 6
    with pytest.warns(InterpWarning, match="2 class names are known, but the model has 1 output"):
        found = explain(Net(), X, "saliency", input_spec=NAMES, activation=lambda o: None)[0]
    assert found.prediction is None and found.target_label == ("output",) * 6
    with pytest.warns(InterpWarning, match="3 class names are known, but the model has 1 output"):
        found = explain(Net(), X, "saliency", input_spec=InputSpec("tabular", vocab=tuple("abc")))[0]
    assert found.prediction is None


def test_one_label_that_may_be_there_or_not() -> None:
    net = Net()
    one = InputSpec("tabular", vocab=("cat",))
    found = explain(net, X, "ixg", input_spec=one, activation=torch.sigmoid, threshold=0.5)[0]
    z = net(X).flatten().detach()
    assert found.prediction_label == tuple("cat" if v > 0 else "no label" for v in z) and found.target_label is not None
    assert set(found.target_label) == {"cat"} and found.score is not None and torch.allclose(found.score, z)
    assert found.probability is not None and torch.allclose(found.probability, z.sigmoid().float())


def test_a_tuple_and_a_function_are_of_the_output_itself() -> None:
    net = Net()
    z = net(X).flatten().detach()
    for target in ((0,), lambda output: output[:, 0]):
        found = explain(net, X, "saliency", target=target, input_spec=NAMES)[0]
        assert found.score is not None and torch.allclose(found.score, z) and found.target is None


@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_logits_between_0_and_1_are_told_from_probabilities_by_where_they_come_from(scale: float) -> None:
    linear = nn.Linear(4, 1).double()
    with torch.no_grad():
        linear.weight.mul_(scale).abs_(), linear.bias.fill_(0.3)
    x = X.abs() * 0.1
    models = {
        "logits": [linear, nn.Sequential(linear, nn.Flatten(0)), lambda x: linear(x).squeeze(1)],
        "probabilities": [
            nn.Sequential(linear, nn.Sigmoid()),
            lambda x: torch.sigmoid(linear(x))[:, 0],
            lambda x: (linear(x).sigmoid() + linear(2 * x).sigmoid()) / 2,  # an ensemble
            lambda x: torch.stack([linear(x), linear(2 * x)]).sigmoid().mean(0),
            lambda x: torch.cat([linear(x), -linear(x)], 1).softmax(1)[:, :1],
            torch.jit.trace(nn.Sequential(linear, nn.Sigmoid()), x),
        ],
    }
    for kind, many in models.items():
        for model in many:
            for rows in (x, x[:1]):
                number = model(rows).detach().flatten()
                assert bool(((number > 0) & (number < 1)).all())
                found = explain(model, rows, "saliency", target="no", input_spec=NAMES)[0]
                assert found.score is not None
                assert torch.allclose(found.score, -number if kind == "logits" else 1 - number), (kind, model)
    for unknown in (lambda x: nn.functional.logsigmoid(linear(x)).exp_(), lambda x: linear(x).view(-1).exp_() / 9):
        with pytest.raises(TargetError, match="nothing says whether it is a logit"):
            explain(unknown, x[:1], "saliency", input_spec=NAMES)


def test_where_nothing_tells_it_is_asked() -> None:
    linear = nn.Linear(4, 1).double()

    def remote(x: Tensor) -> Tensor:
        return torch.from_numpy(1 / (1 + np.exp(-linear(x).detach().numpy())))

    options: Any = {"methods": "feature_ablation", "input_spec": NAMES}
    with pytest.raises(TargetError, match=r"nothing says whether it is a logit or already a probability.*lambda p: p"):
        explain(remote, X, **options)
    p = explain(remote, X, **options, activation=lambda p: p, target="no")[0]
    assert p.score is not None and torch.allclose(p.score, 1 - remote(X).flatten())
    assert explain(remote, X, **options, target=lambda o: o[:, 0])[0].score is not None  # no class is asked for


def test_half_precision_and_thresholds() -> None:
    net = Net().float()
    x = X.float()
    z = net(x).flatten()
    found = explain(net.bfloat16(), x.bfloat16(), "saliency", input_spec=NAMES)[0]
    assert found.probability is not None and found.probability.dtype == torch.float32
    net = net.float()
    found = explain(net, x, "saliency", input_spec=NAMES, activation=torch.sigmoid, threshold=0.6)[0]
    assert found.prediction == tuple((net(x).flatten().sigmoid() > 0.6).long().tolist()) and len(z) == 6


# -- masks -----------------------------------------------------------------------------------------------------------


class Mask(nn.Module):
    """One channel per pixel: thing or no thing."""

    def __init__(self, probability: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.probability = nn.Conv2d(2, 1, 3, padding=1).double(), probability

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        return z.sigmoid() if self.probability else z


PIXELS = InputSpec("image", vocab=("background", "thing"))


@pytest.mark.parametrize("probability", [False, True])
@pytest.mark.parametrize(
    "target",
    [
        ClassRegion("thing"), ClassRegion("background"), ClassRegion(0), ClassRegion(), "all",
        Contrast(ClassRegion("background"), ClassRegion("thing")), Probability(ClassRegion("background")),
        Region(0, torch.ones(5, 5)), Region((0, 1, 1), torch.eye(5)), (1, 2, 3),
        ClassRegion(1, truth=torch.ones(3, 5, 5, dtype=torch.long)),
    ],
    ids=lambda t: str(t)[:40],
)  # fmt: skip
def test_masks_of_one_channel_are_those_of_two(probability: bool, target: Any) -> None:
    net = Mask(probability)
    both: Any = Both(net)
    activation = (lambda o: o) if probability else None
    expected = explain(
        both, IMAGES, "ixg", target=target, input_spec=PIXELS,
        activation=activation or (lambda o: torch.cat([1 - o[:, 1:].sigmoid(), o[:, 1:].sigmoid()], 1)),
    )  # fmt: skip
    asked = (0, 2, 3) if isinstance(target, tuple) else target  # a tuple is an index of the output that there is
    found = explain(net, IMAGES, "ixg", target=asked, input_spec=PIXELS, activation=activation or torch.sigmoid)
    unsaid = explain(net, IMAGES, "ixg", target=asked, input_spec=PIXELS)
    assert len(found) == len(expected) == len(unsaid)
    for one, other, third in zip(found, expected, unsaid):
        assert torch.allclose(one.attribution, other.attribution) and torch.equal(one.attribution, third.attribution)
        assert one.score is not None and other.score is not None and torch.allclose(one.score, other.score)
        if not isinstance(target, tuple):
            assert one.target_label == other.target_label
        if other.probability is not None:
            assert one.probability is not None and torch.allclose(one.probability, other.probability)


def test_a_mask_without_names_says_whether_its_values_are_logits() -> None:
    z = Mask()(IMAGES).detach()
    found = explain(Mask(), IMAGES, "saliency", target=ClassRegion(0))[0]
    assert found.score is not None and torch.allclose(found.score, torch.where(z > 0, 0, -z).flatten(1).sum(1))
    with pytest.raises(TargetError, match="nothing says whether it is a logit"):
        explain(Mask(True), IMAGES, "saliency", target=ClassRegion())
    said = explain(Mask(True), IMAGES, "saliency", target=ClassRegion(1), activation=lambda p: p)[0]
    p = Mask(True)(IMAGES).detach()
    assert said.score is not None and torch.allclose(said.score, torch.where(p > 0.5, p, 0).flatten(1).sum(1))
    one = explain(
        Mask(), IMAGES, "saliency", target=ClassRegion("pore"), input_spec=InputSpec("image", vocab=("pore",))
    )
    assert one[0].target_label == ("pore",) * 3
    assert one[0].score is not None and torch.allclose(one[0].score, torch.where(z > 0, z, 0).flatten(1).sum(1))


def test_a_picture_of_one_channel_is_no_mask_where_no_class_is_asked_for() -> None:
    with pytest.raises(TargetError, match="leaves values of shape"):
        explain(Mask(True), IMAGES, "saliency", target=0)
    mask = torch.eye(5, dtype=torch.bool)
    found = explain(Mask(True), IMAGES, "saliency", target=Region(0, mask))[0]
    assert found.score is not None
    assert torch.allclose(found.score, (Mask(True)(IMAGES).detach() * mask).flatten(1).sum(1))


# -- the other doors -------------------------------------------------------------------------------------------------


def test_methods_from_outside_are_asked_what_they_can_answer() -> None:
    captum = pytest.importorskip("captum.attr")
    net = Net()
    found = explain(net, X, captum.Saliency(net), target="yes", input_spec=NAMES)[0]
    assert torch.allclose(found.attribution, explain(net, X, "saliency", target="yes", input_spec=NAMES)[0].attribution)
    with pytest.raises(TargetError, match=r"A method from outside takes an index.*two outputs"):
        explain(net, X, captum.Saliency(net), target="no", input_spec=NAMES)


def test_the_viewer_says_class_and_probability() -> None:
    net = Net()
    p = net(X).flatten().sigmoid()
    said = prediction_of(net, X, input_spec=NAMES)
    assert said.classes == tuple((p > 0.5).long().tolist())
    session = Session(net, X, labels=[0, 1] * 3, input_spec=NAMES, target="label", method="saliency")
    for i, sample in enumerate(session.subject.samples()):
        one = sample["models"][0]
        assert one["correct"] == (said.classes[i] == i % 2)
        assert one["probability"] == pytest.approx(max(p[i].item(), 1 - p[i].item()), rel=1e-6)
        assert one["loss"] == pytest.approx(-np.log(p[i].item() if i % 2 else 1 - p[i].item()), rel=1e-5)
    for target in (0, 1):
        exp = explain(net, X[:1], "saliency", target=target, input_spec=NAMES)[0]
        curves = curves_of(exp, 0, net, X[:1], target=target, input_spec=NAMES)
        start = p[0].item() if target else 1 - p[0].item()
        assert curves["of"] == "probability" and curves["deletion"][0] == pytest.approx(start, rel=1e-5)


def test_a_data_set_keeps_right_labels_and_accuracy(tmp_path: Any) -> None:
    net = Net()
    data = [(x, int(z > 0.2)) for x, z in zip(X, net(X).flatten())]
    store = explain_dataset(net, data, tmp_path / "run", "ixg", target="label", input_spec=NAMES, progress=False)
    frame = store.to_df()
    z = net(X).flatten().detach()
    assert frame["prediction"].tolist() == (z > 0).long().tolist() and frame["label_name"].isin(["no", "yes"]).all()
    assert frame["score"].tolist() == pytest.approx([v.item() if y else -v.item() for v, (_, y) in zip(z, data)])
    p = z.sigmoid()
    assert frame["probability"].tolist() == pytest.approx(
        [v.item() if y else 1 - v.item() for v, (_, y) in zip(p, data)]
    )


def test_titles_say_class_and_probability() -> None:
    from interp_plugins.viz.titles import panel_caption, prediction_text

    net = Net()
    exp = explain(net, X, "saliency", target="no", input_spec=NAMES)[0]
    p = 1 - net(X[:1]).sigmoid().item()
    caption = panel_caption(exp, 0)
    assert caption == f"no (p = {p:.2f})"
    assert prediction_text(exp, 0) == ("yes" if p < 0.5 else "no")
    frame = exp.to_df()
    assert frame["target_label"].tolist() == ["no"] * 6 and frame["probability"][0] == pytest.approx(p)
