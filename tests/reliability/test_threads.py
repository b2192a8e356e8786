"""One model in several threads: every map is the right one, and the model is as it was at the end."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.core.errors import InterpError
from interp_plugins.core.forward import Call
from interp_plugins.core.guard import exclusive, frozen
from tests.thorough import times

METHODS: dict[str, dict[str, Any]] = {"saliency": {}, "ig": {"n_steps": 6}, "gradcam": {}, "deep_lift": {}}


@dataclass
class Unhashable:
    """A callable that is compared by its value, and so has no hash."""

    model: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x)


class Slotted:
    """A callable around a model that has slots and no dictionary."""

    __slots__ = ("model",)

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x)

    def scores(self, x: Tensor) -> Tensor:
        return self.model(x)


def network() -> nn.Sequential:
    """Modes, flags and buffers of all kinds."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    net[1].eval()
    net[4].bias.requires_grad_(False)
    return net


def facts(net: nn.Module) -> list[Any]:
    """What must be as it was, as plain values."""
    return [
        [m.training for m in net.modules()],
        [p.requires_grad for p in net.parameters()],
        [(name, id(t)) for name, t in net.state_dict(keep_vars=True).items()],
        [t.tolist() for t in net.state_dict().values()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()],
    ]


KINDS: dict[str, Callable[[nn.Module], list[Any]]] = {
    "the model": lambda net: [net],
    "an object without a hash": lambda net: [Unhashable(net)],
    "an object with slots": lambda net: [Slotted(net)],
    "its bound method": lambda net: [Slotted(net).scores],
    "forward": lambda net: [types.MethodType(type(net).forward, net)],
    "a function": lambda net: [lambda x: net(x)],
    "two wrappers": lambda net: [nn.Sequential(net), nn.Sequential(nn.Identity(), net), net, Call(net)],
}


def in_threads(work: Callable[[int], None], count: int) -> list[str]:
    """Run work(0) to work(count - 1) at once; what they raised, in words."""
    problems: list[str] = []
    barrier = threading.Barrier(count)

    def run(i: int) -> None:
        barrier.wait()
        try:
            work(i)
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return problems


@pytest.mark.parametrize("kind", KINDS)
def test_maps_and_model_are_right(kind: str) -> None:
    net, rounds = network(), times(1, 8)
    funcs = KINDS[kind](net)
    xs = [torch.randn(1, 1, 8, 8) for _ in range(4)]
    before = facts(net)
    methods = METHODS if kind in ("the model", "two wrappers") else {"saliency": {}, "ig": {"n_steps": 6}}
    right = {
        (name, i): explain(funcs[i % len(funcs)], xs[i], name, target=1, **more)[0].attributions
        for name, more in methods.items()
        for i in range(4)
    }
    wrong: list[str] = []

    def work(i: int) -> None:
        for _ in range(rounds):
            for name, more in methods.items():
                found = explain(funcs[i % len(funcs)], xs[i], name, target=1, **more)[0].attributions
                if not torch.allclose(found, right[name, i], atol=1e-6):
                    wrong.append(name)

    assert in_threads(work, 4) + wrong == []
    assert facts(net) == before


def test_models_of_their_own_do_not_wait() -> None:
    inside = threading.Barrier(2, timeout=20)

    def work(i: int) -> None:
        with frozen(network()):
            inside.wait()

    assert in_threads(work, 2) == []


def test_models_that_share_a_weight_wait() -> None:
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    two.weight = one.weight
    met: list[bool] = []
    inside = threading.Barrier(2)

    def work(i: int) -> None:
        with frozen((one, two)[i]):
            try:
                inside.wait(0.2)
                met.append(True)
            except threading.BrokenBarrierError:
                pass

    in_threads(work, 2)
    assert met == [] and one.weight.requires_grad


def test_a_thread_may_enter_again() -> None:
    net = network()
    with exclusive(net), frozen(net), frozen(nn.Sequential(net)):
        assert not net.training
    assert net.training


def test_two_threads_that_wait_for_each_other_are_told() -> None:
    nets = [network(), network()]
    inside = threading.Barrier(2, timeout=20)

    def work(i: int) -> None:
        with frozen(nets[i]):
            inside.wait()
            with frozen(nets[1 - i]):
                pass

    problems = in_threads(work, 2)
    assert len(problems) == 1 and "would wait for each other for ever" in problems[0]
    assert issubclass(InterpError, Exception) and all(net.training for net in nets)


def test_a_prediction_in_another_thread_meets_no_hook_of_ours() -> None:
    net = network().eval()
    x, y = torch.randn(1, 1, 8, 8), torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        expected = net(y)
    done = threading.Event()
    wrong: list[int] = []
    right = explain(net, x, "gradcam", target=1)[0].attributions

    def predict() -> None:
        while not done.is_set():
            with torch.no_grad():
                if not torch.allclose(net(y), expected, atol=1e-6):
                    wrong.append(1)

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        for _ in range(times(6, 60)):
            assert torch.allclose(explain(net, x, "gradcam", target=1)[0].attributions, right)
            explain(net, x, "layer_integrated_gradients", layer="4", target=1, n_steps=5)
    finally:
        done.set()
        thread.join()
    assert wrong == []


def test_several_models_in_several_threads() -> None:
    nets = [network() for _ in range(3)]
    xs = [torch.randn(1, 1, 8, 8) for _ in range(3)]
    before = [facts(net) for net in nets]
    right = [explain(net, x, "ig", target=1, n_steps=6)[0].attributions for net, x in zip(nets, xs)]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(times(4, 40)):
            if not torch.allclose(explain(nets[i], xs[i], "ig", target=1, n_steps=6)[0].attributions, right[i]):
                wrong.append(i)

    assert in_threads(work, 3) + [str(i) for i in wrong] == []
    assert [facts(net) for net in nets] == before
