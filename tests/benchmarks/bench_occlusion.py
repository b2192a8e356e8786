"""Occlusion and FeatureAblation against Captum 0.9, at its default and at its best `perturbations_per_eval`.

Interleaved: each round runs here, Captum's default, and Captum's swept settings one after the other; ratios are taken
within a round. W3b has 9,025 windows, which take Captum some ten minutes a time. Its cost per window does not depend on
the window, so there it slides 64 larger ones over the same picture and is scaled to 9,025; ours runs all of them.

Run: make bench PYTEST_ARGS="-k occlusion"
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
from interp_plugins.core.accelerate import acceleration

ROUNDS = 3
SWEEP = (2, 4, 8, 16, 32)


def compare(
    name: str, ours: Callable[[], Tensor], theirs: Callable[[int], Tensor], *, scale: float = 1.0, same: bool = True
) -> None:
    """Print medians and ranges of the ratios, and how far the maps are apart where they are the `same` map."""
    rounds: list[dict[int, float]] = []
    maps: dict[int, Tensor] = {}
    for _ in range(ROUNDS):
        seconds = {}
        for setting in (0, 1, *SWEEP):
            begin = time.perf_counter()
            maps[setting] = theirs(setting) if setting else ours()
            seconds[setting] = (time.perf_counter() - begin) * (scale if setting else 1)
        rounds.append(seconds)
    best = min(SWEEP, key=lambda s: statistics.median(r[s] for r in rounds))
    print(f"\n{name}: here {statistics.median(r[0] for r in rounds):.2f} s")
    for what, setting in (("default", 1), (f"best, {best} per pass", best)):
        ratios = [r[setting] / r[0] for r in rounds]
        print(f"  Captum {what}: {statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})")
    if same:
        with acceleration(False):
            plain = ours()
        print(f"  maps differ by {apart(maps[0], maps[1]):.1e} from Captum, {apart(maps[0], plain):.1e} from plain")


def apart(a: Tensor, b: Tensor) -> float:
    """Relative L2 distance."""
    return float((a - b).norm() / b.norm())


def network(name: str) -> nn.Module:
    """Seeded random weights; speed does not depend on training."""
    import torchvision

    torch.set_num_threads(2)
    torch.manual_seed(0)
    return getattr(torchvision.models, name)().eval()


def occlusion(name: str, net: nn.Module, x: Tensor, window: int, stride: int) -> None:
    settings = {"target": 3, "sliding_window_shapes": (3, window, window), "strides": (3, stride, stride)}
    compare(
        name,
        lambda: interp_plugins.attr.Occlusion(net).attribute(x, border="clip", progress=False, **settings),
        lambda n: captum.attr.Occlusion(net).attribute(x, perturbations_per_eval=n, **settings),
    )


@pytest.mark.filterwarnings("ignore")
def test_w3_occlusion_resnet34_224() -> None:
    occlusion(
        "W3: Occlusion 15/8, resnet34, 224 x 224, 784 windows", network("resnet34"), torch.randn(1, 3, 224, 224), 15, 8
    )


@pytest.mark.filterwarnings("ignore")
def test_w4_feature_ablation_resnet18_64_segments() -> None:
    net, x = network("resnet18"), torch.randn(1, 3, 224, 224)
    cells = torch.arange(224) // 28
    mask = (8 * cells[:, None] + cells)[None, None]
    compare(
        "W4: FeatureAblation, resnet18, 224 x 224, 64 segments",
        lambda: interp_plugins.attr.FeatureAblation(net).attribute(x, target=3, feature_mask=mask, progress=False),
        lambda n: captum.attr.FeatureAblation(net).attribute(x, target=3, feature_mask=mask, perturbations_per_eval=n),
    )


@pytest.mark.filterwarnings("ignore")
def test_w3b_occlusion_resnet18_384() -> None:
    net, x = network("resnet18"), torch.randn(1, 3, 384, 384)
    few = {"target": 3, "sliding_window_shapes": (3, 48, 48), "strides": (3, 48, 48)}
    compare(
        "W3b: Occlusion 8/4, resnet18, 384 x 384, 9025 windows",
        lambda: interp_plugins.attr.Occlusion(net).attribute(x, (3, 8, 8), (3, 4, 4), target=3, progress=False),
        lambda n: captum.attr.Occlusion(net).attribute(x, perturbations_per_eval=n, **few),
        scale=9025 / 64,
        same=False,
    )
