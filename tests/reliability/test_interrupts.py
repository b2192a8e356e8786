"""Ctrl-C at any moment, and exceptions that other threads send: the model is as it was, and can be explained again."""

from __future__ import annotations

import contextlib
import ctypes
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.core.interrupts import interruptible
from tests.thorough import times

OURS = ("interp_plugins", "contextlib.py")


class Restless(nn.Module):
    """A model with all that can be left changed: modes, flags, gradients, hooks, buffers, an attribute, draws."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.norm, self.act = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)
        self.drop, self.head = nn.Dropout(0.5), nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("cache", None)
        self.state = torch.zeros(1)
        self.norm.eval()
        self.conv.bias.requires_grad_(False)
        self.head[2].weight.grad = torch.ones(3, 12)
        self.conv.register_forward_hook(lambda m, i, o: None)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.cache = x.detach().mean()
        self.state = self.state + 1
        noise = torch.rand(()) + float(np.random.rand()) + random.random()  # noqa: NPY002
        return self.head(self.drop(self.act(self.norm(self.conv(x))))) + noise


def facts(net: nn.Module) -> dict[str, Any]:
    """Everything that must be as it was, as plain values."""
    numpy = np.random.get_state()  # noqa: NPY002
    return {
        "buffers": {n: {k: id(b) for k, b in m._buffers.items()} for n, m in net.named_modules()},
        "state_dict": {name: t.tolist() for name, t in net.state_dict().items()},
        "modes": [m.training for m in net.modules()],
        "flags": [p.requires_grad for p in net.parameters()],
        "grads": [None if p.grad is None else p.grad.tolist() for p in net.parameters()],
        "hooks": [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in net.modules()],
        "attribute": [m.state.tolist() for m in net.modules() if hasattr(m, "state")],
        "generators": (random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state().tolist()),
        "modes of torch": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "handler": signal.getsignal(signal.SIGINT),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


pytestmark = pytest.mark.filterwarnings("ignore:The model draws random numbers")

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("saliency", {}),
    ("gradcam", {}),
    ("ig", {"n_steps": 3}),
    ("layer_integrated_gradients", {"n_steps": 3, "layer": "act"}),
    ("deep_lift", {}),
    ("occlusion", {"sliding_window_shapes": (1, 4, 4), "strides": 4}),
    ("noise_tunnel", {"nt_samples": 2}),
    ("lime", {"n_samples": 4}),
]


class AtStep:
    """Do something at the k-th instruction of ours; counts them where k is None.

    Args:
        k: which instruction.
        act: what is done there.
    """

    def __init__(self, k: int | None, act: Callable[[], object]):
        self.k, self.act, self.count = k, act, 0

    def _begin(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not any(part in frame.f_code.co_filename for part in OURS):
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            self.count += 1
            if self.count == self.k:
                sys.settrace(None)
                self.act()
        return self._step

    def __enter__(self) -> AtStep:
        sys.settrace(self._begin)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def run(name: str, more: dict[str, Any], net: nn.Module, x: Tensor) -> None:
    explain(net, x, name, target=1, progress=False, **more)


def interrupted(seed: int, method: int, act: Callable[[], object], counts: dict[int, int]) -> list[str]:
    """One trial: what is not as it was after a method was interrupted at some instruction."""
    name, more = METHODS[method]
    net, x = Restless(), torch.randn(1, 1, 8, 8)
    if method not in counts:
        run(name, more, Restless(), x)  # what is made once for all
        with AtStep(None, act) as step:
            run(name, more, Restless(), x)
        counts[method] = step.count
    k = random.Random(seed).randrange(1, counts[method] + 1)
    before = facts(net)
    with contextlib.suppress(KeyboardInterrupt), AtStep(k, act):
        run(name, more, net, x)
    left = [f"{name} at {k}: {what}" for what in changed(before, facts(net))]
    if not left:
        run(name, more, net, x)  # nothing stands in its way
        left = [f"{name} at {k}, called again: {what}" for what in changed(before, facts(net))]
    return left


def test_ctrl_c_at_any_instruction_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    # Threads that earlier tests left behind draw nothing; where others may, generators are no promise after Ctrl-C.
    monkeypatch.setattr("interp_plugins.core.global_random.others_run", lambda: False)
    counts: dict[int, int] = {}
    with fresh_handler():
        left = [interrupted(seed, seed % len(METHODS), press, counts) for seed in range(times(40, 400))]
    assert [one for one in left if one] == []


@contextlib.contextmanager
def fresh_handler() -> Any:
    """Python's own handler of Ctrl-C, whatever the test runner has set."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_by_a_clock_leaves_no_trace() -> None:
    """The signal comes while torch computes, too, and at any time between."""
    net, x, left = Restless(), torch.randn(1, 1, 8, 8), []
    run("ig", {"n_steps": 3}, net, x)
    begin = time.perf_counter()
    run("ig", {"n_steps": 3}, net, x)
    took, draw = time.perf_counter() - begin, random.Random(1)
    before = facts(net)
    with fresh_handler():
        wanted = facts(net)
        for _ in range(times(30, 400)):
            timer = signal.signal(signal.SIGALRM, lambda number, frame: press())
            try:
                signal.setitimer(signal.ITIMER_REAL, max(1e-5, draw.random() * took))
                with contextlib.suppress(KeyboardInterrupt):
                    run("ig", {"n_steps": 3}, net, x)
                    time.sleep(0.001)
            except KeyboardInterrupt:
                pass
            finally:
                with contextlib.suppress(KeyboardInterrupt):
                    signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, timer)
            left += changed(wanted, facts(net))
    assert left == [] and changed(before, facts(net)) == []


class Stop(BaseException):
    """What one thread sends to another."""


def test_exceptions_that_another_thread_sends_leave_no_trace() -> None:
    """They cannot be held back, so what they interrupt is done again."""
    draw, left = random.Random(4), []
    for trial in range(times(30, 400)):
        name, more = METHODS[trial % len(METHODS)]
        net, x = Restless(), torch.randn(1, 1, 8, 8)
        before = facts(net)

        def work(name: str = name, more: Any = more, net: nn.Module = net, x: Tensor = x) -> None:
            with contextlib.suppress(Stop):
                run(name, more, net, x)
                time.sleep(0.01)

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(draw.random() * 0.02)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stop))
        thread.join(20)
        assert not thread.is_alive()
        left += [f"{name}: {what}" for what in changed(before, facts(net)) if what != "generators"]
    assert left == []


def test_a_signal_goes_on_at_once_between_the_passes() -> None:
    class Pressed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            press()
            raise AssertionError("the model went on")

    with fresh_handler(), pytest.raises(KeyboardInterrupt):
        explain(Pressed(), torch.ones(1, 2), "saliency")


def test_a_handler_of_the_users_is_called_and_stays() -> None:
    seen: list[int] = []

    def mine(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGINT, mine)
    try:
        with interruptible():
            press()
            assert seen == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)
