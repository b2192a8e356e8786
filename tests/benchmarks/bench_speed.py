"""Speed against Captum 0.9: interleaved pairs in one process, the median of the ratios, and the maps compared.

Run: make bench PYTEST_ARGS="-k speed"   (about ten minutes on two cores)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import captum.attr
import pytest
import torch
from torch import Tensor, nn

import interp_plugins.attr

PAIRS = 5


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """ResNet-34 with seeded random weights; speed does not depend on training."""
    from torchvision.models import resnet34

    torch.set_num_threads(2)
    torch.manual_seed(0)
    return resnet34().eval()


def compare(name: str, theirs: Callable[[], Tensor], ours: Callable[[], Tensor]) -> float:
    """Run both in turn, print the figures, return the median ratio theirs / ours."""
    ratios, times, maps = [], [], []
    for _ in range(PAIRS):
        seconds = []
        for run in (theirs, ours):
            begin = time.perf_counter()
            maps.append(run())
            seconds.append(time.perf_counter() - begin)
        times.append(seconds)
        ratios.append(seconds[0] / seconds[1])
    difference = float((maps[0] - maps[1]).norm() / maps[0].norm())
    captum_s, our_s = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(ratios)
    print(
        f"\n{name}: Captum {captum_s:.2f} s, here {our_s:.2f} s, ratio {ratio:.2f} "
        f"(range {min(ratios):.2f} to {max(ratios):.2f}, {PAIRS} pairs), maps differ by {difference:.1e}"
    )
    return ratio


@pytest.mark.filterwarnings("ignore")
def test_speed_integrated_gradients_50_steps(net: nn.Module) -> None:
    x = torch.randn(1, 3, 224, 224)
    shared = {"target": 3, "n_steps": 50}
    compare(
        "IntegratedGradients, resnet34, 224 x 224, 50 steps, both at their defaults",
        lambda: captum.attr.IntegratedGradients(net).attribute(x, **shared),
        lambda: interp_plugins.attr.IntegratedGradients(net).attribute(x, progress=False, **shared),
    )


@pytest.mark.filterwarnings("ignore")
def test_speed_occlusion_15_8(net: nn.Module) -> None:
    x = torch.randn(1, 3, 224, 224)
    shared = {"target": 3, "sliding_window_shapes": (3, 15, 15), "strides": (3, 8, 8)}
    compare(
        "Occlusion, resnet34, 224 x 224, window 15, stride 8, both at their defaults (same windows: border='clip')",
        lambda: captum.attr.Occlusion(net).attribute(x, **shared),
        lambda: interp_plugins.attr.Occlusion(net).attribute(x, border="clip", progress=False, **shared),
    )
