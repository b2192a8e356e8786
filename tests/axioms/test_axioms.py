"""What must hold for any model and any data: completeness, dummy, symmetry, linearity, implementation, batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import interp_plugins.attr as attr

few = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
seeds = st.integers(0, 10_000)
sizes = st.integers(1, 5)

Method = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]

METHODS: dict[str, Method] = {
    "integrated_gradients": lambda f, x, b: attr.IntegratedGradients(f).attribute(x, b, n_steps=60),
    "integrated_gradients tol": lambda f, x, b: attr.IntegratedGradients(f).attribute(x, b, tol=0.002),
    "gradient_shap": lambda f, x, b: attr.GradientShap(f).attribute(x, b[:1], 8, seed=0),
    "saliency": lambda f, x, b: attr.Saliency(f).attribute(x, abs=False),
    "input_x_gradient": lambda f, x, b: attr.InputXGradient(f).attribute(x),
    "feature_ablation": lambda f, x, b: attr.FeatureAblation(f).attribute(x, b),
    "occlusion": lambda f, x, b: attr.Occlusion(f).attribute(x, (1,), baselines=b),
    "shapley_values": lambda f, x, b: attr.ShapleyValues(f).attribute(x, b),
    "kernel_shap": lambda f, x, b: attr.KernelShap(f).attribute(x, b, n_samples=64),
    "noise_tunnel": lambda f, x, b: attr.NoiseTunnel(attr.IntegratedGradients(f)).attribute(
        x, nt_samples=3, stdevs=0.1, seed=0, baselines=b, n_steps=20
    ),
}
LINEAR_IN_THE_MODEL = [name for name in METHODS if name != "integrated_gradients tol"]  # its nodes depend on the model


def net(seed: int, d: int, smooth: bool = True) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(d, 6), nn.Tanh() if smooth else nn.ReLU(), nn.Linear(6, 1), nn.Flatten(0)
        ).double()


def data(seed: int, n: int, d: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64), torch.randn(n, d, generator=g, dtype=torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> bool:
    return a.shape == b.shape and float((a - b).detach().abs().max()) <= tolerance


@few
@given(seeds, sizes, sizes)
def test_completeness(seed: int, n: int, d: int) -> None:
    """The map sums to F(x) - F(baseline), and the delta says by how much it does not."""
    f, (x, b) = net(seed, d), data(seed, n, d)
    change = (f(x) - f(b)).detach()
    for method, tolerance in (("gausslegendre", 1e-6), ("riemann_middle", 2e-2), ("riemann_trapezoid", 2e-2)):
        maps, delta = attr.IntegratedGradients(f).attribute(
            x, b, n_steps=60, method=method, return_convergence_delta=True
        )
        assert close(maps.sum(1), change, tolerance)
        assert close(delta, maps.sum(1) - change)


@few
@given(seeds, sizes, sizes)
def test_completeness_at_a_layer(seed: int, n: int, d: int) -> None:
    f, (x, b) = net(seed, d), data(seed, n, d)
    change = (f(x) - f(b)).detach()
    for cls, tolerance in ((attr.LayerIntegratedGradients, 1e-6), (attr.LayerConductance, 1e-2)):
        maps, delta = cls(f, "1").attribute(x, b, n_steps=80, return_convergence_delta=True)
        assert close(maps.sum(1), change, tolerance)
        assert close(delta, maps.sum(1) - change)


@few
@given(seeds, st.integers(1, 3))
def test_conductances_of_a_layers_neurons_sum_to_integrated_gradients(seed: int, d: int) -> None:
    f, (x, b) = net(seed, d), data(seed, 2, d)
    parts = sum(attr.NeuronConductance(f, "1").attribute(x, j, b, n_steps=10) for j in range(6))
    whole = attr.IntegratedGradients(f).attribute(x, b, n_steps=10, method="riemann_trapezoid")
    assert close(parts, whole)


@pytest.mark.parametrize("name", METHODS)
@few
@given(seeds, sizes, sizes)
def test_dummy(name: str, seed: int, n: int, d: int) -> None:
    """A feature that the model does not use gets nothing."""
    f, (x, b) = net(seed, d), data(seed, n, d + 1)
    maps = METHODS[name](lambda z: f(z[:, :-1]), x, b)
    assert maps[:, -1].abs().max() <= 1e-12 and maps[:, :-1].any()


@pytest.mark.parametrize("name", METHODS)
@few
@given(seeds, sizes, sizes)
def test_symmetry(name: str, seed: int, n: int, d: int) -> None:
    """Two features that the model treats alike, with equal values and baselines, get the same."""
    f, (x, b) = net(seed, d), data(seed, n, d)
    twice = [torch.cat([t, t[:, :1]], 1) for t in (x, b)]

    def symmetric(z: Tensor) -> Tensor:
        return f(torch.cat([z[:, :1] * z[:, -1:], z[:, 1:-1]], 1))

    maps = METHODS[name](symmetric, *twice)
    if name != "noise_tunnel":  # the noise of the two features differs
        assert close(maps[:, 0], maps[:, -1])


@pytest.mark.parametrize("name", LINEAR_IN_THE_MODEL)
@few
@given(seeds, sizes, sizes, st.floats(-3, 3), st.floats(-3, 3))
def test_linearity(name: str, seed: int, n: int, d: int, u: float, v: float) -> None:
    f, g, (x, b) = net(seed, d), net(seed + 1, d, smooth=False), data(seed, n, d)
    together = METHODS[name](lambda z: u * f(z) + v * g(z), x, b)
    assert close(together, u * METHODS[name](f, x, b) + v * METHODS[name](g, x, b))


@pytest.mark.parametrize("name", METHODS)
@few
@given(seeds, sizes, sizes)
def test_implementation_invariance(name: str, seed: int, n: int, d: int) -> None:
    """Two programs for one function get one map."""
    f, (x, b) = net(seed, d), data(seed, n, d)
    first, _, last, _ = f

    def other(z: Tensor) -> Tensor:
        hidden = sum(z[:, j : j + 1] * first.weight[:, j] for j in range(d)) + first.bias
        e = torch.exp(-2 * hidden)
        return ((1 - e) / (1 + e) @ last.weight.T + last.bias)[:, 0]

    assert close(METHODS[name](f, x, b), METHODS[name](other, x, b), 1e-9)


@pytest.mark.parametrize("name", METHODS)
@few
@given(seeds, st.integers(2, 5), sizes)
def test_batch_invariance(name: str, seed: int, n: int, d: int) -> None:
    """A sample's map does not depend on its batch mates."""
    if name in ("gradient_shap", "noise_tunnel"):
        pytest.skip("draws are numbered through the batch")
    f, (x, b) = net(seed, d), data(seed, n, d)
    together = METHODS[name](f, x, b)
    order = torch.arange(n - 1, -1, -1)
    assert close(METHODS[name](f, x[order], b[order]), together[order])
    assert close(METHODS[name](f, x[:1], b[:1]), together[:1])


@few
@given(seeds, sizes, sizes)
def test_scaling_and_shifting_the_score(seed: int, n: int, d: int) -> None:
    """A constant added to the score changes nothing; a factor multiplies the map."""
    f, (x, b) = net(seed, d), data(seed, n, d)
    for method in METHODS.values():
        plain = method(f, x, b)
        assert close(method(lambda z: f(z) + 7, x, b), plain)
        assert close(method(lambda z: 2 * f(z), x, b), 2 * plain)
