"""Each method against its formula: slow loops in plain torch, one sample and one step at a time; closed forms."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import interp_plugins.attr as attr
from interp_plugins.core.layers import Layer
from tests.conformance.cases import Cnn, Mlp

EXACT = 1e-12


@pytest.fixture
def net() -> Mlp:
    torch.manual_seed(0)
    return Mlp(nn.ReLU()).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def base() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float = EXACT) -> bool:
    return a.shape == b.shape and float((a - b).detach().abs().max()) <= tolerance


def gradient(f: Any, at: Tensor) -> Tensor:
    leaf = at.detach().clone().requires_grad_()
    return torch.autograd.grad(f(leaf), leaf)[0]


# -- slow loops ------------------------------------------------------------------------------------------------


def slow_integrated_gradients(net: nn.Module, x: Tensor, base: Tensor, target: int, nodes: Any, weights: Any) -> Tensor:
    out = torch.zeros_like(x)
    for i in range(len(x)):
        for a, w in zip(nodes, weights):
            point = base[i] + a * (x[i] - base[i])
            out[i] += w * (x[i] - base[i]) * gradient(lambda z: net(z[None])[0, target], point)
    return out


RULES: dict[str, Any] = {
    "gausslegendre": lambda n: tuple(v / 2 for v in (np.polynomial.legendre.leggauss(n)[0] + 1,
                                                     np.polynomial.legendre.leggauss(n)[1])),
    "riemann_left": lambda n: (np.arange(n) / n, np.full(n, 1 / n)),
    "riemann_right": lambda n: ((np.arange(n) + 1) / n, np.full(n, 1 / n)),
    "riemann_middle": lambda n: ((np.arange(n) + 0.5) / n, np.full(n, 1 / n)),
    "riemann_trapezoid": lambda n: (np.arange(n) / (n - 1), np.array([0.5, *[1] * (n - 2), 0.5]) / (n - 1)),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients(net: Mlp, x: Tensor, base: Tensor, rule: str) -> None:
    slow = slow_integrated_gradients(net, x, base, 2, *RULES[rule](6))
    assert close(attr.IntegratedGradients(net).attribute(x, base, 2, n_steps=6, method=rule), slow)
    assert sum(RULES[rule](6)[1]) == pytest.approx(1)


def test_saliency_and_input_x_gradient(net: Mlp, x: Tensor) -> None:
    slow = torch.stack([gradient(lambda z: net(z[None])[0, 1], row) for row in x])
    assert close(attr.Saliency(net).attribute(x, target=1, abs=False), slow)
    assert close(attr.Saliency(net).attribute(x, target=1), slow.abs())
    assert close(attr.InputXGradient(net).attribute(x, target=1), slow * x)


def test_feature_ablation(net: Mlp, x: Tensor, base: Tensor) -> None:
    slow, masked = torch.zeros_like(x), torch.zeros_like(x)
    groups = [[0, 2], [1], [3]]
    for i, j in itertools.product(range(3), range(4)):
        ablated = x[i].clone()
        ablated[j] = base[i, j]
        slow[i, j] = (net(x[i : i + 1]) - net(ablated[None]))[0, 1]
    for i, group in itertools.product(range(3), groups):
        ablated = x[i].clone()
        ablated[group] = base[i, group]
        masked[i, group] = (net(x[i : i + 1]) - net(ablated[None]))[0, 1]
    assert close(attr.FeatureAblation(net).attribute(x, base, 1), slow)
    mask = torch.tensor([[5, 7, 5, 9]])
    assert close(attr.FeatureAblation(net).attribute(x, base, 1, feature_mask=mask), masked)


@pytest.mark.parametrize("border", ["shift", "clip"])
def test_occlusion(border: str) -> None:
    torch.manual_seed(0)
    net, x = Cnn(nn.Tanh()).double(), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    total, count = torch.zeros_like(x), torch.zeros_like(x)
    starts = [0, 1] if border == "shift" else [0, 2]
    for c, top, left in itertools.product((0, 1), starts, starts):
        occluded = x.clone()
        occluded[:, c, top : top + 3, left : left + 3] = 0.5
        change = (net(x) - net(occluded))[:, 1]
        total[:, c, top : top + 3, left : left + 3] += change[:, None, None].detach()
        count[:, c, top : top + 3, left : left + 3] += 1
    result = attr.Occlusion(net).attribute(x, (1, 3, 3), (1, 2, 2), 0.5, 1, border=border)
    assert close(result, total / count)


def test_gradient_shap_draw_by_draw(net: Mlp, x: Tensor, base: Tensor) -> None:
    g = torch.Generator().manual_seed(9)
    slow = torch.zeros_like(x)
    for _ in range(4):
        noisy = x + 0.2 * torch.randn(x.shape, generator=g, dtype=x.dtype)
        start = base[torch.randint(3, (3,), generator=g)]
        a = torch.rand(3, generator=g, dtype=x.dtype)
        for i in range(3):
            point = start[i] + a[i] * (noisy[i] - start[i])
            slow[i] += (noisy[i] - start[i]) * gradient(lambda z: net(z[None])[0, 1], point) / 4
    assert close(attr.GradientShap(net).attribute(x, base, 4, 0.2, 1, seed=9), slow)


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel_copy_by_copy(net: Mlp, x: Tensor, nt_type: str) -> None:
    g = torch.Generator().manual_seed(9)
    maps = []
    for _ in range(6):
        noisy = x + 0.3 * torch.randn(x.shape, generator=g, dtype=x.dtype)
        maps.append(torch.stack([gradient(lambda z: net(z[None])[0, 1], row) for row in noisy]))
    stack = torch.stack(maps)
    slow = {"smoothgrad": stack.mean(0), "smoothgrad_sq": (stack**2).mean(0), "vargrad": stack.var(0, unbiased=False)}
    tunnel = attr.NoiseTunnel(attr.Saliency(net))
    assert close(tunnel.attribute(x, nt_type, 6, stdevs=0.3, target=1, abs=False, seed=9), slow[nt_type])


def test_layer_gradient_x_activation_and_grad_cam() -> None:
    torch.manual_seed(0)
    net, x = Cnn(nn.Tanh()).double(), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    act = net.act(net.conv(x)).detach()
    grad = gradient(lambda z: net.fc(net.pool(z).flatten(1))[:, 2].sum(), act)
    assert close(attr.LayerGradientXActivation(net, "act").attribute(x, 2), grad * act)
    slow = torch.zeros(3, 1, 4, 4, dtype=torch.float64)
    for k in range(3):
        slow[:, 0] += grad[:, k].mean((1, 2))[:, None, None] * act[:, k]
    assert close(attr.LayerGradCam(net, "act").attribute(x, 2), slow)
    assert close(attr.LayerGradCam(net, "act").attribute(x, 2, relu_attributions=True), slow.relu())


def test_layer_integrated_gradients_moves_the_activation(net: Mlp, x: Tensor, base: Tensor) -> None:
    slow = slow_integrated_gradients(net.fc2, net.act(net.fc1(x)).detach(), net.act(net.fc1(base)).detach(), 1,
                                     *RULES["riemann_middle"](5))  # fmt: skip
    result = attr.LayerIntegratedGradients(net, "act").attribute(x, base, 1, n_steps=5, method="riemann_middle")
    assert close(result, slow)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "gausslegendre"])
def test_conductance_cell_by_cell(net: Mlp, x: Tensor, base: Tensor, rule: str) -> None:
    """Gradient at the rule's node times the change of the layer over the node's cell; the cells cover [0, 1]."""
    n = 5
    nodes, weights = RULES[rule](n)
    edges = np.concatenate([[0.0], np.cumsum(weights)])
    if rule == "riemann_trapezoid":
        edges = np.arange(n + 1) / n

    def at(a: float) -> Tensor:
        return net.act(net.fc1(base + a * (x - base))).detach()

    slow = torch.zeros(3, 5, dtype=torch.float64)
    for k in range(n):
        ends = (edges[k], edges[k + 1]) if rule == "riemann_trapezoid" else (nodes[k],)
        grad = sum(gradient(lambda z: net.fc2(z)[:, 1].sum(), at(a)) for a in ends) / len(ends)
        slow += grad * (at(edges[k + 1]) - at(edges[k]))
    assert close(attr.LayerConductance(net, "act").attribute(x, base, 1, n_steps=n, method=rule), slow)


def test_internal_influence_is_the_mean_gradient(net: Mlp, x: Tensor, base: Tensor) -> None:
    slow = torch.zeros(3, 5, dtype=torch.float64)
    for a in RULES["riemann_middle"](7)[0]:
        act = net.fc1(base + a * (x - base)).detach()
        slow += gradient(lambda z: net.fc2(net.act(z))[:, 0].sum(), act) / 7
    assert close(attr.InternalInfluence(net, "fc1").attribute(x, base, 0, n_steps=7, method="riemann_middle"), slow)


@pytest.mark.parametrize("selector", [2, (2,), (slice(1, 4),), lambda t: t[:, 1] + t[:, 3]])
def test_neuron_methods_explain_the_neuron(net: Mlp, x: Tensor, base: Tensor, selector: Any) -> None:
    def neuron(z: Tensor) -> Tensor:
        act = net.fc1(z)
        chosen = selector(act) if callable(selector) else act[(slice(None), *np.atleast_1d(np.array(selector, object)))]
        return chosen.reshape(len(z), -1).sum(1)

    slow = torch.stack([gradient(lambda z: neuron(z[None])[0], row) for row in x])
    assert close(attr.NeuronGradient(net, "fc1").attribute(x, selector), slow)
    assert close(attr.NeuronIntegratedGradients(net, "fc1").attribute(x, selector, base, n_steps=4), (x - base) * slow)
    ablated = torch.zeros_like(x)
    for j in range(4):
        other = x.clone()
        other[:, j] = base[:, j]
        ablated[:, j] = (neuron(x) - neuron(other)).detach()
    if not isinstance(selector, tuple) or not isinstance(selector[0], slice):
        assert close(attr.NeuronFeatureAblation(net, "fc1").attribute(x, selector, base), ablated)


def test_neuron_conductance_is_the_chain_through_the_neuron(net: Mlp, x: Tensor, base: Tensor) -> None:
    slow = torch.zeros_like(x)
    for a in RULES["riemann_middle"](6)[0]:
        point = base + a * (x - base)
        outer = gradient(lambda z: net.fc2(net.act(z))[:, 1].sum(), net.fc1(point).detach())[:, 3]
        slow += outer[:, None] * net.fc1.weight[3].detach() * (x - base) / 6
    result = attr.NeuronConductance(net, "fc1").attribute(x, 3, base, 1, n_steps=6, method="riemann_middle")
    assert close(result, slow)


# -- closed forms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n_steps", [2, 9])
def test_linear_model(x: Tensor, base: Tensor, rule: str, n_steps: int) -> None:
    model = nn.Linear(4, 3).double()
    exact = (x - base) * model.weight[1]
    result, delta = attr.IntegratedGradients(model).attribute(
        x, base, 1, n_steps=n_steps, method=rule, return_convergence_delta=True
    )
    assert close(result, exact) and delta.abs().max() <= EXACT
    assert close(attr.FeatureAblation(model).attribute(x, base, 1), exact)
    assert close(attr.Occlusion(model).attribute(x, (1,), baselines=base, target=1), exact)
    shap, deltas = attr.GradientShap(model).attribute(x, base[:1], 3, 0.0, 1, return_convergence_delta=True, seed=0)
    assert close(shap, (x - base[:1]) * model.weight[1]) and deltas.shape == (9,) and deltas.abs().max() <= EXACT


@pytest.mark.parametrize("rule", RULES)
def test_conductance_of_a_linear_net_is_complete_at_every_layer(x: Tensor, base: Tensor, rule: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)).double()
    change = (model(x) - model(base))[:, 1].detach()
    for layer in ("0", "1"):
        result = attr.LayerConductance(model, layer).attribute(x, base, 1, n_steps=4, method=rule)
        assert close(result.sum(1), change)
    units = sum(attr.NeuronConductance(model, "1").attribute(x, j, base, 1, n_steps=4, method=rule) for j in range(5))
    assert close(units, attr.IntegratedGradients(model).attribute(x, base, 1, n_steps=4, method=rule))
    assert close(units.sum(1), change)


def test_quadratic_model(x: Tensor, base: Tensor) -> None:
    """F = z'Az / 2: the gradient is linear, so IG = (x - x') * A (x + x') / 2 with a single middle node."""
    a = torch.randn(4, 4, dtype=torch.float64)
    a = a + a.T

    def model(z: Tensor) -> Tensor:
        return ((z @ a) * z).sum(1) / 2

    exact = (x - base) * ((x + base) / 2 @ a)
    for n, rule in ((2, "gausslegendre"), (1, "riemann_middle"), (2, "riemann_trapezoid")):
        assert close(attr.IntegratedGradients(model).attribute(x, base, n_steps=n, method=rule), exact)


def test_product_model(x: Tensor) -> None:
    """F = z1 z2 z3 z4 from zero: every feature gets a quarter of F (the game is symmetric on the path)."""
    result = attr.IntegratedGradients(lambda z: z.prod(1)).attribute(x, n_steps=2)
    assert close(result, x.prod(1, keepdim=True).expand_as(x) / 4)
    assert close(attr.InputXGradient(lambda z: z.prod(1)).attribute(x), x.prod(1, keepdim=True).expand_as(x))


def test_max_model(x: Tensor) -> None:
    """F = max(z1, z2): IG from zero gives everything to the larger one."""
    pair = x[:, :2].abs() + 0.1
    result = attr.IntegratedGradients(lambda z: z.max(1).values).attribute(pair, n_steps=8)
    assert close(result, pair * (pair == pair.max(1, keepdim=True).values))


def test_expected_gradients_of_a_linear_model_are_the_mean_over_the_baselines(x: Tensor, base: Tensor) -> None:
    model = nn.Linear(4, 2).double()
    result = attr.GradientShap(model).attribute(x, base, 4000, target=0, seed=0, progress=False)
    assert close(result, (x - base.mean(0)) * model.weight[0], 0.1)


def test_vargrad_of_a_linear_model_is_zero(x: Tensor) -> None:
    model = nn.Linear(4, 2).double()
    result = attr.NoiseTunnel(attr.Saliency(model)).attribute(x, "vargrad", 8, stdevs=1.0, target=0)
    assert close(result, torch.zeros_like(x))


def test_layer_activation_is_the_activation(net: Mlp, x: Tensor) -> None:
    assert close(attr.LayerActivation(net, "fc1").attribute(x), net.fc1(x))
    assert close(attr.LayerActivation(net, Layer("fc2", io="input")).attribute(x), net.act(net.fc1(x)))
