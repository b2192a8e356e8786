"""DeepLIFT's RevealCancel rule: the paper's closed form, a slow re-implementation, linear steps, completeness."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.attr import (
    DeepLift,
    DeepLiftShap,
    LayerDeepLift,
    LayerDeepLiftShap,
    NeuronDeepLift,
    NeuronDeepLiftShap,
)
from interp_plugins.core.errors import ConvergenceWarning, UnknownNameError


class Minimum(nn.Module):
    """min(a, b) as the paper's figure 2 has it: b - relu(b - a), each on a network of one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
        self.hidden.weight.data = torch.tensor([[0.0, 1.0], [-1.0, 1.0]])
        self.out.weight.data = torch.tensor([[1.0, -1.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x).relu())[:, 0]


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


@pytest.mark.parametrize("f", [torch.relu, torch.tanh, F.gelu])
def test_it_is_the_papers_rule_unit_by_unit(f: Any) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6).double(), nn.Linear(6, 5).double(), nn.Linear(5, 1).double()]
    x, base = torch.randn(3, 4).double(), torch.randn(3, 4).double()

    def model(z: Tensor) -> Tensor:
        return layers[2](f(layers[1](f(layers[0](z)))))[:, 0]

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
        return self.b(self.a(y).relu())


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


class Behind(nn.Module):
    """A linear piece that reads what two nonlinearities gave, and a nonlinearity behind it."""

    def __init__(self, piece: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second, self.conv = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.fc, self.matrix = nn.BatchNorm2d(3), nn.Linear(4, 4), nn.Parameter(torch.randn(4, 5))
        self.piece = piece
        self.norm.running_var.data.uniform_(0.3, 2)
        self.norm.running_mean.data.normal_()
        for p in (self.norm.weight, self.norm.bias):
            p.data.normal_()
        self.double().eval().requires_grad_(False)

    def sources(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x).tanh(), self.second(x).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.piece(self, *self.sources(x))).flatten(1).cos().sum(1, keepdim=True)


def written(t: Tensor, by: Tensor) -> Tensor:
    t += by
    t *= -2
    return t


# Every source reaches a value over one path, so that the calls are one linear layer.
PIECES: dict[str, Any] = {
    "norm behind a convolution": lambda m, a, b: m.norm(m.conv(a)),
    "norm of a nonlinearity": lambda m, a, b: m.norm(a),
    "shortcut": lambda m, a, b: m.norm(m.conv(a)) + b,
    "difference": lambda m, a, b: torch.sub(m.conv(a), b, alpha=2),
    "in place": lambda m, a, b: written(m.conv(a), b),
    "written to a nonlinearity": lambda m, a, b: m.conv(b) + written(a, b * 0 + 1),
    "pooling": lambda m, a, b: m.conv(F.avg_pool2d(a, 2)),
    "mean": lambda m, a, b: (a.mean((2, 3)) @ m.conv.weight[:, :, 1, 1].T) - b.sum((2, 3)) / 7,
    "constants": lambda m, a, b: 0.5 - a * torch.tensor([1.0, -2.0, 0.3], dtype=a.dtype)[:, None, None] / -3,
    "joined": lambda m, a, b: m.fc(torch.cat([a, -b.flip(2)], 1).permute(0, 2, 1, 3)),
    "split": lambda m, a, b: m.conv(a).chunk(2, 3)[1] + b[..., :2],
    "padded": lambda m, a, b: F.pad(m.conv(a), (1, 1), value=3.0),
    "chosen": lambda m, a, b: torch.where(torch.arange(4) > 1, m.conv(a), b),
    "enlarged": lambda m, a, b: F.interpolate(m.conv(a), scale_factor=2),
    "products": lambda m, a, b: torch.addmm(m.matrix[0], a.flatten(0, 2), m.matrix).reshape(len(a), -1),
    "transposed": lambda m, a, b: F.conv_transpose2d(a, m.conv.weight, stride=3).neg(),
    "dropout": lambda m, a, b: F.dropout(m.conv(a), 0.5, False),
    "view": lambda m, a, b: m.conv(a).view(-1).view(a.shape) + b,
}


@pytest.mark.parametrize("name", PIECES)
def test_linear_steps_are_one_linear_layer_however_they_are_written(name: str) -> None:
    """Against the same network with the steps' matrix in their place."""
    model = Behind(PIECES[name])
    x, base = torch.randn(2, 2, 2, 4, 4, dtype=torch.float64)
    sources = model.sources(x)
    shapes = [s[:1].shape for s in sources]
    flat = torch.cat([s.flatten(1) for s in sources], 1)

    def piece(s: Tensor) -> Tensor:
        parts = s.split([shape.numel() for shape in shapes], 1)
        a, b = (p.reshape(-1, *shape[1:]).clone() for p, shape in zip(parts, shapes, strict=True))
        return model.piece(model, a, b).flatten(1)

    matrix = torch.autograd.functional.jacobian(piece, flat[:1])[0, :, 0]
    bias = piece(torch.zeros_like(flat[:1]))[0]
    if name == "written to a nonlinearity":
        _complete(model, x, base)  # b is read twice
        return

    def dense(z: Tensor) -> Tensor:
        s = torch.cat([t.flatten(1) for t in model.sources(z)], 1)
        return F.silu(F.linear(s, matrix, bias)).cos().sum(1, keepdim=True)

    torch.testing.assert_close(dense(x), model(x))
    found = DeepLift(model).attribute(x, base, rule="reveal_cancel")
    torch.testing.assert_close(found, DeepLift(dense).attribute(x, base, rule="reveal_cancel"), rtol=1e-9, atol=1e-11)
    _complete(model, x, base)
    if name != "norm of a nonlinearity":  # one contribution per value: rescale
        assert float((found - DeepLift(model).attribute(x, base)).abs().max()) > 1e-6


def _complete(model: Any, x: Tensor, base: Tensor, target: Any = None) -> Tensor:
    maps, delta = DeepLift(model).attribute(x, base, target, rule="reveal_cancel", return_convergence_delta=True)
    assert float(delta.abs().max()) < 1e-10
    return maps


def test_contributions_over_several_paths_stay_apart() -> None:
    """relu(x - 0.5 x) adds two contributions of x, 1 and -0.5 times its change."""
    x = torch.tensor([[2.0], [-3.0]], dtype=torch.float64)
    model = lambda z: (z - 0.5 * z - 0.25).relu()  # noqa: E731
    found = _complete(model, x, torch.zeros_like(x))
    for i, change in enumerate(x[:, 0].tolist()):
        f = lambda z: max(z - 0.25, 0.0)  # noqa: E731
        up, down = sorted((change, -0.5 * change), reverse=True)
        e_up = (f(up) - f(0) + f(up + down) - f(down)) / 2
        e_down = (f(down) - f(0) + f(up + down) - f(up)) / 2
        assert float(found[i]) == pytest.approx(e_up + e_down)


@pytest.mark.parametrize("f", [torch.relu, torch.sin, F.silu])
def test_a_single_contribution_is_rescaled(f: Any) -> None:
    x, base = torch.randn(2, 5, 4, dtype=torch.float64)
    for model in (
        lambda z: f(z).sum(1),
        lambda z: f(2 - z).sum(1),
        lambda z: f(z * z.tanh()).sum(1),
        lambda z: f(f(z)).sum(1),
        lambda z: f(z.amax(1)),
    ):
        torch.testing.assert_close(_complete(model, x, base), DeepLift(model).attribute(x, base))


def test_functions_with_a_domain_and_values_that_overflow_are_rescaled() -> None:
    torch.manual_seed(0)
    fc, x, base = nn.Linear(4, 6), torch.randn(3, 4), torch.randn(3, 4)
    for model in (lambda z: fc(z).square().sum(1).log(), lambda z: (fc(z).abs() + 1).sqrt().sum(1)):
        maps = DeepLift(model).attribute(x.double(), base.double(), rule="reveal_cancel") if fc.double() else None
        assert maps is not None and bool(maps.isfinite().all())
    wide = torch.tensor([[100.0, -100.0, 0.5]])  # exp(100) is no float32

    def overflowing(z: Tensor) -> Tensor:
        return z.sum(1).exp()

    maps, delta = DeepLift(overflowing).attribute(wide, rule="reveal_cancel", return_convergence_delta=True)
    assert bool(maps.isfinite().all()) and float(delta.abs().max()) < 1e-3


def test_batch_norms_need_not_be_folded() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(2, 4, 3).double(), nn.BatchNorm2d(4).double()
    norm.running_mean.normal_()
    norm.weight.data.normal_()
    rest = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 2)).double()
    net = nn.Sequential(conv, norm, *rest).eval()
    folded = nn.Sequential(nn.utils.fuse_conv_bn_eval(conv.eval(), norm.eval()), *rest)
    x, base = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(_complete(net, x, base, 1), _complete(folded, x, base, 1), rtol=1e-9, atol=1e-11)


def networks() -> dict[str, Any]:
    import torchvision

    from tests.conformance.cases import Cnn, TinyVit

    class Lstm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.fc = nn.LSTM(3, 4, batch_first=True, bidirectional=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.lstm(x)[0][:, -1])

    encoder = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, activation="gelu")
    return {
        "resnet": (lambda: torchvision.models.resnet18(num_classes=3), (3, 32, 32)),
        "mobilenet": (lambda: torchvision.models.mobilenet_v3_small(num_classes=3), (3, 32, 32)),
        "convolutional": (lambda: Cnn(nn.ELU(), norm=True), (2, 4, 4)),
        "vit": (TinyVit, (2, 4, 4)),
        "lstm": (Lstm, (5, 3)),
        "encoder": (lambda: nn.Sequential(encoder, nn.Flatten(), nn.Linear(30, 3)), (5, 6)),
    }


@pytest.mark.parametrize("name", networks())
def test_networks_are_complete_and_see_what_cancels(name: str) -> None:
    make, shape = networks()[name]
    torch.manual_seed(0)
    net = make().double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.weight.data.uniform_(-1, 1.5)
    x, base = torch.randn(2, 2, *shape, dtype=torch.float64).unbind()
    maps, delta = DeepLift(net).attribute(x, base, 1, rule="reveal_cancel", return_convergence_delta=True)
    change = (net(x) - net(base))[:, 1].detach()
    assert bool((delta.abs() <= 1e-9 * change.abs().clamp_min(1e-3)).all())
    away = float((maps - DeepLift(net).attribute(x, base, 1)).abs().max())
    if name == "vit":  # attention and norms only: products, and squares, of which both rules are one
        assert away < 1e-12
    else:
        assert away > 1e-3 * float(maps.abs().max())


def test_layers_and_neurons() -> None:
    """From a layer on, its tensors are the sources; up to a neuron, the rest of the model does not matter."""
    net, x, base = convolutional(), *torch.randn(2, 2, 2, 8, 8, dtype=torch.float64)
    how: dict[str, Any] = {"rule": "reveal_cancel"}
    lower, upper = net[:3], net[3:]
    found, delta = LayerDeepLift(net, "2").attribute(x, base, 1, return_convergence_delta=True, **how)
    torch.testing.assert_close(found, DeepLift(upper).attribute(lower(x).detach(), lower(base).detach(), 1, **how))
    assert float(delta.abs().max()) < 1e-12
    assert float((found - LayerDeepLift(net, "2").attribute(x, base, 1)).abs().max()) > 1e-6
    mean = LayerDeepLiftShap(net, "2").attribute(x, base, 1, **how)
    each = [LayerDeepLift(net, "2").attribute(x, b[None].expand_as(x), 1, **how) for b in base]
    torch.testing.assert_close(mean, torch.stack(each).mean(0))

    neuron = NeuronDeepLift(net, "4").attribute(x, (1, 1, 0), base, **how)
    torch.testing.assert_close(neuron, DeepLift(net[:5]).attribute(x, base, (1, 1, 0), **how))
    assert float((neuron - NeuronDeepLift(net, "4").attribute(x, (1, 1, 0), base)).abs().max()) > 1e-6
    torch.testing.assert_close(
        NeuronDeepLiftShap(net, "4").attribute(x, (1, 1, 0), base, **how),
        DeepLiftShap(net[:5]).attribute(x, base, (1, 1, 0), **how),
    )
    for method in (LayerDeepLift(net, "2"), NeuronDeepLift(net, "2")):
        chosen: dict[str, Any] = {"neuron_selector": (0, 0, 0)} if isinstance(method, NeuronDeepLift) else {"target": 0}
        with pytest.raises(UnknownNameError, match=r"Unknown rule 'reveal'.*reveal_cancel"):
            method.attribute(x, rule="reveal", **chosen)
    together = explain(net, x, "deep_lift", layer="2", target="all", baselines=base, **how)
    torch.testing.assert_close(together[1].attribution, found)


def stable(z: Tensor) -> Tensor:
    e = (z - z.amax(1, keepdim=True)).exp()
    return e / e.sum(1, keepdim=True)


def naive(z: Tensor) -> Tensor:
    e = z.exp()
    return e / e.sum(1, keepdim=True)


@pytest.mark.parametrize("sharpness", [1, 20, 60])
@pytest.mark.parametrize("softmax", [stable, lambda z: z.log_softmax(1).exp(), lambda z: z.softmax(1)])
def test_a_saturated_softmax_written_out_is_complete_in_float32(softmax: Any, sharpness: int) -> None:
    torch.manual_seed(0)
    body, x = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(6, 10)
    target = body(x).argmax(1)
    for rule in ("rescale", "reveal_cancel"):
        ask = {"target": target, "rule": rule, "return_convergence_delta": True}
        maps, delta = DeepLift(lambda v: softmax(sharpness * body(v))).attribute(x, **ask)
        assert delta.abs().max() < 2e-4, rule  # exponentials of single contributions left 1e10 of a probability
        twin = copy.deepcopy(body).double()
        exact, none = DeepLift(lambda v, f=twin: softmax(sharpness * f(v))).attribute(x.double(), **ask)
        assert none.abs().max() < 1e-11
        assert (maps - exact).norm() <= 1e-5 * exact.norm()


def test_exponentials_that_are_too_large_by_themselves_are_told() -> None:
    torch.manual_seed(0)
    body, x = nn.Linear(10, 4), torch.randn(6, 10)
    for rule in ("rescale", "reveal_cancel"):
        with pytest.warns(ConvergenceWarning, match="softmax written out as exp and sum"):
            DeepLift(lambda v: naive(40 * body(v))).attribute(x, target=0, rule=rule)
