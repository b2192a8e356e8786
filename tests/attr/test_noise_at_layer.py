"""NoiseTunnel with the noise at a layer instead of the input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp_plugins.attr as attr
from interp_plugins.attr import NoiseTunnel
from interp_plugins.core.errors import InputError

LAYER_METHODS = [
    attr.LayerActivation,
    attr.LayerConductance,
    attr.LayerFeatureAblation,
    attr.LayerGradCam,
    attr.LayerGradientXActivation,
    attr.LayerIntegratedGradients,
]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 6, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 8, 8, dtype=torch.float64)


def arguments(cls: type) -> dict[str, Any]:
    return {} if cls is attr.LayerActivation else {"target": 1}


@pytest.mark.parametrize("where", ["layer", "1", "3"])
@pytest.mark.parametrize("cls", LAYER_METHODS)
def test_noise_of_size_zero_changes_nothing(cls: Any, where: str, model: nn.Module, x: Tensor) -> None:
    noisy = NoiseTunnel(cls(model, "1")).attribute(x, noise_at=where, nt_samples=2, stdevs=0.0, **arguments(cls))
    torch.testing.assert_close(noisy, cls(model, "1").attribute(x, **arguments(cls)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cls", LAYER_METHODS)
def test_the_map_does_not_depend_on_the_group_size(cls: Any, model: nn.Module, x: Tensor) -> None:
    def run(group: int | None) -> Tensor:
        return NoiseTunnel(cls(model, "1")).attribute(
            x, noise_at="layer", nt_samples=3, stdevs=0.2, seed=0, nt_samples_batch_size=group, **arguments(cls)
        )

    plain = cls(model, "1").attribute(x, **arguments(cls))
    torch.testing.assert_close(run(None), run(1), rtol=1e-12, atol=1e-12)
    assert (run(None) - plain).abs().max() > 1e-6


def test_a_method_for_inputs_can_have_noise_inside_the_model(model: nn.Module, x: Tensor) -> None:
    inner = attr.Saliency(model)
    noisy = NoiseTunnel(inner).attribute(x, target=1, noise_at=model[1], nt_samples=4, stdevs=0.5, seed=0)
    assert noisy.shape == x.shape
    assert (noisy - inner.attribute(x, target=1)).abs().max() > 1e-6
    assert inner.forward_func is model


def test_integrated_gradients_of_an_embedding_take_noise_where_tokens_cannot() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2)).double()
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    method = NoiseTunnel(attr.LayerIntegratedGradients(model, "0"))
    found = method.attribute(tokens, target=0, noise_at="layer", nt_samples=200, stdevs=0.1, seed=0)
    plain = attr.LayerIntegratedGradients(model, "0").attribute(tokens, target=0)
    assert found.shape == (2, 3, 4)
    assert (found - plain).abs().max() < 0.05  # linear behind the embedding: the noise averages out


def test_noise_at_the_layer_of_a_method_without_one_is_refused(model: nn.Module, x: Tensor) -> None:
    with pytest.raises(InputError, match=r"needs a method at a layer .* not Saliency"):
        NoiseTunnel(attr.Saliency(model)).attribute(x, target=1, noise_at="layer")
