"""When an incremental plan is made, kept, and not made."""

from __future__ import annotations

import linecache

import pytest
import torch
from torch import Tensor, nn

from interp_plugins.attr import Occlusion
from interp_plugins.core.features import Windows
from interp_plugins.core.forward import Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.target import as_target
from interp_plugins.engine import acceleration, incremental_for
from interp_plugins.engine.incremental import checks, engine
from interp_plugins.engine.incremental.trace import trace


@pytest.fixture(autouse=True)
def _even_small_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny nets gain little; what is tested is exactness."""
    for name in ("MIN_GAIN", "MIN_FEATURES", "MIN_ELEMENTS", "MIN_PRODUCTS"):
        monkeypatch.setattr(engine, name, 0)


def small() -> nn.Sequential:
    """A convolution, its normalisation, and a head."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(*layers).double().eval()


def picture(n: int) -> Tensor:
    return torch.randn(n, 3, 23, 19, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def same(made: Tensor, plain: Tensor) -> bool:
    return bool((made - plain).abs().max() <= 1e-10 * plain.abs().max()) and bool(plain.abs().max() > 0)


class Merging(nn.Module):
    """One row for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu().mean((2, 3)).mean(0, keepdim=True)


def test_a_model_that_merges_the_batch_is_left_alone() -> None:
    model, x = Merging().double(), picture(1)
    assert incremental_for(Forward.of(model, 1, as_target(0, 1)), (x,), (x * 0,), Windows((x,), (3, 5, 5), 5)) is None


def test_no_code_of_a_plan_is_kept() -> None:
    model, x = small(), picture(1)
    before = len(linecache.cache)
    for _ in range(3):
        Occlusion(model).attribute(x, (3, 5, 5), 5, target=1, progress=False)
    assert len(linecache.cache) == before


def test_a_plan_is_made_once_while_a_model_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small(), picture(2)
    traced: list[nn.Module] = []
    monkeypatch.setattr(checks, "trace", lambda m: traced.append(m) or trace(m))

    def run() -> Tensor:
        return Occlusion(model).attribute(x, (3, 5, 5), 5, target=1, progress=False)

    with frozen(model):
        first, second = run(), run()
        with torch.no_grad():
            model[0].weight.mul_(2)  # then it is another model,
        third = run()
        handle = model[0].register_forward_hook(lambda m, i, out: out / 2)
        fourth = run()  # and with a hook one that cannot be traced
        handle.remove()
    assert len(traced) == 2
    assert same(first, second)
    with acceleration(False):
        assert same(third, run())
        model[0].weight.data.mul_(0.5)
        model[0].bias.data.mul_(0.5)
        assert same(fourth, run())
