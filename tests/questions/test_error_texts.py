"""Frequent mistakes, and the sentence that each gets: what came, and what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import interp_plugins as ip
from interp_plugins.attr import DeepLift, FeatureAblation, IntegratedGradients, KernelShap, Lime, Saliency
from interp_plugins.attr.language.llm import score_tokens
from interp_plugins.core.errors import InterpError, InterpWarning, ModelError, TargetError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()


class Draws(nn.Module):
    """A net that draws numbers in its forward pass."""

    def __init__(self, noise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.noise = nn.Linear(6, 8), nn.Linear(8, 3), noise

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.noise(torch.relu(self.a(x))))


@pytest.mark.parametrize(
    "noise",
    [
        lambda y: F.dropout(y, 0.5),
        lambda y: y + 0.1 * torch.randn_like(y),
        lambda y: y * torch.bernoulli(torch.full_like(y, 0.5)),
        lambda y: torch.empty_like(y).uniform_() * y,
    ],
)
@pytest.mark.parametrize("method", ["feature_ablation", "ig", "saliency", "lime"])
def test_a_model_that_draws_is_told(noise: Any, method: str) -> None:
    model, x = Draws(noise), torch.randn(2, 6)
    before = torch.get_rng_state()
    with pytest.warns(InterpWarning, match=r"draws random numbers in eval mode: two passes.*training=self\.training"):
        ip.explain(model, x, method, target=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_are_told_once_a_call_and_by_the_methods_themselves() -> None:
    model, x = Draws(lambda y: F.dropout(y, 0.5)), torch.randn(2, 6)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ip.explain(model, x, ("feature_ablation", "saliency", "ig"), target=1)
    assert sum("draws random numbers" in str(w.message) for w in said) == 1
    with pytest.warns(InterpWarning, match="draws random numbers"):
        IntegratedGradients(model).attribute(x, target=1)


def fixed_draws(y: Tensor) -> Tensor:
    """The same numbers each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return y + torch.randn_like(y)


def unused_draws(y: Tensor) -> Tensor:
    torch.randn_like(y)
    return y


@pytest.mark.filterwarnings("ignore:The rows of this model feel each other")  # fixed draws are one per place
@pytest.mark.parametrize("noise", [nn.Dropout(0.5), fixed_draws, unused_draws])
def test_draws_that_change_nothing_are_not_told(noise: Any) -> None:
    model = Draws(noise)
    ip.explain(model, torch.randn(2, 6), ("feature_ablation", "ig", "noise_tunnel"), target=1)
    FeatureAblation(model).attribute(torch.randn(2, 6), lambda x: torch.rand(1, 6), target=1)


@pytest.mark.parametrize("method", ["occlusion", "feature_ablation", "saliency"])
def test_numpy_outputs(method: str) -> None:
    net = network()
    more = {"sliding_window_shapes": (3, 4, 4)} if method == "occlusion" else {}
    with pytest.raises(ModelError, match=r"NumPy array of shape \(1, 3\).*torch\.from_numpy.*occlusion"):
        ip.explain(lambda x: net(x).detach().numpy(), torch.rand(1, 3, 8, 8), method, target=1, **more)


@pytest.mark.parametrize("pixel", [float("inf"), float("-inf")])
def test_infinite_pixels(pixel: float) -> None:
    x = torch.rand(2, 3, 8, 8)
    x[1, 0, 0, 0] = pixel
    with pytest.raises(InterpError, match=r"inputs\[0\].*infinity.*sample\(s\) \[1\].*Clean the data"):
        ip.explain(network(), x, "ig", target=1)


@pytest.mark.parametrize("squeeze", [lambda y: y.squeeze(), lambda y: y[0], lambda y: y.flatten()])
def test_logits_without_their_batch(squeeze: Callable[[Tensor], Tensor]) -> None:
    net = network()
    with pytest.raises(TargetError, match=r"\(3,\).*squeeze\(-1\)"):
        ip.explain(lambda x: squeeze(net(x)), torch.rand(1, 3, 8, 8), "saliency", target=1)


def test_scores_of_a_half_precision_language_model_stay_wide() -> None:
    """Sums of log probabilities around -100 move by 0.5 in bfloat16: what one feature changes would be lost."""
    torch.manual_seed(0)
    table = torch.randn(50, 50) * 3

    def model(input_ids: Tensor) -> Any:
        return SimpleNamespace(logits=table[input_ids].bfloat16())

    ids, target = torch.randint(0, 50, (2, 4)), torch.randint(0, 50, (20,))
    found = score_tokens(model, {"input_ids": ids}, target)
    assert found.dtype == torch.float32
    for row in range(2):
        after = torch.cat([ids[row, -1:], target[:-1]])
        logs = table[after].bfloat16().double().log_softmax(-1)[torch.arange(20), target]
        assert abs(float(found[row].sum() - logs.sum())) < 1e-3 < float(abs(logs.sum()) / 256)
    wide = score_tokens(lambda input_ids: SimpleNamespace(logits=table[input_ids].double()), {"input_ids": ids}, target)
    assert wide.dtype == torch.float64


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 16, 16), (16, 16)])
@pytest.mark.parametrize("methods", ["saliency", ("ig", "gradcam")])
def test_pictures_without_a_batch(shape: tuple[int, ...], methods: Any) -> None:
    net = network()
    if shape[0] == 1:
        net[0] = nn.Conv2d(1, 4, 3, padding=1)
    with pytest.raises(ModelError, match=r"the first dimension is the batch.*x\[None\]"):
        ip.explain(net, torch.rand(shape), methods, target=1)


@pytest.mark.parametrize("cls", [Saliency, IntegratedGradients, FeatureAblation, KernelShap, Lime, DeepLift])
@pytest.mark.parametrize("target", [None, 1])
def test_classes_name_the_batch_axis_of_one_picture_as_explain_does(cls: Any, target: Any) -> None:
    with pytest.raises(ModelError, match=r"shape \(3, 8, 8\).*One picture needs it as well: x\[None\]"):
        cls(network()).attribute(torch.rand(3, 8, 8), target=target)


def test_errors_on_tables_are_the_models_own() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        Saliency(nn.Linear(3, 2)).attribute(torch.rand(3, 8), target=1)
    assert "One picture" not in str(caught.value)


def test_of_an_embedding_without_classes_a_target_is_asked_for() -> None:
    encoder, x = nn.Linear(6, 64), torch.randn(2, 6)
    with pytest.raises(TargetError, match="No default target for an output of shape"):
        ip.explain(encoder, x, "saliency", activation=lambda output: None)
    exp = ip.explain(encoder, x, "saliency", target=ip.SimilarTo(torch.ones(64)))[0]
    assert exp.prediction is None
