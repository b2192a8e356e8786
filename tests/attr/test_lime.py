"""LIME: the parts against a slow fit, the surrogates, the errors."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins.attr import Lime, LimeBase
from interp_plugins.attr.perturbation.lime_sampling import get_exp_kernel_similarity_function
from interp_plugins.attr.perturbation.surrogate import SkLearnLinearModel, SkLearnRidge, WeightedRidge
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, ModelError


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_lime_is_a_weighted_lasso_on_the_drawn_switches(net: nn.Module, x: Tensor) -> None:
    """By hand: draw, replace, score, weigh by exp(-d^2 / 2), fit."""
    base = torch.full((4,), 0.25, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        z = torch.stack([torch.bernoulli(torch.full((1, 4), 0.5))[0] for _ in range(30)]).double()
    inputs = torch.where(z.bool(), x[1], base)
    scores = net(inputs)[:, 2].detach()
    distance = 1 - torch.nn.functional.cosine_similarity(inputs, x[1].expand_as(inputs), dim=1)
    weights = (-(distance**2) / 2).exp()
    expected = Lasso(alpha=0.01).fit(z.numpy(), scores.numpy(), sample_weight=weights.numpy()).coef_
    found = Lime(net).attribute(x, 0.25, target=2, n_samples=30, seed=4)
    assert np.allclose(found[1].numpy(), expected, atol=1e-6)


def test_weighted_ridge_is_the_closed_form(x: Tensor) -> None:
    g = torch.Generator().manual_seed(0)
    z, y, w = (torch.randn(40, *s, generator=g, dtype=torch.float64) for s in ((5,), (), ()))
    w = w.abs()
    for alpha in (0.0, 2.0):
        mine = WeightedRidge(alpha)
        theirs = SkLearnRidge(alpha=alpha)
        for model in (mine, theirs):
            model.fit(DataLoader(TensorDataset(z, y, w), batch_size=16))
        assert torch.allclose(mine.representation(), theirs.representation(), atol=1e-10)
        assert torch.allclose(mine(z), theirs(z), atol=1e-10)
        assert torch.allclose(mine.bias(), theirs.bias(), atol=1e-10)


def test_lime_without_scikit_learn(net: nn.Module, x: Tensor) -> None:
    real = importlib.import_module

    def missing(name: str, *args: Any) -> Any:
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="sklearn")
        return real(name, *args)

    with mock.patch("importlib.import_module", missing):
        with pytest.raises(ImportError, match=r"pip install 'interp-plugins\[lime\]'.*WeightedRidge"):
            Lime(net).attribute(x, target=0)
        found = Lime(net, WeightedRidge(0.1)).attribute(x, target=0, n_samples=40)
    assert found.shape == x.shape and found.any()


def test_import_does_not_load_scikit_learn() -> None:
    import interp_plugins.attr.perturbation.surrogate as module

    tree = ast.parse(inspect.getsource(module))
    imported = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert imported and not [line for line in imported if "sklearn" in line]


def test_linear_model_is_found_again(x: Tensor) -> None:
    weight = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    found = Lime(lambda z: z @ weight, WeightedRidge()).attribute(x, n_samples=40, seed=0)
    assert torch.allclose(found, x * weight, atol=1e-10)


def test_sample_alone_gets_the_map_it_gets_in_a_batch(net: nn.Module, x: Tensor) -> None:
    together = Lime(net).attribute(x, target=0, seed=3)
    assert torch.equal(Lime(net).attribute(x[1:], target=0, seed=3)[0], together[1])


def test_coefficients_instead_of_maps(net: nn.Module, x: Tensor) -> None:
    mask = torch.tensor([[0, 1, 1, 2]])
    maps = Lime(net).attribute(x, target=0, feature_mask=mask, seed=1)
    coefs = Lime(net).attribute(x, target=0, feature_mask=mask, seed=1, return_input_shape=False)
    assert coefs.shape == (2, 3) and torch.equal(coefs[:, [0, 1, 1, 2]], maps)


def test_euclidean_kernel() -> None:
    similarity = get_exp_kernel_similarity_function("euclidean", 2.0)
    assert similarity(torch.zeros(2), torch.tensor([3.0, 4.0]), None) == pytest.approx(math.exp(-25 / 8))
    with pytest.raises(InputError, match="either cosine or euclidean, got 'manhattan'"):
        get_exp_kernel_similarity_function("manhattan")


class _Recorder:
    """A surrogate of the user's own."""

    def fit(self, train_data: Any, **kwargs: Any) -> None:
        (self.x, self.y, self.w), *rest = list(train_data)
        assert not rest

    def representation(self) -> Tensor:
        return torch.linalg.lstsq(self.x, self.y[:, None]).solution.t()


def test_base_with_every_part_given(net: nn.Module, x: Tensor) -> None:
    def perturb(original: Tensor, **kwargs: Any) -> Tensor:
        assert kwargs == {"width": 2.0}
        return original + 0.01 * torch.randn_like(original)

    def similarity(original: Tensor, perturbed: Tensor, sample: Tensor, **kwargs: Any) -> Tensor:
        return torch.exp(-(original - perturbed).norm() / kwargs["width"])

    surrogate = _Recorder()
    base = LimeBase(net, surrogate, similarity, perturb, False, None, lambda copy, original, **kwargs: copy - original)
    found = base.attribute(x[:1], target=1, n_samples=30, seed=0, width=2.0, perturbations_per_eval=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        copies = torch.cat([x[:1] + 0.01 * torch.randn_like(x[:1]) for _ in range(30)])
    assert torch.allclose(surrogate.x, copies - x[:1]) and torch.allclose(surrogate.y, net(copies)[:, 1])
    assert found.shape == (1, 4)


def test_generator_function_that_ends_early_is_said(net: nn.Module, x: Tensor) -> None:
    def switches(original: Any, **kwargs: Any) -> Iterator[Tensor]:
        yield from torch.eye(4)[:, None]

    with pytest.warns(InterpWarning, match="Generator completed prior to given n_samples iterations: 4 of 9"):
        found = Lime(net, WeightedRidge(), lambda *a, **k: 1.0, switches).attribute(x, target=0, n_samples=9)
    assert found.shape == x.shape


def test_errors_say_what_to_do(net: nn.Module, x: Tensor) -> None:
    def base(**change: Any) -> LimeBase:
        parts: dict[str, Any] = {
            "interpretable_model": WeightedRidge(),
            "similarity_func": lambda *a, **k: 1.0,
            "perturb_func": lambda original, **k: original,
            "perturb_interpretable_space": False,
            "from_interp_rep_transform": None,
            "to_interp_rep_transform": lambda copy, original, **k: copy,
        }
        return LimeBase(net, **{**parts, **change})

    with pytest.raises(AssertionError, match="Must provide to_interp_rep_transform"):
        base(to_interp_rep_transform=None)
    with pytest.raises(AssertionError, match="Must provide from_interp_rep_transform"):
        base(perturb_interpretable_space=True)
    with pytest.raises(InputTypeError, match=r"interpretable_model has no fit\(\)"):
        base(interpretable_model=3)
    with pytest.raises(ModelError, match="must return one output per perturbed input: got 2"):
        base().attribute(x, target=0, n_samples=3)
    with pytest.raises(InputError, match=r"scikit-learn has no 'linear_model\.Laso'"):
        Lime(net, SkLearnLinearModel("linear_model.Laso")).attribute(x, target=0)
    with pytest.raises(ModelError, match="has not been fitted"):
        WeightedRidge().representation()
    with pytest.raises(InputError, match="Perturbations per eval must be 1"):
        Lime(lambda z: net(z).sum()).attribute(x, perturbations_per_eval=2)
    with pytest.warns(InterpWarning, match="one coefficient to each of 10001 features"):
        Lime(lambda z: z.sum(1), WeightedRidge(1.0)).attribute(torch.ones(1, 10_001), n_samples=3)


@pytest.mark.parametrize("mode", ["cosine", "euclidean"])
@pytest.mark.parametrize("orthogonal", [False, True])
def test_many_copies_at_a_time_are_those_made_one_by_one(
    net: nn.Module, x: Tensor, mode: str, orthogonal: bool
) -> None:
    """The default parts in a loop over copies, which is taken when one of them is the user's."""
    kernel = get_exp_kernel_similarity_function(mode, 0.7)
    mask, base = torch.tensor([[0, 1, 1, 2], [2, 0, 1, 1]]), torch.randn(1, 4, dtype=torch.float64)

    def one_by_one(*args: Any, **kwargs: Any) -> float:
        return kernel(*args, **kwargs)

    found = [
        Lime(net, WeightedRidge(0.1), similarity).attribute(
            x, base, target=0, feature_mask=mask, n_samples=25, seed=3, orthogonal=orthogonal, batch_size=size
        )
        for similarity, size in ((kernel, None), (kernel, 4), (one_by_one, None))
    ]
    assert torch.allclose(found[0], found[1], atol=1e-12) and torch.allclose(found[0], found[2], atol=1e-6)
