"""Axioms on models whose answer is known, maps that move with the picture, and other seeds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.core.errors import InputError
from interp_plugins.metrics import (
    completeness,
    continuity,
    dummy,
    equivariance,
    implementation_invariance,
    linearity,
    metric,
    non_sensitivity,
    seed_stability,
    symmetry,
)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def conv() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).double()


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
PICTURES = torch.randn(2, 1, 10, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_an_exact_map_is_complete_against_its_own_baseline() -> None:
    w = row(1, 2, 3, 4)[0]
    assert completeness(lambda v: v @ w, row(1, 1, 1, 1), row(1, 2, 3, 4)).item() == 0
    assert completeness(lambda v: v @ w, row(1, 1, 1, 1), row(1, 2, 3, 9)).item() == pytest.approx(0.5)
    assert completeness(lambda v: v @ w, row(1, 1, 1, 1), row(1, 2, 3, 9), relative=False).item() == pytest.approx(5)
    exp = explain(net(), X, "ig", n_steps=40, baselines=0.3)[0]
    assert completeness(net(), exp).max() < 1e-6 < completeness(net(), exp, baselines=0.0).min()
    score = metric("completeness").of(row(1, 2), model=lambda v: v.sum(1) * 0, inputs=row(1, 1))
    assert score.undefined == {"the score does not change": 1} and score.passes == 2


def test_elements_that_matter_to_one_of_two() -> None:
    """f = x0 + 3 x2 and a = (1, 1, 0, 0): the map is silent about 2 and 3, the model about 1 and 3."""

    def model(v: Tensor) -> Tensor:
        return v[:, 0] + 3 * v[:, 2]

    x, a = row(1, 1, 1, 1), row(1, 1, 0, 0)
    assert non_sensitivity(model, x, a).item() == 0.5
    assert non_sensitivity(model, x, row(1, 0, 3, 0)).item() == 0
    assert dummy(model, x, a).item() == 1 and dummy(model, x, row(4, 1, 3, 0)).item() == 0.25
    every = metric("dummy").of(a, model=lambda v: v.sum(1), inputs=x)
    assert every.undefined == {"every feature matters": 1} and every.passes == 4 * 3 + 1
    pairs = torch.tensor([[0, 0, 1, 1]])
    assert non_sensitivity(model, x, row(1, 1, 0, 0), features=pairs).item() == 0.5  # the second pair matters


def test_several_draws_see_what_one_baseline_does_not() -> None:
    """The score moves for numbers above 2 alone: zeros in their place would say that nothing matters."""
    x, a = torch.linspace(0, 3, 8, dtype=torch.float64)[None], torch.ones(1, 8)

    def model(v: Tensor) -> Tensor:
        return (v[:, :4] - 2).clamp_min(0).sum(1)

    assert non_sensitivity(model, x, a, n_draws=60).item() == 0.5


def test_a_sum_of_models() -> None:
    given = {"target": 1, "other_model": net(3), "weights": (2.0, -1.0)}
    for how in ("ixg", ("ig", {"n_steps": 10}), "feature_ablation"):
        assert linearity(net(), X, explain=how, **given).max() < 1e-12
    assert linearity(net(), X, explain="saliency", **given).min() > 0.1  # absolute values do not add up


class Twice(nn.Module):
    """The same function with a step more: a ReLU of twice the value, halved."""

    def __init__(self, inside: nn.Module, odd: bool):
        super().__init__()
        self.inside, self.odd = inside, odd

    def forward(self, x: Tensor) -> Tensor:
        out = self.inside(x)
        return out.relu() - (-out).relu() if self.odd else out


def test_two_nets_of_one_function() -> None:
    given = {"target": 1, "other_model": Twice(net(), True)}
    assert implementation_invariance(net(), X, explain="ig", **given).max() < 1e-12
    other = metric("implementation_invariance", explain="ig", target=1, other_model=net(3)).of(
        explain(net(), X, "ig", target=1)[0].attributions, model=net(), inputs=X
    )
    assert other.undefined == {"the two models give different outputs": 3}


def test_elements_that_the_model_treats_alike() -> None:
    def product(v: Tensor) -> Tensor:
        return v.prod(1)

    assert symmetry(product, row(1, 2), explain="ig", pairs=[(0, 1)]).item() < 1e-9
    weighed = symmetry(product, row(2, 2), explain=lambda m, x, t: x * row(1, 2), pairs=[(0, 1)])
    assert weighed.item() == pytest.approx(0.5)  # (2, 4), exchanged (4, 2)
    unlike = metric("symmetry", explain="ig", pairs=[(0, 1)]).of(row(2, 0), model=lambda v: v[:, 0], inputs=row(2, 1))
    assert unlike.undefined == {"the model treats no pair alike": 1}
    with pytest.raises(InputError, match="pairs must be numbers"):
        symmetry(product, row(1, 2), explain="ig", pairs=[(0, 2)])


@pytest.mark.parametrize("transform", ["flip", "shift", "turn", lambda x: x.flip(2)])
def test_an_elementwise_method_follows_every_move(transform: object) -> None:
    found = equivariance(conv(), PICTURES, explain=lambda m, x, t: x.sin(), target=0, transform=transform)
    assert torch.allclose(found, torch.ones(2).double(), atol=1e-12)
    assert equivariance(conv(), PICTURES, explain="saliency", target=0, transform=transform).max() < 0.99


def test_a_map_that_moves_with_the_picture_is_continuous() -> None:
    assert torch.equal(
        continuity(conv(), PICTURES, explain=lambda m, x, t: x, target=0, shift=1), torch.zeros(2).double()
    )
    fixed = torch.linspace(0, 1, 100).reshape(1, 1, 10, 10).double()
    still = continuity(conv(), PICTURES, explain=lambda m, x, t: fixed.expand_as(x), target=0, shift=1)
    x = PICTURES[0, 0]
    moved = [torch.cat([x[:1], x[:-1]]), torch.cat([x[1:], x[-1:]])]
    moved += [torch.cat([x[:, :1], x[:, :-1]], 1), torch.cat([x[:, 1:], x[:, -1:]], 1)]
    steps = [9 * 10 * 10 / 99, 9 * 10 * 10 / 99, 9 * 10 / 99, 9 * 10 / 99]
    assert still[0].item() == pytest.approx(max(s / (m - x).norm().item() for s, m in zip(steps, moved)))
    with pytest.raises(InputError, match="no places to move along"):
        continuity(net(), X, explain="saliency", target=0, shift=1)


def test_a_method_without_draws_is_the_same_the_next_time() -> None:
    assert torch.equal(seed_stability(net(), X, explain="ig", target=0), torch.ones(3).double())
    few, many = (
        seed_stability(net(), X, explain=("gradient_shap", {"n_samples": n}), target=0, baselines=torch.randn(9, 4))
        for n in (2, 60)
    )
    assert (few < many).all() and many.min() > 0.9
