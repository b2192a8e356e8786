"""Arguments that have as many rows as the batch by accident: prompts, prototypes, anchors."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins import Fixed, explain
from interp_plugins.attr import IntegratedGradients, NoiseTunnel
from interp_plugins.core.errors import InterpWarning

torch.manual_seed(0)
X = torch.randn(3, 4, dtype=torch.float64)
SIDE = torch.randn(3, 4, dtype=torch.float64)  # as many rows as samples
WEIGHT = torch.rand(3, dtype=torch.float64)  # one per sample


def prompts(x: Tensor, p: Tensor) -> Tensor:
    return F.normalize(x + 2, dim=1) @ F.normalize(p, dim=1).T


def nearest(x: Tensor, p: Tensor) -> Tensor:
    return -torch.cdist(x, p).logsumexp(1, keepdim=True).repeat(1, 2)


def linear(x: Tensor, p: Tensor) -> Tensor:
    return torch.tanh(x @ p.T).softmax(1)


def anchors(x: Tensor, p: Tensor) -> Tensor:
    return (x[:, None] * p[None]).sum(2).sin()


def cross_attention(x: Tensor, p: Tensor) -> Tensor:
    return torch.softmax(x @ p.T, 1) @ p


MODELS = [prompts, nearest, linear, anchors, cross_attention]
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("ig", {"n_steps": 20}),
    ("ig", {"tol": 1e-3}),
    ("ig", {"batch_size": 1, "n_steps": 20}),
    ("feature_ablation", {}),
    ("feature_ablation", {"batch_size": 2}),
    ("kernel_shap", {}),
    ("rise", {"n_samples": 20}),
    ("noise_tunnel", {"nt_samples": 3}),
    ("gradient_shap", {}),
]


@pytest.mark.parametrize(("method", "options"), METHODS, ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_the_accident_is_seen_and_the_mark_says_it(model: Any, method: str, options: dict[str, Any]) -> None:
    def closed(z: Tensor) -> Tensor:
        return model(z, SIDE)

    def given(z: Tensor, p: Tensor) -> Tensor:
        return model(z, p)

    right = explain(closed, X, method, target=1, **options)[0].attribution
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        marked = explain(given, X, method, target=1, additional_forward_args=(Fixed(SIDE),), **options)[0].attribution
    assert torch.allclose(marked, right, atol=1e-9)
    with pytest.warns(InterpWarning, match=r"additional_forward_args\[0\] of shape \(3, 4\).*Fixed"):
        seen = explain(given, X, method, target=1, additional_forward_args=(SIDE,), **options)[0].attribution
    assert torch.allclose(seen, right, atol=1e-9)


def test_one_of_two_arguments_follows() -> None:
    def both(z: Tensor, p: Tensor, w: Tensor) -> Tensor:
        return torch.tanh(z @ p.T) * w[:, None]

    right = torch.cat([
        IntegratedGradients(lambda z, i=i: both(z, SIDE, WEIGHT[i : i + 1].expand(len(z)))).attribute(
            X[i : i + 1], target=1
        )
        for i in range(3)
    ])  # fmt: skip
    with pytest.warns(InterpWarning, match="Fixed"):
        found = IntegratedGradients(both).attribute(X, target=1, additional_forward_args=(SIDE, WEIGHT))
    assert torch.allclose(found, right)


def test_keyword_arguments_and_noise() -> None:
    def given(z: Tensor, p: Tensor) -> Tensor:
        return prompts(z, p)

    options = {"nt_samples": 3, "stdevs": 0.1, "seed": 0, "target": 1}
    right = NoiseTunnel(IntegratedGradients(lambda z: prompts(z, SIDE))).attribute(X, **options)
    with pytest.warns(InterpWarning, match="Fixed"):
        found = NoiseTunnel(IntegratedGradients(given)).attribute(X, additional_forward_args=(SIDE,), **options)
    assert torch.allclose(found, right)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exp = explain(given, X, "ig", target=1, forward_kwargs={"p": Fixed(SIDE)})[0]
    assert torch.allclose(exp.attribution, IntegratedGradients(lambda z: prompts(z, SIDE)).attribute(X, target=1))


def test_arguments_that_do_follow_are_left_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        IntegratedGradients(lambda z, w: torch.tanh(z * w[:, None])).attribute(
            X, target=1, additional_forward_args=(WEIGHT,)
        )
