"""Relevance propagation: closed forms of the rules, conservation, choice of rules, composites, transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.attr import LRP, LayerLRP
from interp_plugins.attr.backward.rules import (
    AlphaBeta,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    Pass,
    RelevanceRule,
    WSquare,
    ZBox,
    ZPlus,
    attn_lrp,
    epsilon,
)
from interp_plugins.core.errors import InputError, InputTypeError, UnknownNameError
from interp_plugins.core.report import collect

G = torch.Generator().manual_seed(0)
X = torch.randn(3, 5, generator=G, dtype=torch.float64)


def linear(bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Linear(5, 1, bias=bias).double().requires_grad_(False)


def slow(rule: RelevanceRule, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The rule for one output of one sample, input by input."""
    z = float((x * w).sum() + b)
    plus, minus = (lambda v: max(float(v), 0.0)), (lambda v: min(float(v), 0.0))
    pairs = list(zip(x, w, strict=True))
    if isinstance(rule, Epsilon):
        shares = [v * u / (z + (rule.epsilon if z >= 0 else -rule.epsilon)) for v, u in pairs]
    elif isinstance(rule, AlphaBeta):
        up, down = [plus(v * u) for v, u in pairs], [minus(v * u) for v, u in pairs]
        shares = [
            rule.alpha * p / (sum(up) + plus(b)) - (rule.beta * m / (sum(down) + minus(b) or -1) if rule.beta else 0)
            for p, m in zip(up, down, strict=True)
        ]
    elif isinstance(rule, Gamma):
        own = plus if z > 0 else minus
        terms = [float(v * u) + rule.gamma * own(v * u) for v, u in pairs]
        shares = [t / (sum(terms) + float(b) + rule.gamma * own(b)) for t in terms]
    elif isinstance(rule, WSquare):
        shares = [u * u / ((w * w).sum() + b * b) for u in w]
    elif isinstance(rule, Flat):
        shares = [1 / len(w) for _ in w]
    else:
        assert isinstance(rule, ZBox)
        terms = [float(v * u) + 2 * plus(u) - 3 * minus(u) for v, u in pairs]
        shares = [t / sum(terms) for t in terms]
    return z * torch.tensor([float(s) for s in shares], dtype=torch.float64)


@pytest.mark.parametrize(
    "rule",
    [
        Epsilon(0.2), ZPlus(stabilizer=0), AlphaBeta(2, 1, stabilizer=1e-12), Gamma(0.3, stabilizer=0),
        WSquare(stabilizer=0), Flat(stabilizer=0), ZBox(-2.0, 3.0, stabilizer=0),
    ],
    ids=lambda rule: type(rule).__name__,
)  # fmt: skip
def test_rule_is_its_formula(rule: RelevanceRule) -> None:
    layer = linear()
    found = LRP(layer, composite=rule).attribute(X)
    expected = torch.stack([slow(rule, x, layer.weight[0], layer.bias[0]) for x in X])
    assert torch.allclose(found, expected, rtol=1e-10)


class Net(nn.Module):
    """A residual block with batch norm, a squeeze-and-excitation gate, a norm, an in-place rectifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.gate, self.norm, self.head = nn.Linear(4, 4), nn.GroupNorm(2, 4), nn.Linear(4, 3)
        self.bn.running_mean.normal_()
        self.bn.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(self.stem(x)), inplace=True)
        y = y + self.norm(y)
        y = y * self.gate(y.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Net().double().eval().requires_grad_(False)


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("merge", [False, True])
def test_relevance_is_kept_but_for_biases_and_stabilizers(net: Net, pictures: Tensor, merge: bool) -> None:
    one = pictures[:1]
    composite = epsilon().with_rules(merge_batch_norm=merge)
    with collect() as report:
        _, missing = LRP(net, composite=composite, account=True).attribute(one, target=1, return_convergence_delta=True)
    score = float(net(one)[0, 1])
    counted = score * (report["relevance_to_biases"] + report["relevance_to_stabilizers"])
    assert float(missing) == pytest.approx(counted, rel=1e-9)
    for module in (net.stem, net.bn, net.norm, net.head):
        module.bias.zero_()
    net.bn.running_mean.zero_()
    _, missing = LRP(net, composite=composite).attribute(one, target=1, return_convergence_delta=True)
    assert abs(float(missing)) <= 1e-6 * abs(float(net(one)[0, 1]))


def test_merged_batch_norm_gives_the_relevance_of_the_merged_network(net: Net, pictures: Tensor) -> None:
    found = LRP(net, composite="epsilon_plus_flat").attribute(pictures, target=0)
    net.stem = torch.nn.utils.fuse_conv_bn_eval(net.stem, net.bn)
    net.bn = nn.Identity()
    assert torch.allclose(LRP(net, composite="epsilon_plus_flat").attribute(pictures, target=0), found, atol=1e-12)


def test_rules_are_chosen_by_function_type_name_and_module(net: Net, pictures: Tensor, capsys: Any) -> None:
    def said(composite: Composite) -> str:
        LRP(net, composite=composite).attribute(pictures, target=0, verbose=True)
        return capsys.readouterr().out

    base = epsilon()
    assert "Applied Epsilon(epsilon=1e-09) on conv2d in stem (Conv2d)" in said(base)
    assert "Applied Pass() on relu in the model (Net)" in said(base)
    assert "Applied ZPlus" in said(base.with_rules(functions={"conv2d": ZPlus()})).splitlines()[0]
    assert "Applied ZPlus" in said(base.with_rules(kinds={"convolution": ZPlus()})).splitlines()[0]
    assert "Applied ZPlus" in said(base.with_rules(types={nn.Conv2d: ZPlus()})).splitlines()[0]
    assert "Applied ZPlus" in said(base.with_rules(names={"st*": ZPlus()})).splitlines()[0]
    assert "Applied Flat" in said(base.with_rules(first=Flat())).splitlines()[0]
    net.stem.rule = WSquare()
    assert "Applied WSquare" in said(base.with_rules(first=Flat(), names={"stem": ZPlus()})).splitlines()[0]
    assert isinstance(net.stem.rule, WSquare)
    assert not net.stem._forward_hooks and not net.stem._forward_pre_hooks


def test_gates_are_constant_unless_asked(net: Net) -> None:
    def model(x: Tensor) -> Tensor:
        return (x[:, :2] * x[:, 2:4].sigmoid().view(-1, 2)).sum(1)

    kept = LRP(model).attribute(X)
    assert torch.allclose(kept[:, :2].sum(1), model(X)) and not kept[:, 2:].any()
    halves = LRP(model, composite=epsilon().with_rules(constant_gates=False)).attribute(X)
    assert torch.allclose(halves[:, :2], kept[:, :2] / 2) and torch.allclose(halves.sum(1), model(X))


def test_attn_lrp_is_its_equations() -> None:
    def softmax(x: Tensor) -> Tensor:
        return (x.softmax(1) * torch.arange(5.0, dtype=x.dtype)).sum(1)

    s, r = X.softmax(1), X.softmax(1) * torch.arange(5.0, dtype=torch.float64)
    expected = X * (r - s * r.sum(1, keepdim=True))  # proposition 3.1
    assert torch.allclose(LRP(softmax, composite=attn_lrp(1e-12)).attribute(X), expected, atol=1e-9)
    a, b = (torch.randn(1, 3, 4, generator=G, dtype=torch.float64) for _ in range(2))

    def product(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.mT).sum((1, 2))

    found = LRP(product, composite=attn_lrp(1e-12)).attribute((a, b))
    assert torch.allclose(found[0], a * b.sum(1, keepdim=True) / 2) and torch.allclose(
        found[1], b * a.sum(1, keepdim=True) / 2
    )
    rms = LRP(lambda x: F.rms_norm(x, (5,)).sum(1), composite=attn_lrp(1e-12)).attribute(X)
    assert torch.allclose(rms, F.rms_norm(X, (5,)))  # the identity rule


@pytest.mark.parametrize("composite", ["epsilon", "attn_lrp"])
def test_transformer_and_recurrent_network_run(composite: str) -> None:
    x = torch.randn(2, 4, 6, generator=G)
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, activation="gelu").eval()
    lstm = nn.LSTM(6, 4, batch_first=True)
    for model in (lambda t: layer(t)[:, 0], lambda t: lstm(t)[0][:, -1]):
        maps = LRP(model, composite=composite).attribute(x, target=1)
        assert maps.shape == x.shape and torch.isfinite(maps).all() and maps.any()


def test_lstm_keeps_relevance_without_biases() -> None:
    lstm = nn.LSTM(6, 4, 2, bias=False, bidirectional=True, batch_first=True).double()
    x = torch.randn(2, 3, 6, generator=G, dtype=torch.float64)
    _, missing = LRP(lambda t: lstm(t)[0][:, -1]).attribute(x, target=1, return_convergence_delta=True)
    assert float(missing.abs().max()) <= 1e-6


def test_relevance_of_several_layers(net: Net, pictures: Tensor) -> None:
    found, deltas = LayerLRP(net, ["stem", "bn"]).attribute(pictures, target=0, return_convergence_delta=True)
    assert [t.shape for t in found] == [(2, 4, 6, 6)] * 2 and len(deltas) == 2


def test_explain_takes_a_composite(net: Net, pictures: Tensor) -> None:
    found = explain(net, pictures, "lrp", target=0, composite="EpsilonPlus", progress=False)[0]
    assert torch.allclose(found.attributions, LRP(net, composite="epsilon_plus").attribute(pictures, target=0))


def test_wrong_choices_are_refused_with_a_text_that_helps(net: Net) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown composite 'epsilon_pluss'\. Did you mean 'epsilon_plus'"):
        LRP(net, composite="epsilon_pluss")
    with pytest.raises(InputTypeError, match="composite must be a name"):
        LRP(net, composite=3)
    with pytest.raises(UnknownNameError, match="Unknown kind of function 'convolutions'"):
        Composite(kinds={"convolutions": Pass()})
    with pytest.raises(InputTypeError, match="The rule for 'relu' must be a rule such as"):
        Composite(functions={"relu": "pass"})
    with pytest.raises(InputError, match="alpha - beta must be 1"):
        AlphaBeta(2, 2)
    net.stem.rule = "gamma"
    with pytest.raises(InputTypeError, match="Please select propagation rules inherited from class PropagationRule"):
        LRP(net)
