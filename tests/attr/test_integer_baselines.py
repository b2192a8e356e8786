"""Integers meet baselines that no integer is: explained as floats where the model takes floats, refused where not."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from interp_plugins import attr, explain
from interp_plugins.attr.perturbation.dataloader import DataLoaderAttribution
from interp_plugins.core.errors import InputError
from interp_plugins.core.registry import method_info
from interp_plugins.metrics.removal import removal_curves

X = torch.tensor([[0, 1], [3, 4]])
BY_ELEMENT = ["feature_ablation", "shapley_value_sampling", "shapley_values", "kernel_shap"]
OTHERS = ["lime", "rise", "hsic", "owen", "shapley_interactions", "occlusion"]
MORE: dict[str, dict[str, Any]] = {
    "occlusion": {"sliding_window_shapes": (1,)}, "lime": {"n_samples": 200}, "rise": {"n_samples": 50},
    "hsic": {"n_samples": 30},
}  # fmt: skip


class Total(nn.Module):
    """A weighted sum that takes every dtype as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.get_default_dtype()) @ torch.tensor([1.0, 2.0])


class Look(nn.Module):
    """Ids, looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.embed(ids).sum((1, 2))


def run(name: str, func: Any, x: Tensor, baselines: Any) -> Tensor:
    method = attr.ShapleyInteractions(func) if name == "shapley_interactions" else method_info(name).cls(func)
    seed = {"seed": 0} if "seed" in inspect.signature(method.attribute).parameters else {}
    found = method.attribute(x, baselines=baselines, **MORE.get(name, {}), **seed)
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("name", BY_ELEMENT)
def test_a_sum_of_integers_against_a_fraction(name: str) -> None:
    found = run(name, lambda x: x.sum(1), X, 0.2)
    assert torch.allclose(found, torch.tensor([[-0.2, 0.8], [2.8, 3.8]]), atol=1e-5)


@pytest.mark.parametrize("name", BY_ELEMENT + OTHERS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("baselines", [0.2, -1.5, 300, torch.tensor([[0.5, 7.0]])], ids=str)
def test_integers_get_the_map_of_the_same_numbers_as_floats(name: str, dtype: torch.dtype, baselines: Any) -> None:
    x = X.to(dtype)
    assert torch.allclose(run(name, Total(), x, baselines), run(name, Total(), x.float(), baselines), atol=1e-4)
    assert x.dtype == dtype


@pytest.mark.parametrize("name", BY_ELEMENT + OTHERS)
@pytest.mark.parametrize("baselines", [0.5, torch.tensor([[0.5, 1.0]]), float("inf")], ids=str)
def test_ids_stay_ids(name: str, baselines: Any) -> None:
    with pytest.raises(InputError, match=r"baselines\[0\] holds values that the input of dtype int64 cannot hold"):
        run(name, Look(), X, baselines)


@pytest.mark.parametrize("name", ["integrated_gradients", "deep_lift", "guided_ig", "idgi"])
def test_ids_at_their_lookups_start_at_ids(name: str) -> None:
    with pytest.raises(InputError, match=r"baselines\[0\] is no id.*core.baseline.Sample"):
        run(name, Look(), X, 0.5)


@pytest.mark.parametrize("cls", [attr.GradientShap, attr.DeepLiftShap])
def test_rows_of_ids_to_draw_from_are_ids(cls: Any) -> None:
    with pytest.raises(InputError, match=r"baselines\[0\] is no id"):
        cls(Look()).attribute(X, baselines=torch.tensor([[0.5, 1.0], [2.0, 3.0]]))


@pytest.mark.parametrize("name", BY_ELEMENT + OTHERS)
def test_ids_take_whole_numbers_of_any_dtype(name: str) -> None:
    net = Look()
    for whole in (1, 1.0, torch.tensor([[1.0, 1.0]]), torch.tensor([[1, 1]], dtype=torch.int32)):
        assert torch.equal(run(name, net, X, whole), run(name, net, X, torch.ones_like(X)))


def test_what_counts_differently_as_float_is_refused() -> None:
    cases: list[tuple[Any, str]] = [
        (lambda x: (x // 2 if not x.is_floating_point() else x / 2).sum(1), "gives something else"),
        (lambda x: (x & 1).sum(1), "does not take the input as float32"),
        (lambda x: nn.functional.one_hot(x, 9).float().sum((1, 2)), "does not take the input as float32"),
        (lambda x: torch.arange(9.0)[x].sum(1), "does not take the input as float32"),
        (lambda x: x.bitwise_not().float().sum(1), "does not take the input as float32"),
    ]
    for func, said in cases:
        with pytest.raises(InputError, match=said):
            attr.FeatureAblation(func).attribute(X, baselines=0.5)


def test_numbers_that_a_float_does_not_hold_are_refused() -> None:
    large = torch.tensor([[2**24 + 1, 5]])
    with pytest.raises(InputError, match="gives something else"):
        attr.FeatureAblation(lambda x: x.sum(1)).attribute(large, baselines=0.5)


def test_one_of_two_inputs_is_widened() -> None:
    def func(ids: Tensor, amount: Tensor) -> Tensor:
        return torch.arange(9.0)[ids].sum(1) + amount.sum(1)

    found = attr.FeatureAblation(func).attribute((X, X), baselines=(1, 0.5))
    assert found[0].tolist() == [[-1, 0], [2, 3]] and found[1].tolist() == [[-0.5, 0.5], [2.5, 3.5]]
    with pytest.raises(InputError, match=r"baselines\[0\]"):
        attr.FeatureAblation(func).attribute((X, X), baselines=(0.5, 1))


def test_layers_and_their_inputs() -> None:
    net = nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(InputError, match="cannot hold"):
        attr.LayerIntegratedGradients(net, net[1]).attribute(X, baselines=0.5, target=0)
    found = attr.NeuronFeatureAblation(nn.Sequential(Total()), "0").attribute(X, lambda out: out, baselines=0.5)
    assert found.tolist() == [[-0.5, 1.0], [2.5, 7.0]]


def test_every_door_widens() -> None:
    expected = torch.tensor([[-0.2, 1.6], [2.8, 7.6]])
    exp = explain(Total(), X, "feature_ablation", baselines=0.2)[0]
    assert torch.allclose(exp.attribution, expected, atol=1e-5)
    ends = attr.FeatureAblation(Total()).compute_convergence_delta(expected, 0.2, X)
    assert ends.abs().max() < 1e-5
    deletion = removal_curves(Total(), X, X.float(), 0.2).deletion
    assert torch.allclose(deletion[:, -1], torch.full((2,), 0.6, dtype=torch.float64), atol=1e-6)
    loader: Any = DataLoader([row for row in X], batch_size=1)
    found = DataLoaderAttribution(attr.FeatureAblation(Total())).attribute(loader, baselines=0.2)
    assert torch.allclose(found, expected, atol=1e-5)


def test_complex_baselines_of_real_inputs_are_refused() -> None:
    for x, func in itertools.product((X, X.float()), (attr.FeatureAblation, attr.ShapleyValueSampling)):
        with pytest.raises(TypeError, match="give its real part"):
            func(Total()).attribute(x, baselines=torch.tensor([[1j, 2.0]]))
