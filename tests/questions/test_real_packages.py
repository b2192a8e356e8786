"""Models of real packages, explained as their users call them; a training with explanations in it is bit-identical."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp_plugins as ip

pytestmark = pytest.mark.slow


def same_training(make: Callable[[], nn.Module], loss: Callable[[nn.Module], Tensor], explain: Any) -> bool:
    """Whether three steps give the same bits with an explanation after each as without."""
    found = []
    for explained in (False, True):
        torch.manual_seed(0)
        model = make().train()
        opt, seen = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05), []
        for _ in range(3):
            value = loss(model)
            opt.zero_grad()
            value.backward()
            opt.step()
            seen.append(value.detach())
            if explained:
                explain(model)
        found.append((seen, [p.detach() for p in model.parameters()]))
    (a, b), (c, d) = found
    return all(map(torch.equal, [*a, *b], [*c, *d]))


def test_timm_trains_the_same_with_checkpoints() -> None:
    timm = pytest.importorskip("timm")

    def make() -> nn.Module:
        torch.manual_seed(0)
        net = timm.create_model("resnet10t", num_classes=3)
        net.set_grad_checkpointing(True)
        return net

    x = torch.randn(2, 3, 32, 32)
    methods = ("saliency", "guided_backprop", "gradcam")
    assert same_training(make, lambda m: m(x).square().mean(), lambda m: ip.explain(m, x, methods, target=1))


def test_a_detection_model_of_torchvision() -> None:
    detection = pytest.importorskip("torchvision.models.detection")
    torch.manual_seed(0)
    net = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    x = torch.rand(1, 3, 96, 96)
    exp = ip.explain(
        net, x, "feature_ablation", target=lambda o: o[:, 0, 4],
        feature_mask=(torch.arange(96) // 48)[:, None].expand(1, 3, 96, 96),
    )[0]  # fmt: skip
    assert exp.attributions.shape == x.shape
