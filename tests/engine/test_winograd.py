"""Winograd's 3 x 3 convolution and its stand-in in a planned forward: equal to the direct one, to any derivative."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_plugins import acceleration
from interp_plugins.attr import IntegratedGradients, KernelShap
from interp_plugins.core.forward import Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.target import as_target
from interp_plugins.engine.kernels import weight_cache, winograd
from interp_plugins.engine.kernels.weight_cache import Kernels, WeightCache
from interp_plugins.engine.kernels.winograd import WINOGRAD, Winograd
from interp_plugins.engine.plan import convolutions, linear_map
from interp_plugins.engine.plan.candidates import Loop
from interp_plugins.engine.plan.planned import _plan

chosen_here = pytest.mark.skipif(WINOGRAD.refused() is not None, reason=f"Winograd's kernels: {WINOGRAD.refused()}")


def direct(x: Tensor, weight: Tensor, padding: Any = 1) -> Tensor:
    return F.conv2d(x.permute(0, 3, 1, 2), weight, padding=padding).permute(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(4, 4), (5, 9), (7, 14), (1, 2)])
def test_it_is_the_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        x, weight = torch.randn(5, *size, 6, dtype=dtype), torch.randn(7, 6, 3, 3, dtype=dtype)
        made = Winograd(weight, 5)(x, (2, 2), (size[0] + 2, size[1] + 2))
        assert torch.allclose(made, direct(x, weight, 2), atol=tolerance)


@pytest.mark.parametrize("count", [3, 10, 70])
@pytest.mark.parametrize("packed", [False, True])
def test_any_number_of_rows_and_tiles_in_any_layout(packed: bool, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_can_pack", lambda weight: packed)
    torch.manual_seed(0)
    weight, bias = torch.randn(5, 3, 3, 3), torch.randn(5)
    one = Winograd(weight, count)
    for rows, height in ((1, 3), (9, 14), (2, 41)):
        x = torch.randn(rows, 3, height, 10).permute(0, 2, 3, 1)
        y = torch.full((rows, 5, height, 10), torch.nan).permute(0, 2, 3, 1)
        one.into(y, x, (1, 1), bias)
        assert torch.allclose(y, direct(x, weight) + bias, atol=1e-4)
    assert torch.allclose(one(x, (-1, 0), (5, 8)), direct(x, weight, 0)[:, 1:6], atol=1e-4)


@chosen_here
@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_are_laid_out_for_the_threads_that_multiply(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    laid: list[int] = []
    lay = winograd._Packed._lay

    def noted(self: winograd._Packed, u: Tensor) -> tuple[int, Tensor]:
        made = lay(self, u)
        laid.append(made[0])
        return made

    monkeypatch.setattr(winograd._Packed, "_lay", noted)
    x, weight = torch.randn(2, 7, 8, 32), torch.randn(32, 32, 3, 3)
    fast, before = Winograd(weight, 5), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        made = [fast(x, (1, 1), (7, 8)) for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(made[0], direct(x, weight), atol=1e-4) and torch.equal(*made)
    assert laid == [before] + [threads] * (threads != before)


def test_rounding_is_about_twice_that_of_the_direct_sum() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(4, 12, 12, 128).relu(), torch.randn(128, 128, 3, 3) / 34
    truth = direct(x.double(), weight.double())
    errors = [
        (made - truth).square().mean().sqrt() for made in (direct(x, weight), Winograd(weight, 18)(x, (1, 1), (12, 12)))
    ]
    assert errors[1] < 4 * errors[0]
    assert errors[1] < 2e-6 * truth.square().mean().sqrt()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    x, one = torch.randn(6, 9, 9, 4), Winograd(torch.randn(4, 4, 3, 3), 9)
    alone = one(x[:1], (1, 1), (9, 9))
    x[1:] = torch.nan
    assert torch.allclose(one(x, (1, 1), (9, 9))[:1], alone, atol=1e-5)


# In a planned forward


@pytest.mark.parametrize("direct_sum", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 2, (0, 1), "same"])
def test_derivatives_of_every_order_are_those_of_the_convolution(padding: Any, direct_sum: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=padding).double()
    conv.requires_grad_(False)
    mine = convolutions.WinogradConv2d.of(conv, Kernels(conv.weight, 2))
    if direct_sum:
        mine.direction.fewest = 100
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(mine(x), conv(x), atol=1e-12)
    assert mine(x).is_contiguous(memory_format=torch.channels_last)

    def derivatives(f: Callable[[Tensor], Tensor]) -> list[Tensor]:
        (once,) = torch.autograd.grad(f(x).pow(3).sum(), x, create_graph=True)
        (twice,) = torch.autograd.grad(once.pow(3).sum(), x, create_graph=True)
        return [once, twice, *torch.autograd.grad(twice.pow(2).sum(), x)]

    for found, expected in zip(derivatives(mine), derivatives(conv), strict=True):
        assert torch.allclose(found, expected, rtol=1e-10)


class Block(nn.Module):
    """Works in place on convolutions' outputs."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 4)
        self.conv1, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.relu = nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True)
        self.last, self.head = nn.Conv2d(width, 8, 3, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.relu(self.norm(self.conv1(x)))
        y = self.conv2(y)
        y += x
        return self.head(self.last(self.relu(y)).mean((2, 3)))


@pytest.fixture
def block() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = Block().eval()
    net.norm.running_var.uniform_(0.5, 2)
    return net, torch.randn(1, 3, 65, 65)


def kept_of(net: nn.Module) -> list[Kernels | None]:
    with frozen(net):
        mine = WeightCache.of_model()
    return [mine._known.get(("planned", id(net.get_parameter(f"conv{i}.weight")))) for i in (1, 2)]


def chosen(net: nn.Module, x: Tensor, rows: int) -> list[str]:
    forward = Forward.of(net, len(x), as_target(1, len(x)))
    with frozen(net):
        plan = _plan(Loop(forward, (x,), rows, 8, None, first=True, backward=True))
    assert plan is not None and plan.view is not None
    return [name for name, m in plan.view.module(net).named_modules() if isinstance(m, convolutions.WinogradConv2d)]


@chosen_here
def test_it_is_chosen_where_it_pays(block: tuple[nn.Module, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = block
    assert chosen(net, x, 12) == []  # the kernels' transform would cost more
    assert chosen(net, x, 100) == ["conv1", "conv2"]
    assert chosen(net, x, 12) == ["conv1", "conv2"]  # they are kept
    assert chosen(net.double(), x.double(), 100) == []


@chosen_here
def test_kernels_that_are_kept_at_most_double_in_a_call(
    block: tuple[nn.Module, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = block
    monkeypatch.setattr(linear_map, "_MOST_BYTES", 4 * 4 * net.conv1.weight.numel())
    assert len(chosen(net, x, 100)) == 1
    assert len(chosen(net, x, 100)) == 2
    monkeypatch.setattr(acceleration, "max_bytes", 0)
    with torch.no_grad():
        net.conv1.weight[0] += 1
        net.conv2.weight[0] += 1
    assert [len(chosen(net, x, 100)) for _ in range(3)] == [1, 1, 1]  # none are kept


@chosen_here
def test_all_models_share_one_bound_that_counts_both_ways(
    block: tuple[nn.Module, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = block
    gc.collect()
    others = sum(one.nbytes for one in weight_cache._kept)
    monkeypatch.setattr(acceleration, "max_bytes", others + 10 * net.conv1.weight.nbytes)
    assert len(chosen(net, x, 100)) == 2
    kept = [one for one in kept_of(net) if one is not None]
    assert len(kept) == 1  # the weight and two forms, four times as large: before they are made
    assert kept[0].nbytes == 9 * net.conv1.weight.nbytes


@chosen_here
def test_kernels_are_given_again_only_for_the_same_weight(block: tuple[nn.Module, Tensor]) -> None:
    net, x = block
    run = lambda: IntegratedGradients(net).attribute(x, target=1, n_steps=100, progress=False)  # noqa: E731
    run()
    before = kept_of(net)
    first = run()
    assert kept_of(net) == before
    assert None not in before
    with torch.no_grad():
        net.conv1.weight.data[3, 5, 1, 1] = 0.5  # no version of the parameter tells of that
        net.norm.running_mean[7] += 3  # changes a bias only
    second = run()
    assert [a is b for a, b in zip(kept_of(net), before, strict=True)] == [False, True]
    with acceleration(False):
        plain = run()
    assert (second - first).norm() > 1e-3 * plain.norm()
    assert (second - plain).norm() < 1e-4 * plain.norm()


@chosen_here
def test_kernels_go_with_the_model(block: tuple[nn.Module, Tensor]) -> None:
    net, x = block
    gc.collect()
    others = len(weight_cache._kept)
    alone = copy.deepcopy(net)
    assert chosen(alone, x, 100)
    assert len(weight_cache._kept) == others + 2
    del alone
    gc.collect()
    assert len(weight_cache._kept) == others


@chosen_here
def test_maps_are_those_of_the_plain_engine(block: tuple[nn.Module, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = block
    used: list[int] = []
    into = Winograd.into
    monkeypatch.setattr(Winograd, "into", lambda self, *args: (used.append(1), into(self, *args))[1])
    cells = (torch.arange(65) // 20)[None, None, None].expand(1, 1, 65, 65)
    runs: list[Callable[[], Tensor]] = [
        lambda: IntegratedGradients(net).attribute(x, target=1, n_steps=100, progress=False),
        lambda: KernelShap(net).attribute(x, target=1, feature_mask=cells, n_samples=100, seed=0, progress=False),
    ]
    for run in runs:
        used.clear()
        planned = run()
        assert used
        used.clear()
        with acceleration(False):
            plain = run()
        assert not used
        assert (planned - plain).norm() < 1e-4 * plain.norm()
