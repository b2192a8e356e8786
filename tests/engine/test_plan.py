"""The planned forward: equal to the plain engine in float64, private, and dropped where it does not agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import acceleration, explain
from interp_plugins.attr import (
    FeatureAblation,
    IntegratedGradients,
    LayerConductance,
    LayerGradientShap,
    LayerIntegratedGradients,
    NoiseTunnel,
    Occlusion,
)
from interp_plugins.core.forward import Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.layers import Layer
from interp_plugins.core.target import as_target
from interp_plugins.engine.plan.candidates import Loop
from interp_plugins.engine.plan.planned import _plan
from interp_plugins.engine.plan.view import View


def trained(net: nn.Module) -> nn.Module:
    """Running statistics that folding cannot ignore."""
    for m in net.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            m.running_mean.uniform_(-0.5, 0.5)
            m.running_var.uniform_(0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 2)
            nn.init.uniform_(m.bias, -0.5, 0.5)
    return net.eval()


class Residual(nn.Module):
    """Convolution, norm, in-place ReLU, a residual, a shared norm, a norm before its convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv3, self.conv4, self.shared = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.before, self.conv5 = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3, groups=2)
        self.relu, self.pool, self.fc = nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)) + y)
        y = self.shared(self.conv3(y)) + self.shared(self.conv4(y))
        return self.fc(self.pool(self.conv5(self.relu(self.before(y)))).flatten(1))


class Between(Residual):
    """The convolution's output is used a second time, beside its norm."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv1(x)
        y = torch.tanh(self.bn1(z)) * z
        return self.fc(self.pool(self.conv5(y)).flatten(1))


class Viewing(nn.Module):
    """`view` refuses the channels-last layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.bn(self.conv(x))).view(x.shape[0], -1))


class Reads(nn.Module):
    """The input is read a second time, where only its zeros count."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.fc(x))) * (x != 0).double().mean(1, keepdim=True).to(x)


class Counting(nn.Module):
    """A model whose answer depends on how often it was asked: no view of it agrees."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.seen = nn.Linear(6, 3), [0]

    def forward(self, x: Tensor) -> Tensor:
        self.seen[0] += 1
        return self.fc(x) * self.seen[0]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 3))


def series() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, (3, 8, 8)),
    "between": (Between, (3, 8, 8)),
    "viewing": (Viewing, (3, 8, 8)),
    "mlp": (mlp, (6,)),
    "reads": (Reads, (6,)),
    "series": (series, (2, 8)),
}


@pytest.fixture(params=NETS)
def problem(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    make, shape = NETS[request.param]
    torch.manual_seed(0)
    return trained(make()).double(), torch.randn(3, *shape, dtype=torch.float64)


def both(run: Callable[[], Any]) -> tuple[Any, Any]:
    with acceleration(False):
        plain = run()
    return run(), plain


def plan_of(net: Any, x: Tensor, wrt: Any = None) -> Any:
    with frozen(net):
        return _plan(Loop(Forward.of(net, len(x), as_target(1, len(x))), (x,), 100, 8, wrt, first=True, backward=True))


def test_maps_equal_the_plain_engine_in_float64(problem: tuple[nn.Module, Tensor]) -> None:
    net, x = problem
    runs: dict[str, Callable[[], Tensor]] = {
        "ig": lambda: IntegratedGradients(net).attribute(x, target=[0, 1, 2], n_steps=20),
        "ig, chunks": lambda: IntegratedGradients(net).attribute(x, x * 0.1, [0, 1, 2], internal_batch_size=7),
        "ig, groups": lambda: IntegratedGradients(net).attribute(x, target=[0, 1, 2], n_steps=6, internal_batch_size=2),
        "ig, tol": lambda: IntegratedGradients(net).attribute(x, x * 0.1 + 0.1, target=1, tol=0.05),
        "tunnel": lambda: NoiseTunnel(IntegratedGradients(net)).attribute(x, target=1, n_steps=5, seed=0),
        "ablation": lambda: FeatureAblation(net).attribute(x, target=1),
        "occlusion": lambda: Occlusion(net).attribute(x, (1,) * (x.ndim - 2) + (2,), target=1),
    }
    for name, run in runs.items():
        fast, plain = both(run)
        assert torch.allclose(fast, plain, rtol=1e-9, atol=1e-12), name


def test_float32_maps_differ_by_rounding_only() -> None:
    torch.manual_seed(0)
    net, x = trained(Residual()), torch.randn(2, 3, 8, 8)
    fast, plain = both(lambda: IntegratedGradients(net).attribute(x, target=1))
    assert float((fast - plain).norm() / plain.norm()) < 1e-4


def test_pairs_that_nobody_else_reads_are_folded() -> None:
    net = trained(Residual()).double()
    plan = plan_of(net, torch.randn(2, 3, 8, 8, dtype=torch.float64))
    gone = {n for n, m in net.named_modules() if isinstance(plan.view.module(m), nn.Identity)}
    assert gone == {"bn1", "bn2"}  # not the shared norm, nor the one before its convolution
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert plan_of(trained(Between()).double(), x).behind is not None
    kept = plan_of(net, x, [Layer(net.conv1)])
    assert not isinstance(kept.view.module(net.bn1), nn.Identity)  # its input is asked for
    assert isinstance(kept.view.module(net.bn2), nn.Identity)


def test_norms_of_timm_keep_their_activation() -> None:
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    parts = [
        layers.Conv2dSame(3, 4, 3, 2, bias=False),
        layers.BatchNormAct2d(4, act_layer=nn.ReLU6),
        nn.Conv2d(4, 5, 1),
    ]
    net = trained(nn.Sequential(*parts, layers.BatchNormAct2d(5, apply_act=False))).double()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    plan = plan_of(net, x)
    assert "folded 2" in plan.changes and not isinstance(plan.view.module(net[1]), nn.BatchNorm2d)
    assert torch.allclose(plan.func(x), net(x), rtol=1e-9)
    assert "folded 1" in plan_of(net, x, [Layer(net[1].act)]).changes  # asked for: a copy in its place is no view of it
    net[1].register_forward_hook(lambda module, args, output: output + 1)
    assert torch.allclose(plan_of(net, x).func(x), net(x), rtol=1e-9)


def test_first_layer_leaves_the_loop_unless_the_input_is_read_twice() -> None:
    x = torch.randn(2, 6)
    net = trained(mlp())
    rows: list[int] = []
    behind = plan_of(net, x).behind
    assert behind is not None and torch.allclose(behind(behind.encode(x)), net(x), atol=1e-6)
    assert plan_of(Reads().eval(), x) is None
    forward = nn.Linear.forward
    try:
        nn.Linear.forward = lambda m, t: (rows.append(len(t) * (m.in_features == 6)), forward(m, t))[1]
        IntegratedGradients(net).attribute(x, target=1, n_steps=50)
    finally:
        nn.Linear.forward = forward
    assert 0 < sum(rows) < 12  # not 100


def test_users_model_is_not_touched_and_no_view_outlives_the_call() -> None:
    net = trained(Residual())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    children, x = dict(net.named_modules()), torch.randn(1, 3, 8, 8)
    IntegratedGradients(net).attribute(x, target=1)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert dict(net.named_modules()) == children and all(p.requires_grad for p in net.parameters())
    first = Occlusion(net).attribute(x, (3, 3, 3), target=1)
    with torch.no_grad():
        net.conv1.weight.mul_(2)
    assert not torch.allclose(first, Occlusion(net).attribute(x, (3, 3, 3), target=1))


@pytest.mark.parametrize("hook", ["forward", "pre", "parametrization"])
def test_layers_with_something_of_the_users_on_them_are_left_as_they_are(hook: str) -> None:
    net = trained(Residual()).double()
    if hook == "forward":
        net.conv1.register_forward_hook(lambda m, i, o: o * 2)
    elif hook == "pre":
        net.bn1.register_forward_pre_hook(lambda m, i: (i[0] + 1,))
    else:
        nn.utils.parametrizations.weight_norm(net.conv1)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    plan = plan_of(net, x)
    assert not isinstance(plan.view.module(net.bn1), nn.Identity)
    fast, plain = both(lambda: IntegratedGradients(net).attribute(x, target=1, n_steps=20))
    assert torch.allclose(fast, plain, rtol=1e-9, atol=1e-12)


class Held:
    """A callable whose model lies in an object that it holds."""

    def __init__(self, net: nn.Module):
        self.holder = [net]

    def wrapped_callables(self) -> list[Any]:
        return self.holder

    def __call__(self, t: Tensor) -> Tensor:
        return self.holder[0](t)


def test_a_model_that_cannot_be_exchanged_is_not_viewed() -> None:
    """Its view would put the layer's values into copies that nobody runs, and the score would not depend on them."""
    net, x = trained(mlp()), torch.randn(2, 6)
    layer = next(m for m in net.modules() if isinstance(m, nn.Linear))
    assert plan_of(Held(net), x) is None
    for cls in (LayerIntegratedGradients, LayerConductance):
        found, plain = (cls(func, layer).attribute(x, target=1) for func in (Held(net), net))
        torch.testing.assert_close(found, plain)


def test_a_view_has_containers_and_unregistered_modules_of_its_own() -> None:
    class Hoarding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 3)
            self.seen: dict[str, int] = {}
            self.aside = [nn.Linear(6, 3)]  # in no list of modules that torch knows

    net = Hoarding()
    mine = View().module(net)
    mine.seen["once"] = 1
    assert net.seen == {} and mine.aside[0] is not net.aside[0] and mine.aside[0].weight is net.aside[0].weight
    mine.fc.register_forward_hook(lambda *_: None)
    assert not net.fc._forward_hooks


def test_what_cannot_be_viewed_or_does_not_agree_runs_as_it_is() -> None:
    net, x = trained(mlp()), torch.randn(2, 6)
    assert plan_of(lambda t: net(t), x) is None
    assert plan_of(Counting().eval(), x) is None
    assert plan_of(nn.DataParallel(net), x) is None
    assert plan_of(net.half(), x.half()) is None
    assert plan_of(torch.jit.script(trained(mlp())), x) is None


def test_nothing_happens_to_a_model_that_cleans_up_behind_itself() -> None:
    """As fastai's U-Net does, which takes its hooks away when it goes."""

    class Tidy(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.kept: list[Tensor] = []
            self.handle = self.relu.register_forward_hook(lambda m, i, o: self.kept.append(o))

        def __del__(self) -> None:
            self.handle.remove()

    net, x = trained(Tidy()), torch.randn(1, 3, 8, 8)
    plan = plan_of(net, x)
    Occlusion(net).attribute(x, (3, 2, 2), target=1)
    assert plan is None and len(net.relu._forward_hooks) == 1


def test_backward_written_in_python_keeps_the_layout_it_knows() -> None:
    class Flat(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.shape = x.shape
            return x * 1

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g.view(g.shape[0], -1).view(ctx.shape)

    class Own(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(Flat.apply(self.relu(self.conv2(self.conv1(x)))).new_zeros(1) + x)

    net, x = trained(Own()), torch.randn(2, 3, 8, 8)
    fast, plain = both(lambda: IntegratedGradients(net).attribute(x, target=1))
    assert torch.allclose(fast, plain, rtol=1e-3, atol=1e-6)


def test_methods_at_a_layer_run_what_lies_before_it_once() -> None:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4)]
    net = nn.Sequential(*blocks, nn.Linear(6, 3)).double().eval()
    x = torch.randn(3, 6, dtype=torch.float64)
    calls: list[int] = []
    forward = nn.Linear.forward
    for run in (
        lambda: LayerIntegratedGradients(net, net[2]).attribute(x, target=[0, 1, 2], internal_batch_size=10),
        lambda: LayerIntegratedGradients(net, net[2]).attribute(x, target=1, attribute_to_layer_input=True),
        lambda: LayerGradientShap(net, net[2]).attribute(x, x.flip(0), target=1, n_samples=20, seed=0),
        lambda: LayerConductance(net, net[2]).attribute(x, target=1),
        lambda: NoiseTunnel(LayerIntegratedGradients(net, net[2])).attribute(x, target=1, noise_at="layer", seed=0),
    ):
        fast, plain = both(run)
        assert torch.allclose(fast, plain, rtol=1e-9, atol=1e-12)
    try:
        nn.Linear.forward = lambda m, t: (calls.append(id(m.weight)), forward(m, t))[1]
        LayerIntegratedGradients(net, net[2]).attribute(x, target=1, internal_batch_size=10)
    finally:
        nn.Linear.forward = forward
    assert calls.count(id(net[4].weight)) >= 15 and calls.count(id(blocks[0][0].weight)) <= 5


def test_a_layer_called_again_behind_itself_is_not_replayed_wrongly() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = nn.Linear(6, 6), nn.Linear(6, 3)
            self.block = nn.Sequential(self.inner, nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.tanh(self.inner(self.block(x))))

    torch.manual_seed(0)
    net, x = Twice().double().eval(), torch.randn(2, 6, dtype=torch.float64)
    for call in (0, 1):
        site = Layer(net.inner, call=call)
        fast, plain = both(lambda site=site: LayerIntegratedGradients(net, site).attribute(x, target=1))
        assert torch.allclose(fast, plain, rtol=1e-9, atol=1e-12) and float(plain.abs().max()) > 0


def test_groups_of_samples_keep_several_targets_apart() -> None:
    torch.manual_seed(0)
    net, x = trained(mlp()).double(), torch.randn(5, 6, dtype=torch.float64)
    many = explain(net, x, "ig", target=[0, 2], batch_size=2, n_steps=8)
    for exp, target in zip(many, (0, 2), strict=True):
        (alone,) = explain(net, x, "ig", target=target, n_steps=8, accelerate=False)
        torch.testing.assert_close(exp.attributions, alone.attributions)


def test_explain_switches_it_off_too() -> None:
    net, x = trained(Residual()), torch.randn(1, 3, 8, 8)
    plain = explain(net, x, "ig", accelerate=False, progress=False)[0].attributions
    with acceleration(False):
        assert torch.equal(plain, IntegratedGradients(net).attribute(x, target=int(net(x).argmax())))
        assert torch.equal(plain, explain(net, x, "ig", progress=False)[0].attributions)


@pytest.mark.filterwarnings("ignore:The model draws random numbers")
def test_random_numbers_of_the_model_are_not_used_up() -> None:
    class Noisy(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0.01 * torch.rand(1)

    net, x = trained(Noisy()), torch.randn(1, 3, 8, 8)
    fast, plain = both(lambda: explain(net, x, "occlusion", sliding_window_shapes=(3, 2, 2), seed=1)[0].attributions)
    assert float((fast - plain).abs().max()) < 1e-3
