"""Method cards: one for every method, the page made of them, and the randomisation check measured on a trained net."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.attr import randomised
from interp_plugins.attr.cards import CARDS, card, methods_page
from interp_plugins.attr.randomised import CASCADE, DIGITS, INSTEAD, LIMIT
from interp_plugins.core.errors import RandomisationWarning
from interp_plugins.core.registry import list_methods, method_info

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
FEW = {"n_steps": 10, "n_samples": 60, "sliding_window_shapes": (1, 2, 2), "progress": False}
# Coalitions of single pixels; shuffles of batch mates; no map of a class; too many passes for a test.
OUT = {
    "shapley_values",
    "shapley_value_sampling",
    "owen",
    "feature_permutation",
    "layer_feature_permutation",
    "layer_activation",
    "sobol",
    "extremal_perturbation",
}


@pytest.mark.parametrize("name", list_methods())
def test_every_method_has_a_card(name: str) -> None:
    found = card(name)
    assert found is not None and found.cost, f"{name}: give it a card in interp_plugins/attr/cards.py"


def test_cards_belong_to_methods_and_the_page_is_made_of_them() -> None:
    assert [n for n in (*CARDS, *DIGITS, *CASCADE) if method_info(n).name != n] == []
    assert PAGE.read_text() == methods_page() + "\n", "run: python -m interp_plugins.attr.cards > docs/methods.md"


@cache
def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    return nn.functional.interpolate(x, (12, 12), mode="bilinear"), torch.tensor(data.target)


def fresh(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10),
        ).eval()  # fmt: skip


@cache
def trained() -> nn.Sequential:
    net, (x, y) = fresh(0), digits()
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(150):
        rows = torch.randint(1500, (64,), generator=generator)
        grads = torch.autograd.grad(nn.functional.cross_entropy(net(x[rows]), y[rows]), list(net.parameters()))
        for p, g in zip(net.parameters(), grads):
            p.grad = g
        optimiser.step()
    assert float((net(x[1500:]).argmax(1) == y[1500:]).float().mean()) > 0.85
    return net


def maps(net: nn.Module, name: str) -> Tensor:
    x, y = digits()
    x, y = x[1500:1506], y[1500:1506]
    site = method_info(name).site
    takes = {k: v for k, v in FEW.items() if k in _takes(name)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exp = explain(net, x, name, target=y, layer="6" if site == "layer" else None, seed=0, **takes)[0]
    return exp.attribution.float().sum(1).flatten(1).abs()


def _takes(name: str) -> set[str]:
    import inspect

    return set(inspect.signature(method_info(name).cls.attribute).parameters)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, the mean over samples; 1 for maps that do not vary."""
    ranks = [t.argsort(1).argsort(1).float() for t in (a, b)]
    centred = [r - r.mean(1, keepdim=True) for r in ranks]
    return float((centred[0] * centred[1]).sum(1).div(centred[0].norm(dim=1) * centred[1].norm(dim=1)).mean())


def measured(name: str) -> float:
    """The mean over three random networks."""
    own = maps(trained(), name)
    return sum(rank_correlation(own, maps(fresh(seed), name)) for seed in (1, 2, 3)) / 3


CHECKED = [n for n in list_methods() if n not in OUT and method_info(n).site != "neuron"
           and method_info(n).applies_to != "transformer"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKED)
def test_randomisation_check_is_what_the_card_says(name: str) -> None:
    found = measured(name)
    assert name in DIGITS, f"{name}: write {found:.2f} into DIGITS of interp_plugins/attr/randomised.py"
    assert found == pytest.approx(DIGITS[name], abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["saliency", "guided_backprop", "full_grad"])
def test_cascade_on_a_large_trained_network_is_what_the_card_says(name: str) -> None:
    from interp_plugins.demo.network import lite0
    from tests.benchmarks.bench_randomisation import measure

    found = measure(name, lite0())
    assert found["rank"] == pytest.approx(list(CASCADE[name].rank), abs=0.05)
    assert found["ssim"] == pytest.approx(list(CASCADE[name].ssim), abs=0.05)


def test_verdicts_are_no_matter_of_rounding_and_say_what_to_use_instead() -> None:
    assert all(abs(found.upper_half - LIMIT) > 0.02 for found in CASCADE.values())
    assert {n for n, found in CASCADE.items() if found.fails} == {*INSTEAD, "noise_tunnel"}
    measurable = {n for n in list_methods() if method_info(n).site == "input" and method_info(n).applies_to == "any"}
    assert measurable - set(CASCADE) <= {"shapley_values"}


@pytest.mark.parametrize("name", INSTEAD)
def test_method_that_fails_says_so_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomised, "_told", set())
    cls, model = method_info(name).cls, nn.Conv2d(1, 1, 1)
    with pytest.warns(RandomisationWarning, match=f"{cls.__name__} fails the randomisation check.*Use|use"):
        cls(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cls(model)
        method_info("guided_grad_cam").cls(model, model).attribute(torch.ones(1, 1, 4, 4), target=(0, 0, 0))
