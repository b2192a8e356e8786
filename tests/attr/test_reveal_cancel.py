"""DeepLIFT's RevealCancel rule: the paper's closed form, a slow re-implementation, completeness, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.attr import DeepLift, DeepLiftShap
from interp_plugins.core.errors import ModelError, UnknownNameError


class Minimum(nn.Module):
    """min(a, b) as the paper's figure 2 has it: b - relu(b - a), each on a network of one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
        self.hidden.weight.data = torch.tensor([[0.0, 1.0], [-1.0, 1.0]])
        self.out.weight.data = torch.tensor([[1.0, -1.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x).relu())[:, 0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("pair", [(2.0, 5.0), (5.0, 2.0), (3.0, 3.0), (0.5, 4.0)])
def test_minimum_is_shared_by_both(pair: tuple[float, float]) -> None:
    """For a, b > 0 from zero both get half the minimum; rescale gives all of it to one of them."""
    model, x = Minimum().double(), torch.tensor([pair], dtype=torch.float64)
    found = DeepLift(model).attribute(x, rule="reveal_cancel")
    expected = torch.full((1, 2), min(pair) / 2, dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    if pair[0] != pair[1]:
        one_sided = DeepLift(model).attribute(x)
        assert sorted(one_sided[0].tolist()) == pytest.approx([0.0, min(pair)])


def derivative(f: Any, at: float) -> float:
    with torch.enable_grad():
        z = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        return float(torch.autograd.grad(f(z), z)[0])


@torch.no_grad()
def slow(layers: list[Any], x: Tensor, base: Tensor, f: Any) -> Tensor:
    """One sample of linear layers with f between them: forward in parts, then multipliers back, unit by unit."""
    values, refs = [x], [base]
    for layer in layers[:-1]:
        values.append(f(layer(values[-1])))
        refs.append(f(layer(refs[-1])))
    m = layers[-1].weight[0].tolist()
    for k in range(len(layers) - 2, -1, -1):
        w, b = layers[k].weight, layers[k].bias
        change = values[k] - refs[k]
        back = [0.0] * len(change)
        for j in range(len(w)):
            parts = [float(w[j, i] * change[i]) for i in range(len(change))]
            up, down = sum(p for p in parts if p > 0), sum(p for p in parts if p < 0)
            z0 = float(w[j] @ refs[k] + b[j])
            at = lambda z: float(f(torch.tensor(z, dtype=torch.float64)))  # noqa: E731
            up_y = ((at(z0 + up) - at(z0)) + (at(z0 + up + down) - at(z0 + down))) / 2
            down_y = ((at(z0 + down) - at(z0)) + (at(z0 + up + down) - at(z0 + up))) / 2
            slope = derivative(f, z0 + up + down)
            positive, negative = up_y / up if up else slope, down_y / down if down else slope
            for i, p in enumerate(parts):
                share = positive if p > 0 else negative if p < 0 else (positive + negative) / 2
                back[i] += m[j] * float(w[j, i]) * share
        m = back
    return torch.tensor(m, dtype=torch.float64) * (x - base)


@pytest.mark.parametrize("f", [torch.relu, torch.tanh, nn.functional.gelu])
def test_it_is_the_papers_rule_unit_by_unit(f: Any) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6).double(), nn.Linear(6, 5).double(), nn.Linear(5, 1).double()]
    x, base = torch.randn(3, 4).double(), torch.randn(3, 4).double()

    def model(z: Tensor) -> Tensor:
        return layers[2](f(layers[1](f(layers[0](z)))))[:, 0]  # type: ignore[no-any-return]

    found, delta = DeepLift(model).attribute(x, base, rule="reveal_cancel", return_convergence_delta=True)
    expected = torch.stack([slow(layers, a, b, f) for a, b in zip(x, base)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert float(delta.abs().max()) < 1e-12


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 3, 3), nn.ELU(),
        nn.Flatten(), nn.Linear(12, 6), nn.Sigmoid(), nn.Dropout(), nn.Linear(6, 3), nn.Softmax(1),
    ).double()  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_convolutional_networks_are_complete(seed: int) -> None:
    torch.manual_seed(seed)
    net, x, base = convolutional(), torch.randn(2, 2, 8, 8).double(), torch.randn(2, 2, 8, 8).double()
    maps, delta = DeepLift(net).attribute(x, base, 1, rule="reveal_cancel", return_convergence_delta=True)
    assert float(delta.abs().max()) < 1e-12
    assert float((maps - DeepLift(net).attribute(x, base, 1)).abs().max()) > 1e-6


class Residual(nn.Module):
    """A linear output read by a nonlinearity, by another one, and as it is; one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        y = z.relu() + z.tanh() + z
        return self.b(self.a(y).relu())  # type: ignore[no-any-return]


def test_outputs_read_by_several_and_several_targets() -> None:
    torch.manual_seed(0)
    net, x, base = Residual().double(), torch.randn(3, 4).double(), torch.randn(3, 4).double()
    _, delta = DeepLift(net).attribute(x, base, 1, rule="reveal_cancel", return_convergence_delta=True)
    assert float(delta.abs().max()) < 1e-12
    together = explain(net, x, "deep_lift", target="all", baselines=base, rule="reveal_cancel")
    for k, exp in enumerate(together):
        alone = DeepLift(net).attribute(x, base, k, rule="reveal_cancel")
        torch.testing.assert_close(exp.attribution, alone)
        torch.testing.assert_close(DeepLift(net).attribute(x[1:2], base[1:2], k, rule="reveal_cancel"), alone[1:2])
    shap = DeepLiftShap(net).attribute(x, base, 1, rule="reveal_cancel")
    single = [DeepLift(net).attribute(x, base[k : k + 1].expand(3, -1), 1, rule="reveal_cancel") for k in range(3)]
    torch.testing.assert_close(shap, torch.stack(single).mean(0))


def test_what_it_cannot_do_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with pytest.raises(ModelError, match=r"'relu' stands behind none.*Fold batch norms.*rule='rescale'"):
        DeepLift(net).attribute(torch.randn(2, 4), target=0, rule="reveal_cancel")
    with pytest.raises(UnknownNameError, match=r"Unknown rule 'reveal'.*reveal_cancel"):
        DeepLift(net).attribute(torch.randn(2, 4), target=0, rule="reveal")
