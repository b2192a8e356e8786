"""The cubic control variate of Kernel SHAP against closed forms, refits and all coalitions."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins.attr import KernelShap, ShapleyValues
from interp_plugins.attr.perturbation import cubic_fit as module
from interp_plugins.attr.perturbation import kernel_shap
from interp_plugins.attr.perturbation.cubic_fit import cubic_fit
from interp_plugins.core.report import collect

D = 10


def every(d: int) -> Tensor:
    """All coalitions with the first feature but the whole, (2^(d - 1) - 1, d)."""
    codes = torch.arange(2 ** (d - 1) - 1)
    rest = (codes[:, None] >> torch.arange(d - 1)) & 1
    return torch.cat([torch.ones(len(codes), 1), rest], 1).bool()


def odd_game(d: int) -> Any:
    """Products of one and of three signs with random weights, 0 for the whole; and its Shapley values."""
    draws = torch.Generator().manual_seed(0)
    terms = [t for size in (1, 3) for t in itertools.combinations(range(d), size)]
    weights = torch.randn(len(terms), generator=draws, dtype=torch.float64)
    weights[0] -= weights.sum()
    values = torch.zeros(d, dtype=torch.float64)
    for t, w in zip(terms, weights, strict=True):
        values[list(t)] += 2 * w / len(t)

    def game(z: Tensor) -> Tensor:
        signs = 2 * z.double() - 1
        return sum((w * signs[:, list(t)].prod(1) for t, w in zip(terms, weights, strict=True)), torch.zeros(len(z)))

    return game, values


def test_shapley_values_of_a_cubic_game_are_those_of_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NOISE", 1e-10)
    game, values = odd_game(6)
    z = every(6)
    found, left = cubic_fit(z, game(z)[:, None], torch.zeros(len(z), dtype=torch.bool))
    assert torch.allclose(found[:, 0], values, atol=1e-4) and float(left.abs().max()) < 1e-4


def test_leftovers_of_a_drawn_pair_are_those_of_a_fit_without_it() -> None:
    game, _ = odd_game(6)
    z = every(6)[torch.randperm(31, generator=torch.Generator().manual_seed(1))[:20]]
    z[3:5] = ~z[3:5]  # the other one of its pair
    y = torch.stack([game(z), game(z).sin()], 1)
    drawn = torch.arange(20) % 2 == 0
    found, left = cubic_fit(z, y, drawn)
    for row in (4, 8, 9):
        others = torch.arange(20) != row if drawn[row] else torch.ones(20, dtype=torch.bool)
        # a function is read off at a further pair, which asks for the fit of all others
        at = torch.cat([z[others], z[row : row + 1]])
        _, told = cubic_fit(at, torch.cat([y[others], torch.zeros(1, 2)]), torch.arange(len(at)) == len(at) - 1)
        if drawn[row]:
            assert torch.allclose(left[row], y[row] + told[-1], atol=1e-9)
    twice, left_twice = cubic_fit(torch.cat([z, ~z[:7]]), torch.cat([y, -y[:7]]), torch.cat([drawn, drawn[:7]]))
    assert torch.allclose(twice, found, atol=1e-9)  # the same pairs again tell nothing new
    assert torch.allclose(left_twice, torch.cat([left, -left[:7]]), atol=1e-9)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(1)
    made = nn.Sequential(nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    with torch.no_grad():
        for p in made.parameters():
            p *= 1.7
    return made.double()


@pytest.mark.parametrize(("how", "gain"), [("stratified", 0.7), ("paired", 0.9)])
def test_the_error_falls_and_what_is_stated_holds_in_nine_cases_of_ten(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch, how: str, gain: float
) -> None:
    x = torch.randn(4, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    truth = torch.stack([ShapleyValues(net).attribute(x, target=k) for k in range(2)], 1)

    def errors() -> tuple[Tensor, Tensor]:
        found, stated = [], []
        for seed in range(15):
            with collect() as report:
                maps = KernelShap(net).attribute(x, n_samples=300, seed=seed, progress=False, **{how: True})
            assert torch.allclose(maps.sum(2), truth.sum(2))  # complete
            found.append((maps - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1))
            stated.append(torch.tensor(report["map_error"], dtype=torch.float64))
        return torch.stack(found), torch.stack(stated)

    found, stated = errors()
    assert float((found <= stated).double().mean()) >= 0.9
    assert float((found <= stated).double().mean(0).min()) >= 0.8
    monkeypatch.setattr(kernel_shap, "LEAST", 10**6)
    plain, _ = errors()
    assert float(found.square().mean()) < (gain * float(plain.square().mean().sqrt())) ** 2
    # Without anyone asking for the error the values are the same.
    monkeypatch.setattr(kernel_shap, "LEAST", module.LEAST)
    arguments: dict[str, Any] = {"n_samples": 300, "seed": 0, how: True}
    with collect():
        asked = KernelShap(net).attribute(x, **arguments)
    assert torch.equal(KernelShap(net).attribute(x, **arguments), asked)


def test_samples_with_different_players_are_as_when_alone(net: nn.Module) -> None:
    x = torch.randn(2, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x[0, :2] = 0
    how: dict[str, Any] = {"target": 1, "n_samples": 150, "stratified": True, "seed": 4}
    both = KernelShap(net).attribute(x, **how)
    for i in range(2):
        assert torch.allclose(KernelShap(net).attribute(x[i : i + 1], **how)[0], both[i], atol=1e-9)
    assert not both[0, :2].any()
