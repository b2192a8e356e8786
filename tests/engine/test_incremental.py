"""Incremental perturbation: the same maps as the plain engine, from small changes, or not used at all."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interp_plugins.attr import FeatureAblation, FeaturePermutation, Occlusion
from interp_plugins.attr.perturbation import perturb
from interp_plugins.core.features import MaskFeatures, Windows
from interp_plugins.core.forward import Forward
from interp_plugins.core.report import collect
from interp_plugins.core.target import as_target
from interp_plugins.engine import Incremental, acceleration, incremental_for, read_meter
from interp_plugins.engine.incremental import engine
from interp_plugins.engine.incremental.cost import occlusion_cost
from interp_plugins.engine.kernels.winograd import Winograd


@pytest.fixture(autouse=True)
def _even_small_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny nets gain little; what is tested is exactness."""
    for name in ("MIN_GAIN", "MIN_FEATURES", "MIN_ELEMENTS", "MIN_PRODUCTS"):
        monkeypatch.setattr(engine, name, 0)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each run was incremental."""
    found: list[bool] = []

    def asked(*args: Any) -> Incremental | None:
        with collect() as report:
            made = incremental_for(*args)
        meter = read_meter(report)
        assert [made is not None] == [any(t.startswith("incremental") for t in meter["used"])]
        assert len(meter["used"] + meter["dropped"]) == 1
        found.append(made is not None)
        return made

    monkeypatch.setattr(perturb, "incremental_for", asked)
    return found


def net(*layers: nn.Module, classes: int = 3) -> nn.Module:
    """Seeded layers in float64, with a head and with batch statistics of their own."""
    torch.manual_seed(0)
    made = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(classes)).double().eval()
    made(torch.zeros(1, 3, 23, 19, dtype=torch.float64))
    for m in made.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
            nn.init.normal_(m.weight)
    return made


def picture(n: int = 2, height: int = 23, width: int = 19) -> Tensor:
    return torch.randn(n, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def both(run: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """With and without."""
    made = run()
    with acceleration(False):
        return made, run()


def same(made: Tensor, plain: Tensor, tolerance: float = 1e-10) -> bool:
    return bool((made - plain).abs().max() <= tolerance * plain.abs().max()) and bool(plain.abs().max() > 0)


class Residual(nn.Module):
    """A block with a strided shortcut."""

    def __init__(self, channels: int, out: int, stride: int = 1):
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.Conv2d(out, out, 3, 1, 1)
        self.bn_a, self.bn_b = nn.BatchNorm2d(out), nn.BatchNorm2d(out)
        self.shortcut = nn.Conv2d(channels, out, 1, stride) if stride > 1 or channels != out else nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn_b(self.b(self.act(self.bn_a(self.a(x)))))
        y += self.shortcut(x)
        return self.act(y)


class Branches(nn.Module):
    """Inception's reduction and DenseNet's concatenation: branches with strides of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.GELU(), nn.Conv2d(4, 4, 3, 2, 1))
        self.b = nn.MaxPool2d(3, 2, 1)
        self.c = nn.Conv2d(3, 2, (1, 5), 2, (0, 2))
        self.scale = nn.Parameter(torch.randn(9, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x), F.silu(self.c(x))], 1)
        return self.scale * y + 0.5 - y * y


class SqueezeExcite(nn.Module):
    """Global pooling scales the map: everything depends on everything."""

    def __init__(self, channels: int):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean((2, 3), keepdim=True)
        return x * self.up(F.relu(self.down(scale))).sigmoid()


class ChannelsLast(nn.Module):
    """ConvNeXt's block."""

    def __init__(self) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(6, 6, 7, padding=3, groups=6), nn.LayerNorm(6)
        self.up, self.down, self.gamma = nn.Linear(6, 12), nn.Linear(12, 6), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        return x + (self.down(F.gelu(self.up(y))) * self.gamma).permute(0, 3, 1, 2)


NETS: dict[str, Callable[[], list[nn.Module]]] = {
    "residual": lambda: [nn.Conv2d(3, 4, 7, 2, 3), nn.BatchNorm2d(4), nn.ReLU(), Residual(4, 4), Residual(4, 6, 2)],
    "branches": lambda: [Branches(), nn.ReLU6(), nn.Conv2d(9, 4, 3)],
    "dilated": lambda: [nn.Conv2d(3, 6, 3, 1, 2, 2), nn.Tanh(), nn.Conv2d(6, 6, (3, 2), (2, 1), 1, groups=3)],
    "pools": lambda: [nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(3, 2, 1), nn.Conv2d(3, 4, 2), nn.SiLU()],
    "averages": lambda: [nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(3, 3, 1), nn.AvgPool2d(3, 1, 1, False, False)],
    "squeeze": lambda: [nn.Conv2d(3, 6, 3, 2), SqueezeExcite(6), nn.Hardswish(), nn.Conv2d(6, 4, 3)],
    "channels last": lambda: [nn.Conv2d(3, 6, 2, 2), ChannelsLast(), ChannelsLast()],
    "skipping": lambda: [nn.Conv2d(3, 4, 1, 3), nn.ELU(), nn.Dropout(), nn.Conv2d(4, 4, 3, padding="same")],
    "unknown layer inside": lambda: [nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3)],
    "shuffled": lambda: [nn.Conv2d(3, 4, 3, 2), nn.ChannelShuffle(2), nn.Upsample(scale_factor=2), nn.ReLU()],
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("border", ["shift", "clip"])
def test_occlusion_is_that_of_the_plain_engine(name: str, border: str, used: list[bool]) -> None:
    model, x = net(*NETS[name]()), picture()

    def run() -> Tensor:
        return Occlusion(model).attribute(
            x, (3, 5, 4), (3, 3, 4), target=[0, 2], border=border, baselines=0.3, progress=False
        )

    assert same(*both(run))
    assert used == [True, False]


@pytest.mark.parametrize("window", [(1, 3, 3), (2, 1, 19), (3, 6, 2)])
def test_windows_of_single_channels_and_of_any_shape(window: tuple[int, int, int], used: list[bool]) -> None:
    model, x = net(*NETS["residual"]()), picture(1)
    assert same(*both(lambda: Occlusion(model).attribute(x, window, window, target=1, progress=False)))
    assert used == [True, False]


def test_all_outputs_at_once_and_functions_as_targets() -> None:
    model, x = net(*NETS["residual"]()), picture()
    for target in (None, lambda out: out.softmax(1)[:, 0]):
        run = lambda t=target: Occlusion(model).attribute(x, (3, 5, 5), 4, target=t, progress=False)  # noqa: E731
        assert same(*both(run))


@pytest.mark.parametrize("per_sample", [False, True])
def test_ablated_segments(per_sample: bool, used: list[bool]) -> None:
    model, x = net(*NETS["branches"]()), picture(2)
    rows, columns = torch.arange(23)[:, None] // 6, torch.arange(19) // 5
    mask = (7 * rows + columns).expand(2 if per_sample else 1, 1, 23, 19).clone()
    mask[-1, 0, :3] += 1
    mask[:, :, 20, 2] = 0  # a pixel far from the others of its segment
    run = lambda: FeatureAblation(model).attribute(x, x.flip(2), 1, feature_mask=mask, progress=False)  # noqa: E731
    assert same(*both(run))
    assert used == [True, False]


def test_replacements_that_depend_on_the_feature() -> None:
    model, x = net(*NETS["residual"]()), picture(3)
    mask = (torch.arange(23)[:, None] // 6 * 4 + torch.arange(19) // 5)[None, None]

    def run() -> Tensor:
        torch.manual_seed(3)
        return FeaturePermutation(model).attribute(x, 1, feature_mask=mask)

    assert same(*both(run))


def test_float32_is_nearer_to_float64_than_the_plain_engine() -> None:
    torch.manual_seed(0)
    layers = [m for _ in range(4) for m in (nn.Conv2d(24, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU())]
    model = net(nn.Conv2d(3, 24, 3, 2), *layers).float()
    x = picture(1, 40, 40).float()

    def run(m: nn.Module, t: Tensor) -> Tensor:
        return Occlusion(m).attribute(t, (3, 9, 9), (3, 9, 9), target=1, progress=False)

    made, plain = both(lambda: run(model, x))
    with acceleration(False):
        truth = run(copy.deepcopy(model).double(), x.double())
    assert (made - truth).norm() < (plain - truth).norm() < 1e-3 * truth.norm()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_stack_of_kernels_any_windows(data: st.DataObject) -> None:
    """Random kernels, strides, paddings and dilations, random windows: equal in float64."""
    small = st.integers(1, 3)
    layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    height, width = data.draw(st.integers(9, 24)), data.draw(st.integers(9, 24))
    extents = [height, width]
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["conv", "max", "avg"]))
        kernel, stride = (data.draw(small), data.draw(small)), (data.draw(small), data.draw(small))
        dilation = (data.draw(st.integers(1, 2)), 1) if kind != "avg" else (1, 1)
        padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
        read = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        after = [(e + 2 * p - r) // s + 1 for e, p, r, s in zip(extents, padding, read, stride, strict=True)]
        if min(after) < 1 or any(e + 2 * p < r for e, p, r in zip(extents, padding, read, strict=True)):
            continue
        extents = after
        if kind == "conv":
            layers += [nn.Conv2d(3, 3, kernel, stride, padding, dilation), nn.LeakyReLU(0.3)]
        elif kind == "max":
            layers.append(nn.MaxPool2d(kernel, stride, padding, dilation))
        else:
            layers.append(nn.AvgPool2d(kernel, stride, padding, count_include_pad=data.draw(st.booleans())))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    model = nn.Sequential(*layers, nn.Flatten()).double().eval()
    x = torch.randn(1, 3, height, width, dtype=torch.float64)
    window = (3, data.draw(st.integers(1, height // 2)), data.draw(st.integers(1, width // 2)))
    strides = (3, data.draw(st.integers(1, window[1])), data.draw(st.integers(1, window[2])))
    features = Windows((x,), window, strides, data.draw(st.sampled_from(["shift", "clip"])))
    forward = Forward.of(model, 1, as_target(lambda out: out.square().sum(1), 1))
    with torch.no_grad():
        assume(bool(model(x).isfinite().all()))  # a max pool over padding alone gives -inf, which is refused
        incremental = incremental_for(forward, (x,), (torch.zeros_like(x),), features)
        assert incremental is not None
        with incremental:
            found = incremental.selected([incremental.row(r) for r in range(len(features))])
        for i in range(len(features)):
            changed = x.clone()
            changed[(slice(None), *features.box(incremental.row(i)[0])[1])] = 0
            assert torch.allclose(found[i], forward.selected([changed]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_many_channels_use_winograd(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Winograd, "suits", staticmethod(lambda weight: weight.shape[1] > 90))
    torch.manual_seed(0)
    model = net(nn.Conv2d(3, 96, 5, 2), nn.ReLU(), nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 8, 3)).to(
        dtype
    )
    x = picture(1, 40, 40).to(dtype)
    run = lambda: Occlusion(model).attribute(x, (3, 8, 8), (3, 8, 8), target=1, progress=False)  # noqa: E731
    assert same(*both(run), 1e-10 if dtype == torch.float64 else 1e-4)


# What it is not used for


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)) if x.sum() > 0 else -x.mean((1, 2, 3))


class Reused(nn.Module):
    """Works in place on what it reads again: the graph's names would lie."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = F.relu(y, inplace=True)
        return (z + y).mean((2, 3))


class Lying(nn.Module):
    """Tracing does not see what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv2d(3, 2, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).mean((2, 3))
        return y if isinstance(x, torch.fx.Proxy) else y * 2


def simple() -> nn.Module:
    return net(nn.Conv2d(3, 4, 3), nn.ReLU())


def hooked() -> nn.Module:
    model = simple()
    model[0].register_forward_hook(lambda m, i, out: out * 2)
    return model


def instance_forward() -> nn.Module:
    model = simple()
    inner = model[0].forward
    model[0].forward = lambda x: inner(x) * 2
    return model


FALLBACKS: dict[str, Callable[[], Any]] = {
    "hook": hooked,
    "forward of an instance": instance_forward,
    "control flow": Branching,
    "in place": lambda: Reused().double().eval(),
    "disagreeing": lambda: Lying().double().eval(),
    "function": lambda: functools.partial(lambda model, x: model(x), simple()),
    "no convolution": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 23 * 19, 3)).double(),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_falls_back_to_the_plain_engine(name: str, used: list[bool]) -> None:
    model, x = FALLBACKS[name](), picture(1)
    target = None if name == "control flow" else 0
    made, plain = both(lambda: Occlusion(model).attribute(x, (3, 5, 5), 5, target=target, progress=False))
    assert used == [False, False]
    assert torch.equal(made, plain)


def test_falls_back_for_other_inputs_arguments_and_wide_features(used: list[bool]) -> None:
    model, x = simple(), picture(1)

    def two(a: Tensor, b: Tensor) -> Tensor:
        return model(a) + b

    Occlusion(two).attribute(x, (3, 5, 5), 5, target=0, additional_forward_args=torch.ones(1, 1), progress=False)
    mask = (torch.arange(23)[:, None] % 3).expand(23, 19)[None, None]  # stripes all over the picture
    FeatureAblation(model).attribute(x, target=0, feature_mask=mask, progress=False)
    half = copy.deepcopy(model).bfloat16()
    Occlusion(half).attribute(x.bfloat16(), (3, 5, 5), 5, target=0, progress=False)
    assert used == [False, False, False]


def test_few_features_and_small_gains_are_left_alone(monkeypatch: pytest.MonkeyPatch, used: list[bool]) -> None:
    model, x = simple(), picture(1)
    for name in ("MIN_GAIN", "MIN_FEATURES", "MIN_ELEMENTS", "MIN_PRODUCTS"):
        monkeypatch.setattr(engine, name, 10**15)
        Occlusion(model).attribute(x, (3, 5, 5), 5, target=0, progress=False)
        monkeypatch.setattr(engine, name, 0)
    assert used == [False] * 4


class Remembering(nn.Module):
    """Sets, counts and appends while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.seen, self.calls, self.last = nn.Conv2d(3, 2, 3), [], 0, None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        self.calls += 1
        self.seen.append(y)
        self.last = y
        return y.relu().mean((2, 3))


def test_the_users_model_stays_as_it_was(used: list[bool]) -> None:
    model, x = Remembering().double(), picture(1)
    model.train()
    before = copy.deepcopy(model.state_dict())
    Occlusion(model).attribute(x, (3, 5, 5), 5, target=0, progress=False)
    assert used == [True]
    assert model.training and model.conv.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.last is None and all(type(t) is Tensor for t in model.seen)
    assert model.conv.weight.is_contiguous()


def test_threads_share_the_work_and_leave_the_setting(used: list[bool]) -> None:
    model, x, threads = net(*NETS["residual"]()), picture(1), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        made, plain = both(lambda: Occlusion(model).attribute(x, (3, 2, 2), 2, target=0, progress=False))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert same(made, plain)
    assert used == [True, False]


def test_a_batch_size_of_the_user_and_a_lack_of_memory_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = net(*NETS["residual"]()), picture(1)
    sizes: list[int] = []
    original = Incremental.selected

    def selected(self: Incremental, rows: list[tuple[int, int, int]]) -> Tensor:
        sizes.append(len(rows))
        if len(rows) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return original(self, rows)

    monkeypatch.setattr(Incremental, "selected", selected)
    made, plain = both(lambda: Occlusion(model).attribute(x, (3, 5, 5), 5, target=0, batch_size=6, progress=False))
    assert sizes[:2] == [6, 3] and max(sizes[1:]) == 3
    assert same(made, plain)


def test_bounds_of_segments() -> None:
    mask = torch.tensor([[4, 4, 9], [4, 7, 9], [4, 4, 4]])[None, None]
    x = torch.zeros(2, 3, 12, 12)
    boxes = engine.Boxes.of(x, [x], MaskFeatures((x,), F.pad(mask, (0, 9, 0, 9), value=4)))
    assert boxes is not None
    corners = [[int(c[k, 0]) for c in (boxes.top, boxes.left, boxes.bottom, boxes.right)] for k in range(3)]
    assert corners == [[0, 0, 12, 12], [1, 1, 2, 2], [0, 2, 2, 3]]


def test_costs_of_a_network_layer_by_layer() -> None:
    pytest.importorskip("torchvision")
    from torchvision.models import resnet18, vit_b_16

    costs = occlusion_cost(resnet18().eval(), (3, 224, 224), 15, 56 // 4)
    assert costs is not None
    assert costs[0].layer == "conv1" and costs[0].plain == 112 * 112 * 64 * 3 * 49
    assert all(0 < c.incremental <= 1.0001 * c.plain for c in costs)
    assert sum(c.plain for c in costs) > 2 * sum(c.incremental for c in costs)
    vit = occlusion_cost(vit_b_16().eval(), (3, 224, 224), 15, 15)
    assert vit is not None
    assert sum(c.plain for c in vit) < 1.05 * sum(c.incremental for c in vit)
