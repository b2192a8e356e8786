"""Networks as people have them: a picture of a unit, and the model bit for bit as it was."""

from typing import Any

import pytest
import torch
from torch import nn

from interp_plugins import visualize

timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision.models")

NETS: dict[str, tuple[Any, str, int]] = {
    "resnet18": (lambda: models.resnet18(weights=None), "layer2", 32),
    "googlenet": (lambda: models.googlenet(weights=None, init_weights=False, aux_logits=False), "inception3a", 48),
    "efficientnet": (lambda: timm.create_model("tf_efficientnet_lite0"), "blocks.2.1", 32),
    "convnext": (lambda: timm.create_model("convnext_atto"), "stages.1", 32),
    "vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3), "blocks.1", 32),
    "swin": (lambda: models.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=5), "features.1", 32),
    "squeezenet": (lambda: models.squeezenet1_1(weights=None), "features.4", 32),
    "mobilenet": (lambda: models.mobilenet_v3_small(weights=None), "features.3", 32),
    "densenet": (lambda: models.DenseNet(8, (2, 2), 16), "features.denseblock2", 32),
    "segmentation": (lambda: models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None),
                     "backbone.4", 32),
}  # fmt: skip


@pytest.mark.parametrize("name", list(NETS))
def test_an_architecture_gives_pictures_and_stays(name: str) -> None:
    make, layer, size = NETS[name]
    torch.manual_seed(0)
    net: nn.Module = make().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = visualize(net, layer, channel=[0, 3], like=torch.zeros(1, 3, size, size), steps=12, progress=False)
    assert found.images.shape == (2, 3, size, size) and found.activation.isfinite().all()
    rise = [h[-1] - h[0] for h, s in zip(found.history, found.state, strict=True) if s != "dead"]
    assert not rise or all(r > 0 for r in rise)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is None for p in net.parameters()) and all(m.training for m in net.modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    assert not any(getattr(m, h) for m in net.modules() for h in hooks)
