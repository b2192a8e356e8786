"""Rows that feel each other: one copy of the batch per pass, whole, and one warning; never a mixture of steps."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_plugins import explain, row_probe
from interp_plugins.attr import FeatureAblation, IntegratedGradients, NoiseTunnel, Saliency
from interp_plugins.core.errors import InterpWarning, ModelError

torch.manual_seed(0)
X = torch.randn(5, 3, dtype=torch.float64)
RING = torch.stack([torch.arange(5), (torch.arange(5) + 1) % 5])


class Graph(nn.Module):
    """Node features and edges in, two scores per node out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        return self.b(h + torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))


class Norm(nn.Module):
    """A batch norm that always takes the batch's own statistics."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.net = nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh(), nn.Linear(4, 2)
        ).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


W = torch.randn(3, 2, dtype=torch.float64)
COUPLED: dict[str, Callable[..., Tensor]] = {
    "attention over the batch": lambda x: F.softmax(x @ x.T, 1) @ x @ W,
    "mean of the batch": lambda x: torch.tanh(x - x.mean(0)) @ W,
    "softmax over the batch": lambda x: (x @ W).softmax(0),
    "norm over the batch": lambda x: F.layer_norm(x.T, (x.shape[0],)).T @ W,
    "contrast to the others": lambda x: (x @ W) - (x @ W).logsumexp(0),
    "running largest": lambda x: (x @ W).cummax(0).values,
    "the first is special": lambda x: torch.tanh((x - x[:1]) @ W),
    "norm": Norm(),
}


def path_of_all(model: Callable[..., Tensor], steps: int = 300) -> Tensor:
    """Integrated gradients of the sum of all scores of class 1, one copy of the batch per step."""
    total = torch.zeros_like(X)
    for k in range(steps):
        z = (X * (k + 0.5) / steps).requires_grad_()
        total += torch.autograd.grad(model(z)[:, 1].sum(), z)[0] / steps
    return X * total


@pytest.mark.parametrize("name", COUPLED)
def test_path_methods_move_the_whole_batch_and_say_so(name: str) -> None:
    model = COUPLED[name]
    with pytest.warns(InterpWarning, match="rows of this model feel each other"):
        exp = explain(model, X, "ig", target=1, n_steps=300, method="riemann_middle")[0]
    assert torch.allclose(exp.attribution, path_of_all(model), atol=1e-9)
    assert "one copy of the batch per pass" in exp.meta["rows"]


@pytest.mark.parametrize("name", COUPLED)
def test_perturbed_samples_stand_among_the_others_as_they_are(name: str) -> None:
    model = COUPLED[name]
    expected = torch.zeros_like(X)
    for i in range(5):
        for j in range(3):
            z = X.clone()
            z[i, j] = 0
            expected[i, j] = (model(X) - model(z))[i, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in ("feature_ablation", "occlusion"):
            found = explain(model, X, method, target=1)[0].attribution
            assert torch.allclose(found, expected.detach(), atol=1e-9), method


def test_nodes_of_a_graph_are_one_batch() -> None:
    net = Graph()
    with pytest.warns(InterpWarning, match="nodes=True"):
        maps = IntegratedGradients(net).attribute(
            X, target=1, additional_forward_args=(RING,), n_steps=300, method="riemann_middle"
        )
    assert torch.allclose(maps, path_of_all(lambda z: net(z, RING)), atol=1e-9)


def test_one_warning_and_the_same_facts_for_as_long_as_the_weights_stay() -> None:
    net = Norm()
    with pytest.warns(InterpWarning):
        Saliency(net).attribute(X, target=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Saliency(net).attribute(X, target=1)  # remembered, and told once
        with torch.no_grad():
            net.net[0].weight += 0.1
        Saliency(net).attribute(X, target=1)  # probed again: nothing new


class Rows:
    """A function that notes how many rows it was given."""

    def __init__(self, func: Callable[[Tensor], Tensor]) -> None:
        self.func, self.seen = func, list[int]()

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.func(x)


def test_the_user_still_chooses() -> None:
    model = Rows(COUPLED["mean of the batch"])
    with row_probe(False):
        IntegratedGradients(model).attribute(X, target=1, n_steps=4)
    assert model.seen == [20]
    model.seen.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = IntegratedGradients(model).attribute(X, target=1, n_steps=4, internal_batch_size=1)
    assert max(model.seen) == 1
    assert bool((alone == 0).all())  # alone, a sample is its own mean


def test_six_rows_once_and_accelerations_have_no_say() -> None:
    model = Rows(lambda x: torch.tanh(x @ W))
    explain(model, X, "ig", target=1, n_steps=4, accelerate=False)
    first = list(model.seen)
    model.seen.clear()
    explain(model, X, "ig", target=1, n_steps=4, accelerate=False)
    assert sum(first) - sum(model.seen) == 6
    Saliency(model).attribute(X[:1], target=1)
    model.seen.clear()
    Saliency(model).attribute(X[:1], target=1)
    assert model.seen == [1]


@pytest.mark.filterwarnings("ignore:The model draws random numbers")
def test_random_draws_are_no_company() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 40)
    for noisy in (
        lambda v: F.dropout(v, 0.5, training=True).sum(1, keepdim=True),
        lambda v: (v + torch.randn_like(v)).sum(1, keepdim=True),
        lambda v: (v * torch.rand(len(v), 1)).sum(1, keepdim=True),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message="The model draws random numbers")
            Saliency(noisy).attribute(x, target=0)
    with pytest.warns(InterpWarning, match="feel each other"):
        Saliency(lambda v: F.dropout(v - v.mean(0), 0.5, training=True).sum(1, keepdim=True)).attribute(x, target=0)


def test_rounding_is_no_company() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(*[m for _ in range(8) for m in (nn.Linear(64, 64), nn.GELU())], nn.Linear(64, 3))
    for dtype in (torch.float32, torch.bfloat16):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Saliency(deep.to(dtype)).attribute(torch.randn(7, 64, dtype=dtype), target=0)


def test_what_needs_parts_of_the_batch_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ModelError, match=r"every pass needs the whole batch of 5.*leave tol"):
            IntegratedGradients(Norm()).attribute(X, target=1, tol=0.01)


def test_noisy_copies_of_the_batch_do_not_meet() -> None:
    model = COUPLED["norm"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = NoiseTunnel(Saliency(model)).attribute(X, target=1, nt_samples=3, stdevs=0.1, seed=0)
        each = NoiseTunnel(Saliency(model)).attribute(
            X, target=1, nt_samples=3, stdevs=0.1, seed=0, nt_samples_batch_size=1
        )
    assert torch.allclose(one, each)


def test_functions_are_forgotten_with_what_is_known_of_them() -> None:
    def double(x: Tensor) -> Tensor:
        return 2 * x

    gone = weakref.ref(double)
    FeatureAblation(double).attribute(X, target=1)
    del double
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("target", [1, (2, 1), None, torch.tensor([0, 1, 1, 0, 1])], ids=str)
def test_a_graph_is_one_sample(target: Any) -> None:
    net = Graph()
    out = net(X, RING)
    classes = target if isinstance(target, Tensor) else out.argmax(1) if target is None else torch.full((5,), 1)

    def score(z: Tensor) -> Tensor:
        scores = net(z, RING)
        return scores[2, 1] if isinstance(target, tuple) else scores[torch.arange(5), classes].sum()

    expected = torch.zeros_like(X)
    for i in range(5):
        for j in range(3):
            z = X.clone()
            z[i, j] = 0
            expected[i, j] = (score(X) - score(z)).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exps = explain(
            net, X, ["feature_ablation", "ig"], target=target, additional_forward_args=(RING,), nodes=True, n_steps=200
        )
    assert exps[0].attribution.shape == (1, 5, 3)
    assert torch.allclose(exps[0].attribution[0], expected, atol=1e-9)
    assert float(exps[1].relative_delta) < 1e-4
    exps.to_df()
