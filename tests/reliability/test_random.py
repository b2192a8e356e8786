"""Random numbers: what a training in another thread draws is its own, and what a model draws is put back."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.attr import IntegratedGradients
from interp_plugins.core.generator_states import rng_state
from interp_plugins.core.global_random import preserved_rng
from tests.conformance.cases import VARIANTS, attribute, typical
from tests.thorough import times


class Noisy(nn.Module):
    """A model that draws from torch, NumPy or Python at every call."""

    def __init__(self, *kinds: str):
        super().__init__()
        self.fc, self.kinds = nn.Linear(4, 3), kinds

    def forward(self, x: Tensor) -> Tensor:
        drawn = {
            "torch": lambda: float(torch.rand(())),
            "numpy": lambda: float(np.random.rand()),  # noqa: NPY002 - the legacy generator is what must be kept
            "random": random.random,
        }
        return self.fc(x) * (1 + sum(drawn[kind]() for kind in self.kinds))


KINDS = [("torch",), ("numpy",), ("random",), ("torch", "numpy", "random")]


class Elsewhere:
    """Another thread for the length of a `with` block, which does something over and over, or only lives."""

    def __init__(self, work: Callable[[], object] | None = None):
        self.done, self.work = threading.Event(), work
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.done.is_set():
            if self.work is None:
                self.done.wait()
            else:
                self.work()

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *exc: object) -> None:
        self.done.set()
        self.thread.join()


@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
@pytest.mark.parametrize("threads", [False, True], ids=["alone", "another thread lives"])
@pytest.mark.filterwarnings("ignore:The model draws random numbers")
def test_a_model_that_draws_is_seeded_and_put_back(kinds: tuple[str, ...], threads: bool) -> None:
    net, other, x = Noisy(*kinds), Noisy(*kinds), torch.randn(2, 4)
    before = rng_state()
    first = explain(net, x, "ig", target=1, n_steps=4, seed=5)[0].attributions
    assert rng_state() == before
    random.random(), np.random.rand(), torch.rand(())  # noqa: NPY002
    before = rng_state()
    if threads:
        with Elsewhere():
            second = explain(other, x, "ig", target=1, n_steps=4, seed=5)
            again = explain(net, x, "ig", target=1, n_steps=4, seed=5)[0].attributions
            IntegratedGradients(net).attribute(x, target=1, n_steps=4)
    else:
        second, again = None, explain(net, x, "ig", target=1, n_steps=4, seed=5)[0].attributions
    assert rng_state() == before
    assert torch.equal(first, again) and (second is None or second[0].attributions.shape == first.shape)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore:.* met no rectifier")
def test_no_method_draws_from_the_global_generators(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another thread draws at every moment, nothing of it comes twice: nothing was put back."""
    problem = typical(variant).build()
    put_back: list[Any] = []
    for owner, name in ((torch, "set_rng_state"), (np.random, "set_state"), (random, "setstate"), (random, "seed")):
        monkeypatch.setattr(owner, name, lambda *args, name=name: put_back.append(name))
    with Elsewhere(lambda: torch.rand(3)):
        attribute(variant, problem)
    assert put_back == []


def test_a_training_beside_an_explainer_draws_no_number_twice() -> None:
    net, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 6)
    drawn: list[tuple[float, float, float]] = []

    def draw() -> None:
        numpy = float(np.random.rand())  # noqa: NPY002
        drawn.append((float(torch.rand((), dtype=torch.float64)), numpy, random.random()))

    with Elsewhere(draw):
        for _ in range(times(15, 100)):
            explain(net, x, ["saliency", "ig", "lime", "noise_tunnel"], target=1, n_steps=4, n_samples=8)
    for column in zip(*drawn, strict=True):
        assert len(set(column)) == len(column)


def trained(steps: int, beside: Callable[[], object] | None) -> dict[str, Tensor]:
    """A small training with dropout and shuffled data, in a thread of its own; what it learned."""
    net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    torch.manual_seed(3)
    for p in net.parameters():
        nn.init.normal_(p)
    x, y = torch.randn(32, 6), torch.randint(3, (32,))
    optimizer = torch.optim.SGD(net.parameters(), 0.05)

    def work() -> None:
        for _ in range(steps):
            rows = torch.randperm(32)[:8]
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        while beside is not None and thread.is_alive():
            beside()
    finally:
        thread.join()
    return net.state_dict()


def test_a_training_beside_an_explainer_is_bit_identical() -> None:
    net, x = (
        nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 3)),
        torch.randn(2, 1, 8, 8),
    )
    steps, count = times(150, 1500), [0]

    def beside() -> None:
        explain(net, x, ["saliency", "gradcam", "rise", "lime"][count[0] % 4], target=1)
        count[0] += 1

    alone, with_explainer = trained(steps, None), trained(steps, beside)
    assert count[0] and all(torch.equal(alone[name], with_explainer[name]) for name in alone)


def test_what_another_thread_draws_meanwhile_is_not_put_back() -> None:
    with preserved_rng():
        before = rng_state()
    assert rng_state() == before
