"""How a run is cut: for the processes, and for the memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from interp_plugins.core.batching import samples_chunk
from interp_plugins.store import explain_dataset
from interp_plugins.store import run as run_module


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [1, 11, 24, 576, 1000, 12345])
def test_every_process_gets_as_many_units(size: int, world: int) -> None:
    unit = run_module._even(size, max(8, world), world)
    units = -(-size // unit)
    shares = [sum(min(unit, size - u * unit) for u in range(rank, units, world)) for rank in range(world)]
    assert 1 <= unit <= 64 and sum(shares) == size
    assert max(shares) - min(shares) <= unit
    if size >= 64 * 8:  # with units of 64 the first of two processes had 25 % more of 576
        assert max(shares) <= 1.05 * size / world


@pytest.mark.parametrize(("shape", "rows"), [((64, 1, 28, 28), 64), ((64, 3, 224, 224), 8), ((8, 3, 384, 384), 8)])
def test_large_pictures_go_in_small_passes_on_cpus(shape: tuple[int, ...], rows: int) -> None:
    assert min(samples_chunk([torch.empty(shape)]), len(torch.empty(shape))) == rows


def test_a_run_of_large_pictures_is_explained_by_eight_and_keeps_what_each_gets_alone(run_path: Any) -> None:
    seen: list[int] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 7, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return self.conv(x).relu().mean((2, 3))

    x = torch.randn(20, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    net = Net()
    store = explain_dataset(net, [(one, 0) for one in x], run_path, "saliency", unit_size=20, progress=False)
    assert max(seen) <= 8
    alone = x[17:18].clone().requires_grad_()
    output = net(alone)
    (gradient,) = torch.autograd.grad(output[0, output[0].argmax()], alone)
    torch.testing.assert_close(torch.from_numpy(store.array("saliency")[17]), gradient[0].abs())
