"""Every axiom that a method's card claims, for the method that claims it: a claim without a passing test cannot stand.

A layer variant explains an identity in front of the model, a neuron variant the model's output as a neuron, so that all
three have the same maps to be judged.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interp_plugins.api.binding import list_methods, method_info
from interp_plugins.attr.evidence.cards import card
from tests.axioms.test_axioms import close, net

C, D, L, S = "completeness", "dummy", "linearity", "symmetry"
I = "implementation invariance"  # noqa: E741 - the letters stand for the axioms below

few = settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
seeds = st.integers(0, 10_000)
Function = Callable[[Tensor], Tensor]

CLAIMS = [(name, axiom) for name in list_methods() for axiom in card(name).axioms]
# Of methods whose sum is a limit of many samples or steps, how near it must be, of the change of the score.
LIMITS = {"gradient_shap": 0.15, "guided_ig": 0.05, "idgi": 0.05, "layer_conductance": 0.02,
          "layer_gradient_shap": 0.15, "neuron_gradient_shap": 0.15}  # fmt: skip
SAMPLES = {"gradient_shap": 3000, "layer_gradient_shap": 3000, "neuron_gradient_shap": 3000, "kernel_shap": 80,
           "sobol": 8, "hsic": 30}  # fmt: skip
WHERE = {"image": (1, 4, 4)}


def claimants(axiom: str) -> list[str]:
    return [name for name, claimed in CLAIMS if claimed == axiom]


class Framed(nn.Module):
    """A function between two identities, which layer and neuron variants explain."""

    def __init__(self, f: Function) -> None:
        super().__init__()
        self.first, self.last, self.f = nn.Identity(), nn.Identity(), f

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.f(self.first(x))[:, None])


def maps(name: str, f: Function, x: Tensor, b: Tensor) -> Tensor:
    """The method's maps over x for the score f(x), baseline b."""
    info = method_info(name)
    model = Framed(f)
    takes = inspect.signature(info.cls.attribute).parameters
    method = info.cls(model, {"layer": model.first, "neuron": model.last}[info.site]) if info.site != "input" else (
        info.cls(model))  # fmt: skip
    distribution = info.baselines == "distribution"
    known: dict[str, Any] = {
        "baselines": b[:2] if distribution else b, "layer_baselines": b, "target": 0, "neuron_selector": (0,),
        "n_steps": 200, "n_samples": SAMPLES.get(name, 20), "sliding_window_shapes": (1,) * (x.ndim - 1), "seed": 0,
        "progress": False, "max_evals": None, "abs": False,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Tensor = method.attribute(x, **{k: v for k, v in known.items() if k in takes})
    return found


def data(name: str, seed: int, d: int, n: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shape = WHERE.get(method_info(name).applies_to, (d,))
    x, b = (torch.randn(n, *shape, generator=g, dtype=torch.float64) for _ in range(2))
    return x, b


def function(name: str, seed: int, d: int, smooth: bool = True) -> Function:
    if method_info(name).applies_to == "image":
        return nn.Sequential(nn.Flatten(), net(seed, 16, smooth))
    return net(seed, d, smooth)


@pytest.mark.parametrize("name", claimants(C))
@few
@given(seeds, st.integers(1, 4))
def test_completeness(name: str, seed: int, d: int) -> None:
    """The map sums to F(x) - F(baseline): for a distribution, to F(x) less the mean of F over it."""
    f, (x, b) = function(name, seed, d), data(name, seed, d)
    distribution = method_info(name).baselines == "distribution"
    change = (f(x) - (f(b[:2]).mean() if distribution else f(b))).detach()
    off = (maps(name, f, x, b).flatten(1).sum(1) - change).abs()
    assert float(off.max()) <= LIMITS.get(name, 1e-6) * max(1.0, float(change.abs().max()))


@pytest.mark.parametrize("name", claimants(D))
@few
@given(seeds, st.integers(1, 4))
def test_dummy(name: str, seed: int, d: int) -> None:
    """A feature that the model does not use gets nothing."""
    f, (x, b) = function(name, seed, d), data(name, seed, d + 1)
    found = maps(name, lambda z: f(z[:, :-1]), x, b)
    assert float(found[:, -1].abs().max()) <= 1e-9 and bool(found[:, :-1].any())


@pytest.mark.parametrize("name", claimants(S))
@few
@given(seeds, st.integers(1, 3))
def test_symmetry(name: str, seed: int, d: int) -> None:
    """Two features that the model treats alike, with equal values and baselines, get the same."""
    f, (x, b) = function(name, seed, d), data(name, seed, d)
    twice = [torch.cat([t, t[:, :1]], 1) for t in (x, b)]

    def symmetric(z: Tensor) -> Tensor:
        return f(torch.cat([z[:, :1] * z[:, -1:], z[:, 1:-1]], 1))

    found = maps(name, symmetric, *twice)
    assert close(found[:, 0], found[:, -1], 1e-9)


@pytest.mark.parametrize("name", claimants(L))
@few
@given(seeds, st.integers(1, 4), st.floats(-3, 3), st.floats(-3, 3))
def test_linearity(name: str, seed: int, d: int, u: float, v: float) -> None:
    """The map of u f + v g is u times that of f plus v times that of g."""
    f, g, (x, b) = function(name, seed, d), function(name, seed + 1, d, smooth=False), data(name, seed, d)
    together = maps(name, lambda z: u * f(z) + v * g(z), x, b)
    assert close(together, u * maps(name, f, x, b) + v * maps(name, g, x, b), 1e-8)


@pytest.mark.parametrize("name", claimants(I))
@few
@given(seeds, st.integers(1, 4))
def test_implementation_invariance(name: str, seed: int, d: int) -> None:
    """Two programs for one function get one map."""
    f, (x, b) = function(name, seed, d), data(name, seed, d)
    first, _, last, _ = f[1] if len(f) == 2 else f

    def other(z: Tensor) -> Tensor:
        z = z.flatten(1)
        hidden = sum(z[:, j : j + 1] * first.weight[:, j] for j in range(z.shape[1])) + first.bias
        e = torch.exp(-2 * hidden)
        return ((1 - e) / (1 + e) @ last.weight.T + last.bias)[:, 0]

    assert close(maps(name, f, x, b), maps(name, other, x, b), 1e-8)


@pytest.mark.parametrize("name", ["lrp", "layer_lrp"])
@few
@given(seeds, st.integers(1, 4))
def test_relevance_is_conserved_without_biases(name: str, seed: int, d: int) -> None:
    """LRP claims no completeness, since biases take relevance; without them the map sums to F(x)."""
    f, (x, b) = net(seed, d, smooth=False), data(name, seed, d)
    for layer in (f[0], f[2]):
        layer.bias.data.zero_()
    assert close(maps(name, f, x, b).sum(1), f(x).detach(), 1e-6)


def test_every_claim_is_of_an_axiom_that_is_tested() -> None:
    assert {axiom for _, axiom in CLAIMS} == {C, D, I, L, S} and len(CLAIMS) > 90
