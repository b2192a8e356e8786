"""Linear layers with their matrix in oneDNN's layout: the same layers, chosen where that pays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_plugins import acceleration
from interp_plugins.attr import IntegratedGradients, KernelShap, LayerIntegratedGradients
from interp_plugins.engine.kernels import weight_cache
from interp_plugins.engine.kernels.product import PACKED, Product
from interp_plugins.engine.kernels.weight_cache import Matrix
from interp_plugins.engine.plan import linear_map
from interp_plugins.engine.plan.linears import PackedLinear

packs = pytest.mark.skipif(PACKED.refused() is not None, reason=f"packed products: {PACKED.refused()}")


class Mixer(nn.Module):
    """Tokens through two wide layers, the second tied to the head by its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(20, 256)
        self.wide, self.narrow = nn.Linear(256, 512), nn.Linear(512, 256, bias=False)
        self.head = nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.narrow(F.gelu(self.wide(x)))
        return self.head(x.mean(1)) + F.linear(x.mean(1), self.narrow.weight.t()[:1].expand(3, -1))


@pytest.fixture
def mixer() -> tuple[Mixer, Tensor]:
    torch.manual_seed(0)
    return Mixer().eval(), torch.randn(2, 30, 20)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    call = Product.__call__
    monkeypatch.setattr(Product, "__call__", lambda self, x, bias: (shapes.append(x.shape), call(self, x, bias))[1])
    return shapes


@packs
@pytest.mark.parametrize("bias", [False, True])
def test_derivatives_of_every_order_are_those_of_the_layer(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(5, 7, bias=bias).requires_grad_(False)
    mine = PackedLinear.of(linear, Matrix(linear.weight))
    for x in (torch.randn(5), torch.randn(4, 3, 5), torch.randn(5, 2).t(), torch.randn(0, 5)):
        x.requires_grad_()
        assert torch.allclose(mine(x), linear(x), atol=1e-6)

        def derivatives(f: Callable[[Tensor], Tensor], x: Tensor = x) -> list[Tensor]:
            (once,) = torch.autograd.grad(f(x).pow(3).sum(), x, create_graph=True)
            return [once, *torch.autograd.grad(once.pow(2).sum(), x)]

        for found, expected in zip(derivatives(mine), derivatives(linear), strict=True):
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


@packs
def test_maps_are_those_of_the_plain_engine(mixer: tuple[Mixer, Tensor], used: list[tuple[int, ...]]) -> None:
    net, x = mixer
    cells = torch.arange(30)[None, :, None].expand(1, 30, 20)
    runs: list[Callable[[], Tensor]] = [
        lambda: IntegratedGradients(net).attribute(x, target=1, n_steps=200, progress=False),
        lambda: KernelShap(net).attribute(x, target=1, feature_mask=cells, n_samples=400, seed=0, progress=False),
        lambda: LayerIntegratedGradients(net, net.embed).attribute(x, target=1, n_steps=200, progress=False),
    ]
    for run in runs:
        used.clear()
        planned = run()
        assert {s[-1] for s in used} >= {256, 512}
        used.clear()
        with acceleration(False):
            plain = run()
        assert not used
        assert (planned - plain).norm() < 1e-5 * plain.norm()


@packs
def test_it_is_used_where_it_pays(
    mixer: tuple[Mixer, Tensor], used: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = mixer

    def widths(n_steps: int) -> set[int]:
        used.clear()
        IntegratedGradients(net).attribute(x, target=1, n_steps=n_steps, progress=False)
        return {s[-1] for s in used}

    assert not widths(8)
    with monkeypatch.context() as patch:
        patch.setattr(linear_map, "_MOST_BYTES", 0)
        assert not widths(200)
    net.wide.register_forward_hook(lambda module, args, output: output * 2)
    assert widths(200) == {512, 256}  # the other layer, forward and backward
    net.narrow.register_forward_hook(lambda module, args, output: output * 2)
    assert not widths(200)


@packs
def test_a_changed_weight_is_seen(mixer: tuple[Mixer, Tensor]) -> None:
    net, x = mixer
    run = lambda: IntegratedGradients(net).attribute(x, target=1, n_steps=200, progress=False)  # noqa: E731
    first, kept = run(), len(weight_cache._kept)
    assert kept >= 2
    net.wide.weight.data[3] += 1
    second = run()
    with acceleration(False):
        plain = run()
    assert (second - first).norm() > 1e-3 * plain.norm()
    assert (second - plain).norm() < 1e-5 * plain.norm()
