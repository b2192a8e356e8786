"""DeepLift, LRP and their kin against Captum 0.9 and zennit, in double precision, beyond the table of cases."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import captum.attr
import pytest
import torch
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule, IdentityRule
from torch import Tensor, nn

import interp_plugins.attr as ours
from interp_plugins.attr.backward.rules import epsilon_gamma_box

TIGHT = 1e-12


class Vgg(nn.Module):
    """Every module that Captum's LRP knows, in a small net."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.Tanh(),
            nn.AvgPool2d(2), nn.Dropout(), nn.AdaptiveAvgPool2d(2),
        )  # fmt: skip
        self.b = nn.Sequential(nn.Linear(32, 10), nn.ReLU(inplace=True), nn.Linear(10, 4))
        self.a[1].running_mean.normal_()
        self.a[1].running_var.uniform_(0.5, 2)
        self.a[1].eps = 1e-15  # zennit merges a batch norm and then divides by sqrt(1 + eps) once more

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x).flatten(1))
        return out


@pytest.fixture
def vgg() -> Vgg:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Vgg().double().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 14, 14, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def apart(a: Any, b: Any) -> float:
    """Largest difference, relative to the largest value."""
    if isinstance(b, tuple):
        (b,) = b
    return float(((a - b).abs().max() / b.abs().max()).detach())


Rules = Callable[[Vgg], list[tuple[nn.Module, Any]]]
RULES: dict[str, Rules] = {
    "default": lambda m: [],
    "gamma": lambda m: [(m.a[0], GammaRule()), (m.a[4], GammaRule(0.5, True))],
    "alpha 1 beta 0": lambda m: [(m.a[0], Alpha1_Beta0_Rule()), (m.b[0], Alpha1_Beta0_Rule(True))],
    "identity": lambda m: [(m.a[1], IdentityRule())],
    "epsilon": lambda m: [(m.a[4], EpsilonRule(0.1))],
}


@pytest.mark.parametrize("name", RULES)
def test_lrp_is_captums_with_its_rules_on_modules_and_leaves_them_there(vgg: Vgg, x: Tensor, name: str) -> None:
    def rules() -> list[tuple[nn.Module, Any]]:
        given = RULES[name](vgg)
        for module, rule in given:
            module.rule = rule
        return given

    given = rules()
    target = [0, 1, 2]
    mine, delta = ours.LRP(vgg).attribute(x, target=target, return_convergence_delta=True)
    again = ours.LRP(vgg).attribute(x, target=target)
    assert torch.equal(mine, again)
    assert all(module.rule is rule for module, rule in given)
    theirs, their_delta = captum.attr.LRP(vgg).attribute(x, target=target, return_convergence_delta=True)
    assert apart(mine, theirs) <= TIGHT and apart(delta, their_delta) <= TIGHT
    for to_input in (False, True):
        rules()
        mine = ours.LayerLRP(vgg, vgg.a[4]).attribute(x, target=target, attribute_to_layer_input=to_input)
        theirs = captum.attr.LayerLRP(vgg, vgg.a[4]).attribute(x, target=target, attribute_to_layer_input=to_input)
        assert apart(mine, theirs) <= TIGHT


@pytest.mark.parametrize("cls", ["DeepLift", "DeepLiftShap", "GuidedBackprop", "Deconvolution"])
def test_primary_methods_are_captums(vgg: Vgg, x: Tensor, cls: str) -> None:
    given: dict[str, Any] = {"target": [0, 1, 2]}
    if cls.startswith("DeepLift"):
        vgg.a[2] = nn.Identity()  # see test_rectifier_before_max_pooling_is_complete
    if cls == "DeepLift":
        given |= {"baselines": x.flip(0) * 0.3, "return_convergence_delta": True}
    if cls == "DeepLiftShap":
        given |= {"baselines": x.flip(0)[:2], "return_convergence_delta": True}
    mine = getattr(ours, cls)(vgg).attribute(x, **given)
    theirs = getattr(captum.attr, cls)(vgg).attribute(x, **given)
    if "baselines" in given:
        assert mine[1].shape == theirs[1].shape
        mine, theirs = mine[0], theirs[0]
    assert apart(mine, theirs) <= TIGHT


@pytest.mark.parametrize("takes", [1, 2, 3])
def test_custom_attribution_func_is_captums(vgg: Vgg, x: Tensor, takes: int) -> None:
    functions: list[Any] = [
        lambda m: tuple(t * 2 for t in m),
        lambda m, i: tuple(t * v for t, v in zip(m, i)),
        lambda m, i, b: tuple(t * (v - w) for t, v, w in zip(m, i, b)),
    ]
    vgg.a[2] = nn.Identity()
    mine, theirs = (
        lib.DeepLift(vgg).attribute(x, x * 0.1, 1, custom_attribution_func=functions[takes - 1])
        for lib in (ours, captum.attr)
    )
    assert apart(mine, theirs) <= TIGHT


def deltas(model: nn.Module, x: Tensor, baselines: Tensor) -> tuple[float, float]:
    """The largest completeness errors, ours and Captum's."""
    mine, theirs = (
        lib.DeepLift(model).attribute(x, baselines, 1, return_convergence_delta=True)[1] for lib in (ours, captum.attr)
    )
    return float(mine.abs().max()), float(theirs.abs().max())


def test_rectifier_before_max_pooling_is_complete(vgg: Vgg, x: Tensor) -> None:
    mine, theirs = deltas(vgg, x, x.flip(0) * 0.3)
    assert mine <= TIGHT < 1e-3 < theirs


def test_overlapping_max_pooling_is_complete(x: Tensor) -> None:
    net = nn.Sequential(nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(108, 2)).double()
    mine, theirs = deltas(net, x, x.flip(0))
    assert mine <= TIGHT < 1e-3 < theirs


def test_max_pooling_of_equal_windows_gets_the_samples_own_gradient() -> None:
    """Where nothing differs from the baseline the multiplier is the gradient; Captum takes that of the first sample."""
    net = nn.Sequential(nn.MaxPool1d(2), nn.Flatten(), nn.Linear(2, 2)).double()
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]], [[2.0, 1.0, 4.0, 3.0]]], dtype=torch.float64)
    gradient = ours.Saliency(net).attribute(x, 0, abs=False)
    mine, theirs = (lib.DeepLift(net, multiply_by_inputs=False).attribute(x, x, 0) for lib in (ours, captum.attr))
    assert torch.equal(mine, gradient)
    assert torch.equal(theirs[0], theirs[1]) and not torch.equal(gradient[0] != 0, gradient[1] != 0)


def test_softmax_is_complete_and_knows_no_batch_mates() -> None:
    g = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 5), nn.Softmax(1), nn.Linear(5, 2)).double()
    x = torch.randn(3, 4, generator=g, dtype=torch.float64)
    mine, theirs = deltas(net, x, x.flip(0) * 0.5)
    assert mine <= TIGHT < 1e-3 < theirs
    for lib, same in ((ours, True), (captum.attr, False)):
        together = lib.DeepLift(net).attribute(x, x.flip(0) * 0.5, 1)
        alone = lib.DeepLift(net).attribute(x[:1], x.flip(0)[:1] * 0.5, 1)
        assert (float((together[:1] - alone).abs().max().detach()) <= TIGHT) == same


class Functional(nn.Module):
    """Functions instead of modules, one module twice, a product, a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act, self.head = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.fc(x))
        y = y + x
        y = y * self.fc(y).sigmoid()
        return self.head(nn.functional.gelu(y))


def test_functions_have_rules() -> None:
    net = Functional().double()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    mine, theirs = deltas(net, x, x.flip(0))
    assert mine <= TIGHT < 1e-3 < theirs
    assert not torch.equal(ours.GuidedBackprop(net).attribute(x, 1), ours.Saliency(net).attribute(x, 1, abs=False))
    assert torch.equal(captum.attr.GuidedBackprop(net).attribute(x, 1), ours.Saliency(net).attribute(x, 1, abs=False))


def test_module_used_twice_works() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.fc = nn.ReLU(), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.fc(self.act(self.fc(x))))

    net, x = Twice().double(), torch.randn(2, 4, dtype=torch.float64)
    _, delta = ours.DeepLift(net).attribute(x, target=0, return_convergence_delta=True)
    assert float(delta.abs().max()) <= TIGHT
    with pytest.raises(RuntimeError, match="more than once"):
        captum.attr.DeepLift(net).attribute(x, target=0)
    ours.LRP(net).attribute(x, target=0)
    with pytest.raises(RuntimeError, match="more than once"):
        captum.attr.LRP(net).attribute(x, target=0)


def test_lrp_takes_modules_that_captum_has_no_rule_for() -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.SiLU(), nn.Flatten(), nn.LayerNorm(12)).double()
    x = torch.randn(2, 2, 5, dtype=torch.float64)
    assert ours.LRP(net.eval()).attribute(x, target=1).shape == x.shape
    with pytest.raises(TypeError, match="has no rule defined"):
        captum.attr.LRP(net).attribute(x, target=1)


def test_guided_grad_cam_is_captums(vgg: Vgg, x: Tensor) -> None:
    for mode in ("nearest", "bilinear"):
        mine, theirs = (
            lib.GuidedGradCam(vgg, vgg.a[4]).attribute(x, 1, interpolate_mode=mode) for lib in (ours, captum.attr)
        )
        assert apart(mine, theirs) <= TIGHT


def test_map_that_cannot_be_enlarged_is_empty_and_refused_by_explain(vgg: Vgg, x: Tensor) -> None:
    from interp_plugins import explain
    from interp_plugins.core.errors import InterpWarning, LayerError

    assert ours.GuidedGradCam(vgg, vgg.b[0]).attribute(x, 1).shape == x.shape
    flat = nn.Sequential(nn.Unflatten(1, (3, 14, 14)), vgg)
    with pytest.warns(InterpWarning, match="cannot be enlarged to inputs"):
        mine = ours.GuidedGradCam(flat, vgg.a[4]).attribute(x.flatten(1), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = captum.attr.GuidedGradCam(flat, vgg.a[4]).attribute(x.flatten(1), 1)
    assert mine.shape == theirs.shape == (0,)
    with pytest.warns(InterpWarning), pytest.raises(LayerError, match="empty map"):
        explain(flat, x.flatten(1), "guided_gradcam", layer=vgg.a[4], target=1)


def zennit_relevance(model: nn.Module, x: Tensor, target: int, composite: Any) -> Tensor:
    from zennit.attribution import Gradient

    with Gradient(model=model, composite=composite) as attributor:
        out = model(x).detach()
        _, relevance = attributor(x.clone(), torch.eye(out.shape[1], dtype=out.dtype)[[target] * len(x)] * out)
    return relevance


COMPOSITES = ["epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat",
              "epsilon_gamma_box"]  # fmt: skip


@pytest.mark.parametrize("name", COMPOSITES)
def test_composites_are_zennits(vgg: Vgg, x: Tensor, name: str) -> None:
    import zennit.composites
    from zennit.canonizers import SequentialMergeBatchNorm

    bounds = {"low": -4.0, "high": 4.0} if name == "epsilon_gamma_box" else {}
    maker: Any = zennit.composites.COMPOSITES[name]
    theirs = zennit_relevance(vgg, x, 1, maker(canonizers=[SequentialMergeBatchNorm()], **bounds))
    mine = ours.LRP(vgg, composite=epsilon_gamma_box(**bounds) if bounds else name).attribute(x, target=1)
    assert apart(mine, theirs) <= TIGHT


def test_residual_network_is_zennits() -> None:
    import zennit.composites
    from torchvision.models.resnet import BasicBlock, ResNet
    from zennit.torchvision import ResNetCanonizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4).double().eval()
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eps = 1e-15
                m.running_mean.normal_(0, 0.1)
                m.bias.data.normal_(0, 0.1)
        x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    theirs = zennit_relevance(net, x, 1, zennit.composites.EpsilonPlusFlat(canonizers=[ResNetCanonizer()]))
    assert apart(ours.LRP(net, composite="EpsilonPlusFlat").attribute(x, target=1), theirs) <= TIGHT
