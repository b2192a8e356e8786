"""Each acceleration broken on purpose: the right map comes out all the same, and the meter says what was dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import acceleration, explain
from interp_plugins.core.errors import AccelerationWarning, ModelError
from interp_plugins.core.explanation import Explanation
from interp_plugins.engine import shared_passes
from interp_plugins.engine.incremental import engine, ops, walk
from interp_plugins.engine.kernels.winograd import WINOGRAD
from interp_plugins.engine.plan import candidates, convolutions
from interp_plugins.engine.plan.first_layer import BehindFirstLayer
from interp_plugins.engine.plan.layout import InLayout
from interp_plugins.engine.plan.replay import Memory, Replaying
from tests.engine.test_plan import Residual, trained
from tests.engine.test_winograd import Block

WAYS = ("forward", "backward", "raises")


class Broken(torch.autograd.Function):
    """1.5 times too much, one way or the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: str) -> Tensor:
        ctx.how = how
        if how == "raises":
            raise RuntimeError("out of order")
        if how == "surprises":
            raise OSError("who would have thought")
        return x * (1.5 if how == "forward" else 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * (1.5 if ctx.how == "backward" else 1.0), None


def broken(function: Callable[..., Any], how: str) -> Callable[..., Any]:
    return lambda *args, **kwargs: Broken.apply(function(*args, **kwargs), how)


Break = Callable[[pytest.MonkeyPatch, str], None]


def folding(patch: pytest.MonkeyPatch, how: str) -> None:
    original = candidates.folded

    def folded(*args: Any) -> dict[int, nn.Module]:
        found = original(*args)
        for m in found.values():
            if not isinstance(m, nn.Identity):
                m.forward = broken(m.forward, how)
        return found

    patch.setattr(candidates, "folded", folded)


def layout(patch: pytest.MonkeyPatch, how: str) -> None:
    patch.setattr(InLayout, "__call__", broken(InLayout.__call__, how))


def first_layer(patch: pytest.MonkeyPatch, how: str) -> None:
    original = BehindFirstLayer.pull_back
    if how == "backward":
        patch.setattr(BehindFirstLayer, "pull_back", lambda self, *args: 1.5 * original(self, *args))
    else:
        patch.setattr(BehindFirstLayer, "encode", broken(BehindFirstLayer.encode, how))


def replay(patch: pytest.MonkeyPatch, how: str) -> None:
    if how == "backward":
        patch.setattr(Replaying, "__call__", broken(Replaying.__call__, how))
    else:
        patch.setattr(Memory, "_for_rows", broken(Memory._for_rows, how))


def direction(cls: Any) -> Break:
    """Of a transformed weight: the way back only, or the way there only."""

    def way(patch: pytest.MonkeyPatch, how: str) -> None:
        original = cls.__call__

        def call(self: Any, x: Tensor, bias: bool) -> Tensor:
            if how == "raises back" and self.is_back:
                raise RuntimeError("out of order")
            wrong = self.is_back if how == "backward" else not self.is_back
            made: Tensor = original(self, x, bias)
            return Broken.apply(made, "forward" if how == "backward" else how) if wrong else made

        patch.setattr(cls, "__call__", call)

    return way


PLANS: dict[str, tuple[Break, str, str]] = {  # how it is broken, on which problem, what the meter calls it
    "folding": (folding, "residual", "folded 2"),
    "folding behind a layer that is read": (folding, "read", "folded 1"),
    "layout": (layout, "whole", "channels-last"),
    "first layer": (first_layer, "residual", "first layer out of the loop"),
    "replay": (replay, "at a layer", "what lies before the layer out of the loop"),
    "winograd": (direction(convolutions._ConvDirection), "block", "winograd 2"),
}


class Around(nn.Module):
    """What lies before the layer goes around it, too."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.before(x))
        return self.head(torch.tanh(self.layer(y)) + y)


def problem(name: str, patch: pytest.MonkeyPatch) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    patch.setattr(convolutions, "_PREPARED", 0)
    torch.manual_seed(0)
    if name == "block":
        return Block().eval(), torch.randn(1, 3, 33, 33), {"batch_size": 8}
    if name == "at a layer":
        around = Around().eval()
        return around, torch.randn(2, 6), {"layer": around.layer}
    if name == "read":
        net = trained(Residual())
        return net, torch.randn(1, 3, 8, 8), {"method": "layer_conductance", "layer": net.conv1}
    method = {"method": "idgi"} if name == "whole" else {}  # whose rows go through the first layer, too
    return trained(Residual()), torch.randn(1, 3, 8, 8), method


def explained(net: nn.Module, x: Tensor, method: str = "ig", **kwargs: Any) -> Explanation:
    steps = {"n_steps": 12} if method in ("ig", "idgi", "layer_conductance") else {}
    return explain(net, x, method, target=1, progress=False, **steps, **kwargs)[0]


def right(found: Explanation, plain: Explanation) -> bool:
    a, b = found.attribution, plain.attribution
    return bool((a - b).norm() <= 1e-4 * b.norm()) and bool(b.norm() > 0)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_is_wrong_is_dropped_one_way_and_the_other(
    name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, where, called = PLANS[name]
    if name == "winograd" and WINOGRAD.refused():
        pytest.skip("refused here")
    net, x, asked = problem(where, monkeypatch)
    plain = explained(net, x, accelerate=False, **asked)
    whole = explained(net, x, **asked)
    assert any(called in text for text in whole.meta["engine"]["used"]), whole.meta["engine"]
    assert right(whole, plain)
    damage(monkeypatch, how)
    found = explained(net, x, **asked)
    told = found.meta["engine"]
    assert right(found, plain), told
    kind = {"forward": "outputs are off by", "backward": "gradients are off by", "raises": "out of order"}[how]
    assert any(called in text and kind in text for text in told["dropped"]), told
    assert not any(called in text for text in told["used"])


def test_a_transformed_weight_that_first_goes_backward_in_a_loop_is_compared_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plan for forward passes only, whose caller goes backward all the same."""
    damage, where, _ = PLANS["winograd"]
    if WINOGRAD.refused():
        pytest.skip("refused here")
    net, x, asked = problem(where, monkeypatch)
    plain = explained(net, x, accelerate=False, **asked)
    monkeypatch.setattr("interp_plugins.attr.shared.path.behind_first_layer", lambda *args, **kwargs: None)
    from interp_plugins.attr.shared import path

    planned = path.planned
    monkeypatch.setattr(path, "planned", lambda *args, backward, **kwargs: planned(*args, **kwargs))
    assert right(explained(net, x, **asked), plain)
    damage(monkeypatch, "backward")
    found = explained(net, x, **asked)
    assert right(found, plain)
    assert any(t == "winograd: gradients of a layer are off by 50 %" for t in found.meta["engine"]["dropped"])


@pytest.mark.parametrize("how", ["forward", "raises"])
@pytest.mark.parametrize("name", ["incremental", "walker"])
def test_changes_that_are_wrong_are_left_to_the_plain_model(
    name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, bounds in (
        (engine, ("MIN_GAIN", "MIN_FEATURES", "MIN_ELEMENTS", "MIN_PRODUCTS")),
        (walk, ("MIN_GAIN", "MIN_ELEMENTS")),
    ):
        for bound in bounds:
            monkeypatch.setattr(module, bound, 0)
    net, x = trained(Residual()).double(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    cells = (torch.arange(16)[:, None] // 4 * 4 + torch.arange(16) // 4)[None, None]
    asked: dict[str, Any] = {"method": "occlusion", "sliding_window_shapes": (3, 4, 4)}
    if name == "walker":
        asked = {"method": "shapley_value_sampling", "feature_mask": cells, "n_samples": 3}
    plain = explained(net, x, accelerate=False, **asked)
    whole = explained(net, x, **asked)
    assert right(whole, plain)
    assert any(text.startswith(f"{name}:") for text in whole.meta["engine"]["used"])
    original = ops.Conv.change

    def change(*args: Any) -> Any:
        made = original(*args)
        made.delta = Broken.apply(made.delta, how)
        return made

    monkeypatch.setattr(ops.Conv, "change", change)
    found = explained(net, x, **asked)
    assert right(found, plain)
    kind = "scores are off by" if how == "forward" else "raised RuntimeError: out of order"
    assert any(t.startswith(f"{name}: ") and kind in t for t in found.meta["engine"]["dropped"]), found.meta["engine"]
    assert not any(text.startswith(name) for text in found.meta["engine"]["used"])


@pytest.mark.parametrize("how", ["changed", "raises"])
def test_a_pass_that_cannot_be_shared_runs_again(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = trained(Residual()), torch.randn(2, 3, 8, 8)
    two = ("saliency", "input_x_gradient")
    plain = explain(net, x, two, target=1, accelerate=False)
    whole = explain(net, x, two, target=1)
    assert whole[1].meta["engine"]["used"] == ["shared passes: gradients"]
    original = shared_passes.PassFacts.holds
    if how == "changed":  # somebody writes into what is remembered

        def holds(self: Any, now: Any) -> bool:
            for tensor, _ in self.made:
                tensor.mul_(1.5)
            return original(self, now)

        monkeypatch.setattr(shared_passes.PassFacts, "holds", holds)
    else:
        monkeypatch.setattr(shared_passes.PassFacts, "__init__", broken(lambda *args: torch.ones(()), how))
    found = explain(net, x, two, target=1)
    assert all(right(a, b) for a, b in zip(found, plain, strict=True))
    assert not found[1].meta["engine"]["used"]
    if how == "raises":
        assert found[1].meta["engine"]["dropped"] == ["shared passes: RuntimeError: out of order"]


@pytest.mark.parametrize("how", ["forward", "backward"])
def test_compiled_code_that_is_wrong_is_refused(how: str) -> None:
    @torch._dynamo.register_backend(name=f"broken {how}")
    def backend(graph: Any, examples: Any) -> Any:
        return lambda *args: [Broken.apply(out, how) for out in graph(*args)]

    net, x = trained(Residual()), torch.randn(1, 3, 8, 8)
    kind = "outputs" if how == "forward" else "gradients"
    with pytest.raises(ModelError, match=f"computes something else than the model: {kind} of up to .* differ by up to"):
        explained(net, x, compile=f"broken {how}")


def test_what_nobody_foresaw_is_told_once_per_model_and_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, asked = problem("whole", monkeypatch)
    plain = explained(net, x, accelerate=False, **asked)
    layout(monkeypatch, "surprises")
    with pytest.warns(AccelerationWarning, match=r"planned raised OSError: who would have thought\. The plain model"):
        found = explained(net, x, **asked)
    assert right(found, plain)
    again = explained(net, x, **asked)  # a warning would be an error here
    assert any("raised OSError: who would have thought" in text for text in again.meta["engine"]["dropped"])


@pytest.mark.parametrize("stops", [KeyboardInterrupt, SystemExit])
def test_being_stopped_is_no_fault(stops: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, asked = problem("whole", monkeypatch)

    def stopped(*args: Any) -> Any:
        raise stops

    monkeypatch.setattr(InLayout, "__call__", stopped)
    with pytest.raises(stops):
        explained(net, x, **asked)


def test_memory_that_ran_out_says_nothing_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, _ = problem("whole", monkeypatch)
    original, short = InLayout.__call__, [True]

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if short[0]:
            short[0] = False
            raise MemoryError
        return original(self, *args, **kwargs)

    monkeypatch.setattr(InLayout, "__call__", call)
    first, second = explain(net, x, ("idgi", "idgi"), target=1, progress=False, n_steps=12)
    assert "planned: no private view: memory ran out" in first.meta["engine"]["dropped"]
    assert any("channels-last" in text for text in second.meta["engine"]["used"])


@pytest.mark.parametrize("how", ["missing", "wrong", "raises", "switched off"])
def test_kernels_are_guests(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = WINOGRAD
    if guest.refused():
        pytest.skip("refused here")
    net, x, asked = problem("block", monkeypatch)
    plain = explained(net, x, accelerate=False, **asked)
    good, trial = guest._trial(), guest._trial
    if how == "missing":
        monkeypatch.setattr(guest, "_operators", ("_gone",))
    elif how == "wrong":
        monkeypatch.setattr(guest, "_trial", lambda: [good[0], (1.5 * good[1][0], good[1][1])])
    elif how == "raises":
        monkeypatch.setattr(guest, "_trial", lambda: broken(trial, "raises")())
    why = {
        "missing": "this build of torch has not mkldnn._gone",
        "wrong": "a small product is off by 50 %",
        "raises": "a small product raised RuntimeError: out of order",
        "switched off": "kernels are switched off",
    }[how]
    try:
        guest.refuse(None)
        with acceleration(kernels=False if how == "switched off" else None):
            found = explained(net, x, **asked)
    finally:
        monkeypatch.undo()
        guest.refuse(None)
    assert right(found, plain)
    assert f"winograd: {why}" in found.meta["engine"]["dropped"], found.meta["engine"]
    assert not any("winograd" in text for text in found.meta["engine"]["used"])
    assert guest.refused() is None
