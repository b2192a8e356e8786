"""The pass that begins a call, where only layers are differentiated at: its graph begins there, and nothing changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

from interp_plugins import explain
from interp_plugins.attr import LayerCAM
from interp_plugins.core.differentiate import UnconnectedError
from interp_plugins.core.layers import Layer
from interp_plugins.engine import opening_pass

METHODS = ["grad_cam", "layer_cam", "eigen_grad_cam", "layer_gradient_x_activation"]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(weights=None).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def same(net: nn.Module, x: Tensor, method: str, layer: Any, **more: Any) -> None:
    mine = explain(net, x, method, layer=layer, target=1, **more)[0].attribution
    plain = explain(net, x, method, layer=layer, target=1, accelerate=False, **more)[0].attribution
    assert torch.allclose(mine, plain, rtol=1e-6, atol=1e-9) and mine.any()


def saved(net: nn.Module, x: Tensor, **more: Any) -> int:
    """Bytes that graphs keep beside the weights."""
    sizes: list[int] = []
    weights = {p.data_ptr() for p in net.parameters()}

    def pack(t: Tensor) -> Tensor:
        sizes.append(0 if t.data_ptr() in weights else t.nbytes)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        explain(net, x, "grad_cam", target=1, **more)
    return sum(sizes)


@pytest.mark.parametrize("layer", ["layer4", "layer3.1", "layer4.0.bn1", "layer4.0.conv2", "layer4.0.downsample"])
@pytest.mark.parametrize("method", METHODS)
def test_maps_are_those_of_a_graph_from_the_input(method: str, layer: str, net: nn.Module, x: Tensor) -> None:
    same(net, x, method, layer)


@pytest.mark.parametrize(
    "layer",
    ["relu", Layer("layer4.1.relu", call=0), Layer("layer4.1.relu", call=-1), ["layer3", "layer4"]],
    ids=["in place", "first call", "last call", "two layers"],
)
def test_layers_in_place_or_called_several_times_and_several_layers(layer: Any, net: nn.Module, x: Tensor) -> None:
    same(net, x, "layer_cam", layer)


def test_a_layers_input(net: nn.Module, x: Tensor) -> None:
    same(net, x, "grad_cam", "layer4", attribute_to_layer_input=True)


def test_the_graph_keeps_what_is_behind_the_layer_alone(net: nn.Module, x: Tensor) -> None:
    begins: list[bool] = []
    handle = net.layer2.register_forward_pre_hook(lambda module, args: begins.append(args[0].requires_grad))
    small = saved(net, x, layer="layer4")
    LayerCAM(net, "layer4").attribute(x, 1)
    assert begins and not any(begins) and all(p.requires_grad for p in net.parameters())
    large = saved(net, x, layer="layer4", accelerate=False)
    handle.remove()
    assert any(begins) and small * 20 < large


def test_of_many_samples_the_layer_is_looked_for_with_one(net: nn.Module, x: Tensor) -> None:
    many = x.repeat(4, 1, 1, 1)
    same(net, many, "grad_cam", None)
    assert saved(net, many) * 2 < saved(net, many, layer="conv1")


class Branches(nn.Module):
    """A layer that gives what it got, of which a branch was made before; others that close or ask for graphs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv, self.layer, self.fc = kind, nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)
        if kind == "identity":
            self.layer = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.kind == "asks":
            (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            return self.fc(F.relu_(self.layer(y) + slope.mean())[:, :, ::2].mean((2, 3)))
        branch = y.square()
        with torch.set_grad_enabled(self.kind != "closed" and torch.is_grad_enabled()):
            z = self.layer(y)
        z = z.relu_() if self.kind == "in place" else z.tanh()
        return self.fc((z * branch + y).mean((2, 3)))


@pytest.mark.parametrize("kind", ["identity", "in place", "plain"])
def test_what_else_is_made_of_a_layers_tensor_has_its_part(kind: str, x: Tensor) -> None:
    torch.manual_seed(2)
    same(Branches(kind).eval(), x, "layer_cam", "layer")


def test_a_model_that_closes_its_graph_or_asks_for_one_is_told_or_explained_as_before(x: Tensor) -> None:
    torch.manual_seed(2)
    for accelerate in (True, False):
        with pytest.raises(UnconnectedError, match="does not depend on the layer"):
            explain(Branches("closed").eval(), x, "layer_cam", layer="layer", target=1, accelerate=accelerate)
    asks = Branches("asks").eval()
    found = explain(asks, x, "layer_cam", layer="layer", target=1)[0].attribution
    kept: list[Tensor] = []
    handle = asks.layer.register_forward_hook(lambda module, args, out: kept.append(out))
    output = asks(x.requires_grad_())
    handle.remove()
    (slope,) = torch.autograd.grad(output[:, 1].sum(), kept)
    expected = (slope.relu() * kept[0]).sum(1, keepdim=True).relu()
    assert torch.allclose(found, expected.detach(), rtol=1e-5, atol=1e-8)


def test_a_hook_of_the_users_at_the_layer(net: nn.Module, x: Tensor) -> None:
    handle = net.layer4.register_forward_hook(lambda module, args, out: 2 * out)
    same(net, x, "layer_cam", "layer4")
    handle.remove()


def test_other_methods_behind_it_have_their_own_gradients(net: nn.Module, x: Tensor) -> None:
    methods = [LayerCAM(net, "layer4"), "saliency", "guided_grad_cam"]
    together = explain(net, x, methods, target=1)
    for one, method in zip(together, methods, strict=True):
        plain = explain(net, x, method, target=1, accelerate=False)[0]
        assert torch.allclose(one.attribution, plain.attribution, rtol=1e-6, atol=1e-9)


def seen_modules(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many modules each first pass noted."""
    found: list[int] = []
    plain = opening_pass.trace_modules

    def watched(*args: Any, **kwargs: Any) -> Any:
        traced = plain(*args, **kwargs)
        found.append(len(traced[2]))
        return traced

    monkeypatch.setattr(opening_pass, "trace_modules", watched)
    return found


def test_other_modules_are_not_noted_again_where_nobody_asked(
    net: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, noted = copy.deepcopy(net), seen_modules(monkeypatch)
    first, second = (explain(net, x, "layer_cam", target=1, layer="layer3")[0] for _ in range(2))
    assert noted[0] > 20 and noted[1] == 1 and torch.equal(first.attribution, second.attribution)


def test_what_changed_between_two_calls_is_seen(net: nn.Module, x: Tensor) -> None:
    """Weights, also behind torch's back, hooks and modes: nothing of the call before stands in their way."""
    net = copy.deepcopy(net)

    def asked() -> Any:
        how: dict[str, Any] = {"target": 1, "layer": "layer3", "relu_attributions": False}
        mine, plain = (explain(net, x, "grad_cam", accelerate=on, **how)[0] for on in (True, False))
        assert torch.allclose(mine.attribution, plain.attribution, rtol=1e-5, atol=1e-8)
        assert mine.meta["fingerprint"] == plain.meta["fingerprint"]
        return mine

    def hook() -> None:
        net.layer4.register_forward_hook(lambda module, args, out: out.flip(2) * 2)

    known = [asked(), asked()]
    for change in (lambda: net.fc.weight.data.mul_(-1), lambda: net.layer4[0].conv1.weight.data.neg_(), hook):
        change()
        now = asked()
        assert not torch.equal(now.attribution, known[-1].attribution)
        assert (now.meta["fingerprint"] == known[-1].meta["fingerprint"]) == (change is hook)
        known.append(now)
    net.train()
    assert torch.equal(asked().attribution, known[-1].attribution) and net.layer3.training


def test_shapes_that_are_asked_for_after_all_take_a_pass(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels and sides of one length: only what the other modules give says how the layer lies."""

    def made() -> nn.Module:
        torch.manual_seed(5)
        return nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.Flatten(), nn.Linear(216, 3)).eval()

    wanted = explain(made(), x[:, :, :6, :6], "layer_cam", target=1, layer="2")[0]
    net, noted = made(), seen_modules(monkeypatch)
    for layout in ("first", "auto", "auto"):
        mine = explain(net, x[:, :, :6, :6], "layer_cam", target=1, layer="2", layout=layout)[0]
        assert torch.equal(mine.attribution, wanted.attribution)
    assert noted == [6, 1, 6]  # the second asks in a pass of its own, the third knows
