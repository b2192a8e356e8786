"""The table of docs/rules.md: does DeepLift add up to the change of the score, and LRP-epsilon to the score?

`pytest tests/benchmarks/bench_rules.py -s` prints it (minutes). Weights are random, float64; inputs 64 x 64 or the
smallest that the network takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins.attr import LRP, DeepLift, LayerDeepLift, LayerLRP
from interp_plugins.core.report import collect


class BertLike(nn.Module):
    """Token ids, learned positions, four post-norm encoder layers with GELU, a pooler with tanh, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(  # type: ignore[call-arg]  # of the base class
            vocab_size=200, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128,
            max_position_embeddings=32, num_labels=5,
        )  # fmt: skip
        self.bert = BertForSequenceClassification(config)
        self.embedding = self.bert.bert.embeddings.word_embeddings

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.bert(input_ids=ids).logits
        return out


class Lstm(nn.Module):
    """Token ids, two bidirectional LSTM layers, a classifier of the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(200, 32)
        self.lstm, self.head = nn.LSTM(32, 48, 2, bidirectional=True, batch_first=True), nn.Linear(96, 5)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(self.embedding(ids))[0][:, -1])
        return out


def timm_model(name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=5, **kwargs)
        return model

    return build


def torchvision_model(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision.models

        model: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=5)
        return model

    return build


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-18": torchvision_model("resnet18"),
    "VGG-11": torchvision_model("vgg11"),
    "DenseNet-121": torchvision_model("densenet121"),
    "EfficientNet-Lite0": timm_model("tf_efficientnet_lite0"),
    "ConvNeXt-tiny": timm_model("convnext_tiny"),
    "ViT-tiny/16": timm_model("vit_tiny_patch16_224", img_size=64),
    "Swin-tiny": timm_model("swin_tiny_patch4_window7_224", img_size=64, window_size=4),
    "BERT-like (4 layers)": BertLike,
    "LSTM (2 layers, both ways)": Lstm,
}


def varied(model: nn.Module) -> nn.Module:
    """Biases and running statistics that are not zero and one, so that they matter."""
    with torch.no_grad():
        for module in model.modules():
            bias = getattr(module, "bias", None)
            if isinstance(bias, Tensor):
                bias.normal_(0, 0.05)
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model.double().eval()


def without_biases(model: nn.Module) -> nn.Module:
    """Everything that is added without coming from the input set to zero."""
    with torch.no_grad():
        for module in model.modules():
            for name in ("bias", "running_mean", "in_proj_bias"):
                constant = getattr(module, name, None)
                if isinstance(constant, Tensor):
                    constant.zero_()
        for name, parameter in model.named_parameters():
            if name.endswith(("pos_embed", "cls_token", "bias_ih_l0", "position_embeddings.weight",
                              "token_type_embeddings.weight")) or ".bias_" in name:  # fmt: skip
                parameter.zero_()
    return model


def row(name: str) -> tuple[float, float, float, float]:
    """Relative completeness error of DeepLift; LRP: error with all shares counted, bias share, error without biases."""
    torch.manual_seed(0)
    model = varied(NETWORKS[name]()).requires_grad_(False)
    token_ids = hasattr(model, "embedding")
    x = torch.randint(1, 200, (2, 12)) if token_ids else torch.randn(2, 3, 64, 64, dtype=torch.float64)
    at: tuple[Any, ...] = (model.embedding,) if token_ids else ()
    deep_lift, lrp = (LayerDeepLift, LayerLRP) if token_ids else (DeepLift, LRP)
    baseline: Any = 0
    _, delta = deep_lift(model, *at).attribute(x, baseline, target=1, return_convergence_delta=True, progress=False)
    base = torch.zeros_like(x)
    change = (model(x) - model(base))[:, 1]
    completeness = float((delta / change).abs().max())

    one = x[:1]
    with collect() as report:
        _, missing = lrp(model, *at, account=True).attribute(one, target=1, return_convergence_delta=True)
    score = float(model(one)[0, 1])
    biases, stabilizers = (score * report[k] for k in ("relevance_to_biases", "relevance_to_stabilizers"))
    counted = abs(float(missing) - biases - stabilizers) / abs(score)

    without_biases(model)
    _, rest = lrp(model, *at).attribute(one, target=1, return_convergence_delta=True)
    score_without = float(model(one)[0, 1])
    return completeness, counted, biases / score, abs(float(rest) / score_without)


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str) -> None:
    begin = time.perf_counter()
    completeness, counted, bias, bias_free = row(name)
    seconds = time.perf_counter() - begin
    print(f"\n| {name} | {completeness:.0e} | {counted:.0e} | {bias:+.2f} | {bias_free:.0e} | ({seconds:.0f} s)")
    assert completeness < 1e-9 and counted < 1e-5 and bias_free < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_reveal_cancel_is_complete(name: str) -> None:
    torch.manual_seed(0)
    model = varied(NETWORKS[name]()).requires_grad_(False)
    token_ids = hasattr(model, "embedding")
    x = torch.randint(1, 200, (2, 12)) if token_ids else torch.randn(2, 3, 64, 64, dtype=torch.float64)
    method = LayerDeepLift(model, model.embedding) if token_ids else DeepLift(model)
    how: dict[str, Any] = {"rule": "reveal_cancel", "return_convergence_delta": True, "progress": False}
    _, delta = method.attribute(x, 0, target=1, **how)
    change = (model(x) - model(torch.zeros_like(x)))[:, 1]
    error = float((delta / change).abs().max())
    print(f"{name}: {error:.0e}")
    assert error < 1e-11
