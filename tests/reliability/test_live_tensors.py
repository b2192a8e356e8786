"""What a call made is gone after it: as many tensors live after five calls as after two, also where each one failed.

A tensor that only the graph holds is invisible to the collector; one that such a graph and a Python object hold in a
circle lives for ever. Each is counted, whoever holds it.
"""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from interp_plugins import attr, explain
from interp_plugins.attr.backward.rules import COMPOSITES
from interp_plugins.core.errors import InterpWarning, ModelError
from interp_plugins.demo.network import lite0
from tests.conformance.cases import ATTENTION, VARIANTS, Case, applies, attribute
from tests.thorough import THOROUGH, times


class BoomError(RuntimeError):
    """Raised on the way back."""


class Gated(nn.Module):
    """A residual net with activations, sums and products, in place or not; a switch that breaks a pass on its way."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace, self.broken = inplace, ""
        self.conv, self.bn, self.act = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace)
        self.again, self.silu, self.pool = nn.Conv2d(3, 3, 3, padding=1), nn.SiLU(inplace), nn.MaxPool2d(2)
        self.gate, self.fc = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn(self.conv(x)))
        z = self.again(y)
        z = z.add_(y) if self.inplace else z + y
        z = self.pool(self.silu(z)).flatten(1)
        if self.broken == "forward":
            raise BoomError("on the way in")
        if self.broken == "backward" and z.requires_grad:
            z.register_hook(_boom)
        gate = torch.sigmoid(self.gate(z))
        z = z.mul_(gate) if self.inplace else z * gate
        return self.fc(z)


def _boom(grad: Tensor) -> None:
    raise BoomError("on the way back")


IN_PLACE = Case("gated in place", partial(Gated, True), ((2, 4, 4),), layer="again", neuron=(1, 2, 2))
OUT_OF_PLACE = Case("gated", partial(Gated, False), ((2, 4, 4),), layer="again", neuron=(1, 2, 2))


@pytest.fixture(scope="module", autouse=True)
def only_new_objects() -> None:
    """What lives already is not looked at again by the collector: it holds the objects of whole frameworks."""
    gc.collect()
    gc.freeze()  # and stays so: tests/conftest.py thaws all at the end


def live() -> Counter[tuple[int, ...]]:
    """How many tensors of each shape there are."""
    gc.collect()
    return Counter(tuple(o.shape) for o in gc.get_objects() if issubclass(type(o), Tensor))


def grows(call: Callable[[], Any]) -> Counter[tuple[int, ...]]:
    """The shapes of what three more calls left, after two of them."""
    for _ in range(2):
        call()
    before = live()
    for _ in range(3):
        call()
    return live() - before


@pytest.mark.filterwarnings("ignore::interp_plugins.core.errors.InterpWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_method_leaves_no_tensor(variant: str) -> None:
    cases = [c for c in (IN_PLACE, OUT_OF_PLACE)[: times(1, 2)] if applies(variant, c)] or [ATTENTION]
    for case in cases:
        problem = case.build(torch.float32)
        assert grows(partial(attribute, variant, problem)) == Counter(), case.name


RULED: dict[str, Callable[[nn.Module, Any, Tensor], Any]] = {
    "deep_lift": lambda net, layer, x: attr.DeepLift(net).attribute(x, target=1),
    "deep_lift, reveal_cancel": lambda net, layer, x: attr.DeepLift(net).attribute(x, target=1, rule="reveal_cancel"),
    "deep_lift_shap": lambda net, layer, x: attr.DeepLiftShap(net).attribute(x, torch.zeros(2, *x.shape[1:]), target=1),
    "lrp": lambda net, layer, x: attr.LRP(net, account=True).attribute(x, target=1),
    **{
        f"lrp, {name}": partial(lambda name, net, layer, x: attr.LRP(net, composite=name).attribute(x, target=1), name)
        for name in COMPOSITES
    },
    "guided_backprop": lambda net, layer, x: attr.GuidedBackprop(net).attribute(x, target=1),
    "deconvolution": lambda net, layer, x: attr.Deconvolution(net).attribute(x, target=1),
    "guided_grad_cam": lambda net, layer, x: attr.GuidedGradCam(net, layer).attribute(x, target=1),
    "layer_lrp": lambda net, layer, x: attr.LayerLRP(net, layer).attribute(x, target=1),
    "layer_deep_lift": lambda net, layer, x: attr.LayerDeepLift(net, layer).attribute(x, target=1),
    "layer_deep_lift_shap": lambda net, layer, x: attr.LayerDeepLiftShap(net, layer).attribute(
        x, torch.zeros(2, *x.shape[1:]), target=1
    ),
    "neuron_deep_lift": lambda net, layer, x: attr.NeuronDeepLift(net, layer).attribute(x, (0, 0, 0)),
    "neuron_guided_backprop": lambda net, layer, x: attr.NeuronGuidedBackprop(net, layer).attribute(x, (0, 0, 0)),
    "neuron_deconvolution": lambda net, layer, x: attr.NeuronDeconvolution(net, layer).attribute(x, (0, 0, 0)),
    "smooth_grad": lambda net, layer, x: attr.NoiseTunnel(attr.DeepLift(net)).attribute(x, target=1, nt_samples=2),
    "explain": lambda net, layer, x: explain(net, x, ["deep_lift", "lrp", "guided_backprop"], target=1),
}


@pytest.mark.filterwarnings("ignore::interp_plugins.core.errors.InterpWarning")
@pytest.mark.parametrize("name", RULED)
@pytest.mark.parametrize("inplace", [True, False], ids=["in place", "out of place"])
def test_rules_leave_no_tensor(name: str, inplace: bool) -> None:
    net, x = Gated(inplace).eval(), torch.rand(2, 2, 4, 4)
    assert grows(partial(RULED[name], net, net.again, x)) == Counter()


@pytest.mark.filterwarnings("ignore::interp_plugins.core.errors.InterpWarning")
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("name", RULED)
def test_a_call_that_fails_leaves_no_tensor(name: str, where: str) -> None:
    net, x = Gated(True).eval(), torch.rand(2, 2, 4, 4)
    net.broken = where
    failed: set[str] = set()

    def call() -> None:
        try:
            RULED[name](net, net.again, x)
        except BoomError:
            return
        except ModelError:  # what a failing backward pass is told as
            failed.add(where)
            return
        assert where == "backward" and name.startswith("neuron"), "the layer stands before the hook"

    assert grows(call) == Counter() and failed <= {"backward"}


@pytest.mark.parametrize("name", RULED if THOROUGH else ["deep_lift", "lrp, epsilon_plus_flat", "guided_backprop"])
@pytest.mark.parametrize("which", ["resnet18", "lite0"])
def test_real_networks_keep_nothing(which: str, name: str) -> None:
    net = lite0() if which == "lite0" else torchvision.models.resnet18(weights=None).eval()
    layer = net.blocks[-1] if which == "lite0" else net.layer4
    size = times(32, 224)
    x = torch.rand(1, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InterpWarning)
        assert grows(partial(RULED[name], net, layer, x)) == Counter()
