"""What a type checker says of `attribute`: read by mypy in `make lint`, and run here as well."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

from interp_plugins.attr import (
    DeepLift,
    GradientShap,
    IntegratedGradients,
    LayerConductance,
    LayerGradCam,
    LayerIntegratedGradients,
    NeuronIntegratedGradients,
    Saliency,
)
from interp_plugins.core.tensors import LayerMaps

X = torch.rand(2, 3, 4, 4)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


def two(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).flatten(1)


def test_maps_have_the_layout_of_the_inputs() -> None:
    maps = assert_type(Saliency(net()).attribute(X, target=0), Tensor)
    pair = assert_type(Saliency(two).attribute((X, X), target=0), tuple[Tensor, Tensor])
    assert maps.shape == X.shape and len(pair) == 2
    assert_type(NeuronIntegratedGradients(net(), "1").attribute(X, (0, 0, 0), n_steps=2), Tensor)


def test_a_delta_comes_where_it_is_asked_for() -> None:
    ig = IntegratedGradients(net())
    assert_type(ig.attribute(X, target=0, n_steps=2), Tensor)
    assert_type(ig.attribute(X, target=0, n_steps=2, return_convergence_delta=False), Tensor)
    maps, delta = assert_type(
        ig.attribute(X, target=0, n_steps=2, return_convergence_delta=True), tuple[Tensor, Tensor]
    )
    assert maps.shape == X.shape and delta.shape == (2,)
    flag = bool(len(maps))
    assert_type(ig.attribute(X, target=0, n_steps=2, return_convergence_delta=flag), "Tensor | tuple[Tensor, Tensor]")
    assert_type(
        IntegratedGradients(two).attribute((X, X), target=0, n_steps=2, return_convergence_delta=True),
        tuple[tuple[Tensor, Tensor], Tensor],
    )
    for method in (DeepLift(net()), GradientShap(net())):
        assert_type(method.attribute(X, X, target=0, return_convergence_delta=True), tuple[Tensor, Tensor])


def test_maps_of_a_layer_have_its_layout() -> None:
    assert isinstance(assert_type(LayerGradCam(net(), "0").attribute(X, target=0), LayerMaps), Tensor)
    assert_type(LayerConductance(net(), "0").attribute(X, target=0, n_steps=2), LayerMaps)
    maps, delta = assert_type(
        LayerIntegratedGradients(net(), "0").attribute(X, target=0, n_steps=2, return_convergence_delta=True),
        tuple[LayerMaps, Tensor],
    )
    assert isinstance(maps, Tensor) and delta.shape == (2,)


def arguments_are_checked(ig: IntegratedGradients) -> None:
    """Never called: each line is an error for mypy, which says so when an ignore is not needed."""
    ig.attribute(X, n_step=3)  # type: ignore[call-overload]
    ig.attribute(X, n_steps="3")  # type: ignore[call-overload]
    ig.attribute("X")  # type: ignore[call-overload]
    Saliency(two).attribute(X, absolute=True)  # type: ignore[call-arg]
