"""Robustness: closed forms, a slow reference, what counts as a neighbour, and what the model does not notice."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain, row_probe
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.report import collect
from interp_plugins.engine import acceleration
from interp_plugins.metrics import (
    Explainer,
    Neighbourhood,
    explained_neighbours,
    local_lipschitz,
    metric,
    metric_info,
    planned_passes,
    relative_input_stability,
    relative_output_stability,
    sensitivity_avg,
)

W = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)


def linear(weight: Tensor) -> nn.Linear:
    net = nn.Linear(len(weight), 1, bias=False).double()
    net.weight.data[0] = weight
    return net


def beside(x: Tensor, *steps: tuple[float, ...]) -> Tensor:
    """Neighbours (1, P, D) of one sample."""
    return torch.stack([x[0] + torch.tensor(s, dtype=x.dtype) for s in steps])[None]


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def test_the_gradient_of_a_linear_model_holds_still() -> None:
    near = explained_neighbours(linear(W), row(1, 2, 1, 1), explain="saliency", target=0)
    for value in (near.sensitivity_max, near.sensitivity_avg, near.local_lipschitz, near.continuity):
        assert value.item() == 0


def test_a_map_of_2x_moves_by_a_tenth() -> None:
    x = row(3, 4)
    near = explained_neighbours(lambda v: (v * v).sum(1), x, explain="saliency", neighbours=beside(x, (0.3, 0.4)))
    assert near.sensitivity_max.item() == pytest.approx(0.1)
    assert near.sensitivity_avg.item() == pytest.approx(0.1)
    assert near.local_lipschitz.item() == pytest.approx(2) and near.continuity.item() == pytest.approx(1.4 / 0.5)


def test_sensitivity_in_a_box_is_bounded() -> None:
    """On the box of half side r at most r sqrt(D) / |x|."""
    x = row(3, 4, 5, 1)
    near = explained_neighbours(lambda v: (v * v).sum(1), x, explain="saliency", n_neighbours=200, radius=0.1)
    bound = 0.1 * 4 * 2 / x.norm().item()
    assert 0.6 * bound < near.sensitivity_max.item() <= bound
    assert near.step.max() <= 0.1 * 4 * 2


def test_input_x_gradient_of_a_linear_model() -> None:
    """Lipschitz at most the largest weight, and that for a step along it; relative to the input exactly 1."""
    x = row(1, 2, 1, 1)
    drawn = local_lipschitz(linear(W), x, explain="input_x_gradient", target=0, n_neighbours=50)
    assert 2 < drawn.item() <= 4
    along = beside(x, (0, 0, 0, 0.1), (0.1, 0, 0, 0))
    assert local_lipschitz(linear(W), x, explain="ixg", target=0, neighbours=along).item() == pytest.approx(4)
    assert relative_input_stability(linear(W), x, explain="ixg", target=0).item() == pytest.approx(1)
    near = explained_neighbours(linear(W), x, explain="ixg", target=0)
    assert near.relative_representation_stability.item() == pytest.approx(1)  # the last layer's input is the input


def test_relative_to_the_output() -> None:
    x = row(1, 2)
    near = beside(x, (0.1, 0))
    found = relative_output_stability(linear(row(3, 1)[0]), x, explain="ixg", target=0, neighbours=near)
    assert found.item() == pytest.approx(0.1 / 0.3)


def slow(model: nn.Module, x: Tensor, near: Tensor, target: int) -> dict[str, float]:
    """The papers' formulas, one sample and neighbour at a time."""

    def gradient(v: Tensor) -> Tensor:
        v = v.clone().requires_grad_()
        return torch.autograd.grad(model(v[None])[0, target], v)[0] * v.detach()

    a, found = gradient(x), {k: [] for k in ("max", "lipschitz", "continuity", "ris", "ros", "rrs")}
    for y in near:
        if model(y[None]).argmax() != model(x[None]).argmax():
            continue
        b = gradient(y)
        relative = ((b - a) / a).norm()
        hidden = [model[1](model[0](v[None]))[0] for v in (x, y)]
        found["max"].append((b - a).norm() / a.norm())
        found["lipschitz"].append((b - a).norm() / (y - x).norm())
        found["continuity"].append((b - a).abs().sum() / (y - x).norm())
        found["ris"].append(relative / ((y - x) / x).norm())
        found["ros"].append(relative / (model(y[None]) - model(x[None])).norm())
        found["rrs"].append(relative / ((hidden[1] - hidden[0]) / hidden[0]).norm())
    values = {k: max(v).item() for k, v in found.items()}
    return {**values, "avg": (sum(found["max"]) / len(found["max"])).item(), "n": len(found["max"])}


def test_all_numbers_are_those_of_the_papers() -> None:
    model = net()
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    near = x[:, None] + 0.4 * torch.randn(5, 12, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    target = [0, 1, 2, 0, 1]
    got = explained_neighbours(model, x, explain="ixg", target=target, neighbours=near, batch_size=7)
    assert got.left_out.sum() > 0
    for i in range(5):
        want = slow(model, x[i], near[i], target[i])
        assert got.sensitivity_max[i].item() == pytest.approx(want["max"])
        assert got.sensitivity_avg[i].item() == pytest.approx(want["avg"])
        assert got.local_lipschitz[i].item() == pytest.approx(want["lipschitz"])
        assert got.continuity[i].item() == pytest.approx(want["continuity"])
        assert got.relative_input_stability[i].item() == pytest.approx(want["ris"])
        assert got.relative_output_stability[i].item() == pytest.approx(want["ros"])
        assert got.relative_representation_stability[i].item() == pytest.approx(want["rrs"])
        assert got.left_out[i].item() == 12 - want["n"]


def test_another_class_is_left_out_and_where_none_is_left_there_is_no_value() -> None:
    model, x = linear(row(1, -1)[0]), row(0.1, 0)

    def two(v: Tensor) -> Tensor:
        return torch.cat([model(v), -model(v)], 1)

    near = beside(x, (-1, 0), (1, 0), (-2, 0))
    got = explained_neighbours(two, x, explain="ixg", target=0, neighbours=near, representation=False)
    assert got.left_out.item() == 2 and got.local_lipschitz.item() == pytest.approx(1)
    every = explained_neighbours(
        two, x, explain="ixg", target=0, neighbours=near, representation=False, same_class=False
    )
    assert every.left_out.item() == 0 and every.sensitivity_max.item() == pytest.approx(20)
    score = metric("local_lipschitz", explain="ixg", target=0, neighbours=near[:, :1]).of(x, model=two, inputs=x)
    assert math.isnan(score.mean) and score.undefined == {"every neighbour has another class": 1}
    flat = explained_neighbours(two, row(1, 1), explain="ixg", target=0, representation=False)
    assert flat.sensitivity_max.isnan().all() and not flat.moved.any()


def test_an_explanation_knows_its_method_and_says_what_it_does_not_keep() -> None:
    model, x = net(), torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exp = explain(model, x, "ig", n_steps=7, baselines=0.5)[0]
    by_hand = Explainer("ig", {"n_steps": 7}, baselines=0.5)
    target = torch.tensor(exp.target)
    assert torch.equal(sensitivity_avg(model, exp), sensitivity_avg(model, x, explain=by_hand, target=target))
    given = explain(model, x, "ig", n_steps=7, baselines=x.roll(1, 0))[0]
    assert sensitivity_avg(model, given).isfinite().all()
    grouped = explain(model, x, "feature_ablation", feature_mask=torch.tensor([[0, 0, 1, 1]]))[0]
    with pytest.raises(InputError, match=r"feature_ablation was run with a feature_mask that .* explain="):
        sensitivity_avg(model, grouped)
    again = Explainer("feature_ablation", feature_mask=torch.tensor([[0, 0, 1, 1]]))
    assert sensitivity_avg(model, grouped, explain=again).isfinite().all()
    noisy = explain(model, x, "noise_tunnel", attribution_method="saliency", nt_samples=2)[0]
    with pytest.raises(InputError, match=r"what it keeps of its method gives .*explain="):
        sensitivity_avg(model, noisy)


def test_the_cells_that_explain_chooses_are_chosen_again() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), torch.rand(2, 1, 8, 8)
    exp = explain(model, x, "kernel_shap", n_samples=60)[0]
    assert exp.params["feature_mask"] == "cells" and sensitivity_avg(model, exp, n_neighbours=1).isfinite().all()
    mask = torch.arange(8).reshape(1, 1, 8, 1).expand(1, 1, 8, 8)
    assert explain(model, x, "kernel_shap", feature_mask=mask, n_samples=20)[0].params["feature_mask"] == "given"


def test_methods_that_draw_do_not_count_their_own_noise() -> None:
    """Of a linear model each draw is the same gradient, and one seed gives one map."""
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    how = {"noise_tunnel": {"attribution_method": "saliency", "nt_samples": 3, "stdevs": 0.5}}
    near = explained_neighbours(lambda v: v.abs().sum(1), x, explain=how, n_neighbours=5, radius=1e-6)
    assert near.sensitivity_max.max() < 1e-3

    def drawing(model: nn.Module, inputs: Tensor, target: object) -> Tensor:
        return inputs.sign() + torch.rand(inputs.shape)

    one = explained_neighbours(lambda v: v.sum(1), x, explain=drawing, radius=1e-6)
    assert one.sensitivity_max.max() == 0


@pytest.mark.parametrize("name", ["sensitivity_max", "relative_representation_stability"])
@pytest.mark.parametrize(
    ("how", "own"),
    [("saliency", (1, 1)), (("ig", {"n_steps": 5}), (5, 5)), (("occlusion", {"sliding_window_shapes": (2,)}), (4, 0))],
)
def test_passes_are_those_said_before(name: str, how: object, own: tuple[int, int]) -> None:
    model, x = net(), torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = {"explain": how, "target": 1, "n_neighbours": 4}
    search = 3 * (name != "sensitivity_max")
    with row_probe(False), acceleration(False):
        planned = planned_passes(name, model, x, **given)
        seen: list[int] = []
        model.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
        with collect() as report:
            metric_info(name).function(model, x, **given)
    assert planned.forward == 3 * 5 * (own[0] + 1) + search and planned.backward == 3 * 5 * own[1]
    assert (report["forward_passes"], report["backward_passes"]) == (planned.forward, planned.backward)
    assert sum(seen) == planned.forward


def test_the_model_is_as_it_was_after_success_and_exception() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x, before = torch.ones(2, 4) * torch.arange(4), torch.get_rng_state()

    def failing(m: nn.Module, inputs: Tensor, target: object) -> Tensor:
        raise RuntimeError("no map today")

    explained_neighbours(model, x, explain="saliency", target=0)
    with pytest.raises(RuntimeError, match="no map today"):
        explained_neighbours(model, x, explain=failing, target=0)
    assert torch.equal(torch.get_rng_state(), before) and all(m.training for m in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({}, InputError, "asks the method again: give explain="),
        ({"explain": 3}, InputTypeError, "takes a name, a method object .* got int 3"),
        ({"explain": lambda x: x}, InputTypeError, r"called as explain\(model, inputs, target\)"),
        ({"explain": lambda m, x, t: x[:1]}, InputError, "gave maps of shape .* for 3 rows"),
        ({"explain": lambda m, x, t: "map"}, InputTypeError, "returned a str 'map'"),
        ({"explain": {"ig": {}, "saliency": {}}}, InputError, "explain= names 2"),
        ({"explain": "saliency", "n_neighbours": 0}, InputError, "n_neighbours must be a positive int, got 0"),
        ({"explain": "saliency", "radius": -1}, InputError, "radius must be a positive number, got -1"),
        ({"explain": "saliency", "neighbours": torch.zeros(3, 4)}, InputError, r"do not fit inputs .*give \(N, P, "),
        ({"explain": "saliency", "attributions": torch.ones(3, 4)}, InputError, "gives other maps than those given"),
        ({"explain": Explainer("ig", baselines="mean")}, InputError, "mean of the batch, which neighbours would move"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(given: dict, error: type, text: str) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with pytest.raises(error, match=text):
        explained_neighbours(net(), x, given.pop("attributions", None), target=0, **given)


def test_ids_have_no_neighbours_but_given_ones() -> None:
    table = nn.Embedding(6, 2)
    x = torch.tensor([[1, 2]])

    def model(ids: Tensor) -> Tensor:
        return table(ids).sum((1, 2))

    with pytest.raises(InputError, match="all inputs are ids: give neighbours="):
        explained_neighbours(model, x, explain="feature_ablation")
    near = explained_neighbours(model, x, explain="feature_ablation", neighbours=torch.tensor([[[1, 3], [4, 2]]]))
    assert isinstance(near, Neighbourhood) and near.sensitivity_max.isfinite().all()
