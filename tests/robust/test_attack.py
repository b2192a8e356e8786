"""attack: raw units, early leaving, goals, and what is told of each sample."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp_plugins.core.detection import Box
from interp_plugins.core.errors import InterpError, InterpWarning
from interp_plugins.core.region import ClassRegion
from interp_plugins.core.spec import InputSpec
from interp_plugins.robust import Perturbed, attack, attacking

DUAL = {"Linf": 1.0, "L2": 2.0, "L1": math.inf}


def linear(classes: int = 2, features: int = 6) -> nn.Linear:
    return nn.Linear(features, classes).double().eval().requires_grad_(False)


def small_net(classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, classes)).double().eval()


def pictures(n: int = 4) -> Tensor:
    return torch.rand(n, 3, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize(("name", "early"), [("pgd", True), ("pgd", False), ("fmn", True), ("deepfool", True)])
def test_what_a_faster_view_gets_wrong_is_asked_of_the_model_itself(
    name: str, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = small_net(), pictures(3)
    asked = {"eps": 0.4, "stop_early": early, "steps": 8, "bounds": None}
    alone = attack(net, x, name, **asked)

    def wrong(subject: Any, plan: Any) -> Any:
        return replace(subject.forward, func=lambda v: subject.forward.func(v) + torch.tensor([0, 0, 0, 9.0]))

    monkeypatch.setattr(attacking, "_faster", wrong)
    found = attack(net, x, name, **asked)
    said = net(found.perturbed).argmax(1).tolist()
    assert list(found.prediction_after) == said and found.state == alone.state
    assert all((s == "turned") == (a != b) for s, a, b in zip(found.state, found.prediction, said, strict=True))


@pytest.mark.parametrize(("name", "norm"), [("pgd", "Linf"), ("pgd", "L2"), ("pgd", "L1"), ("fmn", "Linf")])
def test_restarts_of_a_sample_are_the_same_alone_and_in_a_batch(name: str, norm: str) -> None:
    net, x = small_net(), pictures(3)
    asked: dict[str, Any] = {"eps": 0.003 if norm == "Linf" else 0.05, "norm": norm, "restarts": 2, "steps": 4}
    asked = {**asked, "eps": None} if name == "fmn" else asked
    alone, batch = attack(net, x[1:2], name, **asked), attack(net, x, name, **asked)
    assert torch.allclose(alone.delta[0], batch.delta[1], atol=1e-12) and alone.state[0] == batch.state[1]


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_score_reaches_its_value_by_the_smallest_change(norm: str) -> None:
    net, x = linear(4), torch.randn(3, 6, dtype=torch.float64)
    found = attack(net, x, "fmn", norm=norm, target=2, goal=("below", -2.0))
    exact = (net(x)[:, 2] + 2) / torch.linalg.vector_norm(net.weight[2], DUAL[norm])
    assert torch.allclose(found.norms[norm], exact.clamp_min(0), rtol=1e-3)
    assert found.goal_label == ("below -2",) * 3 and found.target_label == (2, 2, 2)
    assert torch.allclose(found.margin, net(x)[:, 2] + 2) and bool((net(found.perturbed)[:, 2] <= -2 + 1e-9).all())
    up = attack(lambda v: net(v)[:, 0], x, eps=0.1, norm=norm, goal=("change", 0.01))
    assert up.state == ("turned",) * 3 and bool((net(up.perturbed)[:, 0] >= net(x)[:, 0] + 0.01).all())
    with pytest.raises(InterpError, match="a goal is of the attacks by name"):
        attack(net, x, lambda model, v, labels: v, target=2, goal=("below", 0.0))


def test_scores_of_regions_boxes_and_single_labels_can_be_lowered() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 1, 8, 8)
    segments = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)).eval()
    found = attack(segments, x, eps=0.1, target=ClassRegion(), goal=("change", -0.05))
    assert found.success.all() and found.explain(segments, "saliency", target=ClassRegion())
    score = nn.Linear(64, 1)
    box = torch.tensor([1.0, 1.0, 6.0, 6.0])

    def detector(v: Tensor) -> list[dict[str, Tensor]]:
        said = score(v.flatten(1)).sigmoid()
        return [{"boxes": box[None], "scores": s, "labels": torch.tensor([1])} for s in said]

    clean = torch.stack([d["scores"][0] for d in detector(x)])
    gone = attack(detector, x, eps=0.05, target=Box(box, 1), goal=("change", -0.02))
    after = torch.stack([d["scores"][0] for d in detector(gone.perturbed)])
    assert gone.success.all() and bool((after <= clean - 0.02).all())
    with pytest.raises(InterpError, match=r"no score per class.*ClassRegion"):
        attack(segments, x, eps=0.1)


def test_half_precision_is_attacked_in_float32_and_told() -> None:
    net, x = small_net().float().bfloat16(), pictures().bfloat16()
    with pytest.warns(InterpWarning, match="inputs are bfloat16: changes are searched in float32"):
        found = attack(net, x, eps=0.5)
    assert found.perturbed.dtype == torch.bfloat16 and found.delta.dtype == torch.float32
    assert list(found.prediction_after) == net(found.perturbed).argmax(1).tolist()


def test_a_model_that_draws_is_told_of() -> None:
    net, x = nn.Linear(6, 3), torch.randn(3, 6)
    drawing = lambda v: net(nn.functional.dropout(v, 0.3, training=True))  # noqa: E731
    with pytest.warns(InterpWarning, match=r"draws random numbers in eval mode.*depends on the draws"):
        found = [attack(drawing, x, eps=0.1) for _ in range(2)]
    assert torch.equal(found[0].delta, found[1].delta)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_linear_model_turns_just_beyond_its_margin(norm: str) -> None:
    net, x = linear(), torch.randn(5, 6, dtype=torch.float64)
    z = net(x)
    away = net.weight[1] - net.weight[0]
    exact = (z[:, 0] - z[:, 1]).abs() / torch.linalg.vector_norm(away, DUAL[norm])
    for i in range(5):
        for factor, state in ((0.98, "held"), (1.02, "turned")):
            found = attack(net, x[i : i + 1], eps=float(exact[i]) * factor, norm=norm, steps=20)
            assert found.state == (state,) and float(found.norms[norm][0]) <= float(exact[i]) * factor + 1e-9


def test_sizes_are_in_raw_units_whatever_the_model_normalises_by() -> None:
    spec = InputSpec("image", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    net, raw = small_net(), pictures()
    plain = attack(lambda r: net(spec.normalise(r)), raw, eps="8/255", steps=5, input_spec=InputSpec("image"))
    found = attack(net, spec.normalise(raw), eps=8 / 255, steps=5, input_spec=spec)
    assert torch.allclose(found.delta, plain.delta, atol=1e-12) and found.prediction_after == plain.prediction_after
    assert torch.allclose(spec.denormalise(found.perturbed), raw + found.delta)
    assert float(found.norms["Linf"].max()) <= 8 / 255 + 1e-12
    assert float((raw + found.delta).min()) >= 0 and float((raw + found.delta).max()) <= 1


def test_a_sample_alone_is_attacked_as_in_its_batch_and_in_chunks() -> None:
    net, x = small_net(), pictures()
    whole = attack(net, x, eps=0.1, steps=6)
    chunked = attack(net, x, eps=0.1, steps=6, batch_size=3)
    alone = [attack(net, x[i : i + 1], eps=0.1, steps=6) for i in range(4)]
    assert torch.allclose(whole.delta, chunked.delta, atol=1e-10)
    assert torch.allclose(whole.delta, torch.cat([one.delta for one in alone]), atol=1e-10)
    assert whole.state == tuple(one.state[0] for one in alone)


def test_rows_that_are_turned_leave_the_batch() -> None:
    net, x = small_net(), pictures(6)
    rows: list[int] = []
    count = lambda v: rows.append(len(v)) or net(v)  # noqa: E731
    early = attack(count, x, eps=0.3, steps=12)
    few = sum(rows)
    rows.clear()
    late = attack(count, x, eps=0.3, steps=12, stop_early=False)
    assert all(s == "turned" for s in (*early.state, *late.state)) and few < sum(rows)
    assert bool((early.steps <= late.steps).all()) and bool((late.margin_after <= early.margin_after + 1e-9).all())


def test_a_goal_is_reached_by_name_and_the_class_left_by_index() -> None:
    net, x = small_net(), pictures()
    spec = InputSpec("image", vocab=("ant", "bee", "cat", "dog"))
    said = net(x).argmax(1)
    goals = [spec.vocab[(int(c) + 1) % 4] for c in said]
    for i in range(4):
        found = attack(net, x[i : i + 1], eps=1.0, steps=30, goal=goals[i], input_spec=spec)
        assert found.state == ("turned",) and found.prediction_after == (goals[i],) == found.goal_label
    wrong = attack(net, x, eps=0.1, target=(said + 1) % 4)
    assert wrong.state == ("already",) * 4 and torch.equal(wrong.perturbed, x) and bool(wrong.success.all())
    with pytest.raises(InterpError, match="goal is the class that the model is to leave"):
        attack(net, x, goal=said)


@pytest.mark.parametrize("given", ["logit", "probability"])
def test_two_classes_in_one_number_are_both_left(given: str) -> None:
    net = linear(1)
    model = net if given == "logit" else nn.Sequential(net, nn.Sigmoid())
    x = torch.randn(6, 6, dtype=torch.float64)
    spec = InputSpec("tabular", vocab=("no", "yes"))
    found = attack(model, x, eps=10.0, steps=10, input_spec=spec)
    expected = ["yes" if v > 0 else "no" for v in net(x)[:, 0]]
    assert list(found.prediction) == expected and found.state == ("turned",) * 6
    assert all({a, b} == {"no", "yes"} for a, b in zip(found.prediction, found.prediction_after, strict=True))


def test_a_gradient_of_zero_is_called_masked() -> None:
    net = lambda v: torch.stack([v.sum(1).round() * 0 + v[:, 0] * 0 + 1, v[:, 0] * 0], 1)  # noqa: E731
    assert attack(net, torch.rand(2, 3), eps=0.5, steps=2).state == ("masked", "masked")


def test_a_restart_at_a_random_point_finds_what_the_first_did_not() -> None:
    model = lambda v: torch.stack([0.3 - (v[:, 0] - 0.8).relu() * 9 + v[:, 0] * 0, v[:, 1] * 0], 1)  # noqa: E731
    x = torch.zeros(1, 2, dtype=torch.float64)
    assert attack(model, x, eps=1.0, steps=5).state == ("masked",)
    found = [attack(model, x, eps=1.0, steps=5, restarts=30, seed=s) for s in (1, 1)]
    assert found[0].state == ("turned",) and torch.equal(found[0].delta, found[1].delta)


def test_a_change_that_eight_bits_cannot_hold_is_told() -> None:
    net = lambda v: torch.stack([0.5 + 1e-4 - v[:, 0, 0, 0], v[:, 0, 0, 0] - 0.5], 1)  # noqa: E731
    x = torch.full((1, 1, 8, 8), 127.5 / 255 - 1e-4, dtype=torch.float64)
    x[..., 0, 0] = 127 / 255
    small = attack(net, x, eps=0.003, steps=10, input_spec=InputSpec("image"))
    large = attack(net, x, eps=0.02, steps=1, step_size=0.02, input_spec=InputSpec("image"))
    assert small.state == large.state == ("turned",)
    assert large.success_after_rounding is not None and bool(large.success_after_rounding)
    assert attack(linear(), torch.randn(1, 6).double(), eps=9.0).success_after_rounding is None


def test_several_inputs_share_one_ball() -> None:
    model = lambda a, b: torch.stack([-(a.sum(1) + b.sum(1)), a.sum(1) * 0 - 99], 1)  # noqa: E731
    found = attack(model, (torch.zeros(2, 3), torch.zeros(2, 1)), eps=1.0, norm="L2", steps=8)
    assert isinstance(found.delta, tuple) and torch.allclose(found.norms["L2"], torch.ones(2))
    assert torch.allclose(found.delta[0], torch.full((2, 3), 0.5)) and found.state == ("held", "held")


def test_models_whose_rows_feel_each_other_are_attacked_whole() -> None:
    net = linear(3)
    model = lambda v: net(v - v.mean(0))  # noqa: E731
    with pytest.warns(UserWarning, match="feel each other|rows"):
        found = attack(model, torch.randn(3, 6, dtype=torch.float64), eps=5.0, steps=5)
    assert len(found) == 3


def test_nothing_of_the_users_is_changed_and_nothing_is_on_a_graph() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x, state = torch.randn(3, 4), torch.get_rng_state()
    kept = x.clone()
    with torch.inference_mode():
        found = attack(net, x, eps=0.5, steps=3, restarts=2)
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(x, kept) and torch.equal(state, torch.get_rng_state()) and not found.perturbed.requires_grad


def test_a_result_is_a_table_maps_and_a_picture() -> None:
    net, x = small_net(), pictures(3)
    found = attack(net, x, eps=0.2, steps=5, input_spec=InputSpec("image", vocab=("ant", "bee", "cat", "dog")))
    table = found.to_df()
    assert list(table["state"]) == list(found.state) and {"Linf", "L2", "L1", "L0", "margin_after"} <= set(table)
    assert repr(found).startswith("Perturbed(pgd, eps=0.2 Linf, 3 samples:") and len(found) == 3
    before, after = found.explain(net, "saliency")
    assert before[0].target_label == after[0].target_label == found.target_label
    plot = found.show(max_n=2)
    assert plot.axes.shape == (2, 3) and "change × " in plot.axes[0, 2].get_xlabel()
    shown = np.asarray(plot.axes[0, 1].images[0].get_array())
    assert np.allclose(shown, found.perturbed[0].permute(1, 2, 0).numpy())
    with pytest.raises(InterpError, match="to_df"):
        attack(linear(), torch.randn(1, 6, dtype=torch.float64)).show()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"eps": -1}, "eps must be a number from 0"),
    ({"eps": "8 of 255"}, "a fraction as text"),
    ({"norm": "L3"}, "norm must be one of"),
    ({"attack": "cw"}, "attack must be one of pgd, fgsm"),
    ({"steps": 0}, "steps must be a positive int"),
    ({"restarts": 0}, "restarts must be a positive int"),
    ({"bounds": 3}, "bounds must be"),
    ({"bounds": (1.0, 2.0)}, "outside of lower_bound 1.0"),
    ({"seed": -1}, "seed must be an int"),
    ({"mask": torch.zeros(1, 6)}, "mask is zero everywhere"),
    ({"target": "cat"}, "no class names are known"),
    ({"target": (0, 1)}, "Cannot choose target|are classes"),
]


@pytest.mark.parametrize(("wrong", "text"), BAD, ids=lambda v: str(v) if isinstance(v, str) else "")
def test_wrong_calls_say_what_to_do(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(InterpError, match=text):
        attack(linear(), torch.zeros(2, 6, dtype=torch.float64), **wrong)


def test_wrong_data_and_models_say_what_to_do() -> None:
    net, x = small_net(), pictures(2)

    def sealed(v: Tensor) -> Tensor:
        with torch.no_grad():
            return net(v)

    for model, given, text in (
        (net, x * 255, r"look like pictures of 0 to 255: divide by 255"),
        (net, x * 4 - 2, r"look normalised by other numbers than are known here"),
        (net, (x * 255).long(), r"ids of words or categories.*smallest_flip\(model, ids, baselines="),
        (sealed, x, r"nothing to climb.*as_attack"),
        (lambda v: net(v) * torch.nan, x, r"returned NaN in 2 of 2 rows"),
    ):
        with pytest.raises(InterpError, match=text):
            attack(model, given, eps=0.1)


def test_a_regression_is_sent_to_the_classes() -> None:
    with pytest.raises(InterpError, match=r"no score per class.*goal=\('below', value\)"):
        attack(linear(1), torch.zeros(2, 6, dtype=torch.float64))
    assert isinstance(attack(linear(), torch.zeros(1, 6, dtype=torch.float64), eps=0), Perturbed)
