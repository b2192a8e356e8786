"""What runs once for all methods of a call, and what does not: nothing stale, nothing random, nothing kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.attr import GuidedBackprop, IntegratedGradients, Saliency
from interp_plugins.core.caches import call_cache
from interp_plugins.core.forward import Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.target import Index
from interp_plugins.engine import shared_passes as module
from interp_plugins.engine.shared_passes import cached_pass, clean_scores, share_passes


class Net(nn.Module):
    """Notes the rows of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Linear(4, 3)
        self.register_buffer("scale", torch.ones(()))
        self.seen = SimpleNamespace(rows=[])  # a list of tensors on the module itself would be a state

    def forward(self, x: Tensor, shift: Any = 0.0) -> Tensor:
        self.seen.rows.append(x.detach().clone())
        return self.fc(self.act(self.conv(x)).mean((2, 3))) * self.scale + shift


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) + 0.1


def clean_rows(net: Net, x: Tensor) -> dict[str, int]:
    """Rows of samples and of the zero baseline that went through the network."""
    rows = [row for call in net.seen.rows for row in call]
    return {"x": sum(any(torch.equal(r, s) for s in x) for r in rows), "0": sum(not bool(r.any()) for r in rows)}


METHODS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 5},
    "noise_tunnel": {"nt_samples": 2, "n_steps": 5},
    "occlusion": {"sliding_window_shapes": (3, 8, 8), "strides": (3, 8, 8)},
    "grad_cam": {},
    "grad_cam_plus_plus": {},
    "guided_backprop": {},
    "guided_grad_cam": {},
    "saliency": {},
    "input_x_gradient": {},
    "gradient_shap": {"n_samples": 3},
    "feature_ablation": {},
}


@pytest.mark.filterwarnings("ignore::interp_plugins.core.errors.RandomisationWarning")
def test_methods_of_one_call_share_their_clean_passes(net: Net, x: Tensor) -> None:
    quarters = torch.arange(4).repeat_interleave(4).expand(1, 1, 16, 16)
    settings: dict[str, Any] = {"baselines": 0.0, "feature_mask": quarters, "progress": False}
    together = explain(net, x, METHODS, **settings)
    shared = clean_rows(net, x)
    net.seen.rows.clear()
    plain = explain(net, x, METHODS, **settings, accelerate=False)
    apart = clean_rows(net, x)
    # Both samples: prediction (which finds the layer, too), gradients at the input, at the layer, by the guided rule.
    assert shared == {"x": 4 * 2, "0": 2}
    assert apart["x"] >= 3 * shared["x"] and apart["0"] > shared["0"]
    for mine, theirs in zip(together, plain, strict=True):
        assert torch.allclose(mine.attribution, theirs.attribution, atol=1e-5, rtol=1e-4), mine.method
        if mine.convergence_delta is not None:
            assert torch.allclose(mine.convergence_delta, theirs.convergence_delta, atol=1e-5), mine.method


def test_maps_of_two_methods_share_no_memory(net: Net, x: Tensor) -> None:
    first, second = explain(net, x, [Saliency(net), Saliency(net)], abs=False)
    assert first.attribution.data_ptr() != second.attribution.data_ptr()
    assert torch.equal(first.attribution, second.attribution)


@pytest.fixture
def ask(net: Net, x: Tensor) -> Callable[..., int]:
    """How often the network runs for two questions, with something in between."""

    def count(between: Callable[[], None] = lambda: None, again: Any = None, args: tuple[Any, Any] = (0.0, 0.0)) -> int:
        forward = [Forward(net, len(x), Index((1,)), (a,)) for a in args]
        with frozen(net), share_passes():
            first = clean_scores(forward[0], [x])
            between()
            second = clean_scores(forward[1], [x.clone() if again is None else again])
            runs = len(net.seen.rows)
            assert torch.equal(second, net(x if again is None else again, args[1])[:, 1].detach())
            assert torch.equal(first, second) == (runs == 1)
        return runs

    return count


def test_an_equal_question_is_answered_from_memory(ask: Callable[..., int]) -> None:
    assert ask() == 1


def test_anything_else_is_computed(net: Net, x: Tensor, ask: Callable[..., int]) -> None:
    def step() -> None:
        with torch.no_grad():
            net.fc.weight.mul_(2)

    def other_weight() -> None:
        net.fc.weight = nn.Parameter(net.fc.weight.detach() / 3)

    def buffer() -> None:
        net.scale.mul_(2)

    def hook() -> None:
        net.fc.register_forward_hook(lambda module, args, out: out / 2)

    for between in (step, other_weight, buffer, hook):
        net.seen.rows.clear()
        assert ask(between) == 2, between.__name__
    for again in (x + 1, x.double().float().neg(), x[:, :, :8].repeat(1, 1, 2, 1)):
        net.seen.rows.clear()
        assert ask(again=again) == 2
    for args in ((0.0, 1.0), (torch.zeros(2, 1), torch.ones(2, 1))):
        net.seen.rows.clear()
        assert ask(args=args) == 2


def test_what_was_changed_in_place_is_computed_again(net: Net, x: Tensor) -> None:
    forward = Forward(net, len(x), Index((1,)))
    with frozen(net), share_passes():
        inputs = x.clone()
        clean_scores(forward, [inputs])
        inputs.zero_()
        found = clean_scores(forward, [inputs])
        assert torch.equal(found, net(torch.zeros_like(x))[:, 1])
        made = cached_pass(forward, [x], "made", lambda: torch.ones(3))
        made.zero_()
        assert cached_pass(forward, [x], "made", lambda: torch.ones(3)).sum() == 3


def test_targets_share_outputs_but_not_gradients(net: Net, x: Tensor) -> None:
    with frozen(net), share_passes():
        for k in range(3):
            found = clean_scores(Forward(net, len(x), Index((k,))), [x])
            assert torch.equal(found, net(x)[:, k]) and len(net.seen.rows) == 2 + k  # one, and this line's
        maps = [Saliency(net).attribute(x, target=k, abs=False) for k in range(3)]
    alone = [Saliency(net).attribute(x, target=k, abs=False) for k in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(maps, alone))


@pytest.mark.filterwarnings("ignore::interp_plugins.core.errors.RandomisationWarning")
def test_gradients_by_another_rule_are_others(net: Net, x: Tensor) -> None:
    with frozen(net), share_passes():
        plain = Saliency(net).attribute(x, target=0, abs=False)
        guided = GuidedBackprop(net).attribute(x, target=0)
    assert torch.equal(guided, GuidedBackprop(net).attribute(x, target=0)) and not torch.equal(guided, plain)


class Noisy(nn.Module):
    """Draws from a global generator in every call."""

    def __init__(self, draw: Callable[[], Any]) -> None:
        super().__init__()
        self.fc, self.draw = nn.Linear(4, 3), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + float(self.draw())


class Recurrent(nn.Module):
    """Keeps its state from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.hidden = nn.Linear(4, 3), [torch.zeros(1, 3)]

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = [self.fc(x) + self.hidden[0]]
        return self.hidden[0]


class Counting(Recurrent):
    """The same in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.fc(x) * self.count


@pytest.mark.parametrize(
    "model",
    [
        Noisy(lambda: torch.rand(())),
        Noisy(np.random.rand),
        Recurrent(),
        Counting(),
    ],
    ids=["torch", "numpy", "state", "buffer"],
)
def test_a_pass_that_is_not_a_function_of_its_inputs_is_not_remembered(model: nn.Module) -> None:
    forward, rows = Forward(model, 2, Index((0,))), torch.rand(2, 4)
    with frozen(model), share_passes():
        first, second = (clean_scores(forward, [rows]) for _ in range(2))
        assert not torch.equal(first, second)
        assert not call_cache()[("passes",)]


def test_nothing_outlives_the_call(net: Net, x: Tensor) -> None:
    explain(net, x, ["ig", "saliency"], n_steps=3)
    assert call_cache() == {}
    held: list[weakref.ref[Any]] = []
    forward = Forward(net, len(x), Index((1,)))
    with frozen(net), share_passes():
        clean_scores(forward, [x])
        held.append(weakref.ref(call_cache()[("passes",)][0]))
    gc.collect()
    assert held[0]() is None


def test_large_and_many_results_are_not_kept(net: Net, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BYTES", 20)
    forward = Forward(net, len(x), Index((1,)))
    with frozen(net), share_passes():
        for size in (None, 1):
            assert torch.allclose(clean_scores(forward, [x], size), net(x)[:, 1])
        assert not call_cache()[("passes",)]
        monkeypatch.setattr(module, "_BYTES", 2**26)
        monkeypatch.setattr(module, "_MOST", 2)
        for k in range(4):
            cached_pass(forward, [x], k, lambda k=k: torch.tensor(k))
        assert [one.facts[0][0] for one in call_cache()[("passes",)]] == [0, 1]


def test_a_delta_on_its_own_still_counts_both_ends(net: Net, x: Tensor) -> None:
    _, delta = IntegratedGradients(net).attribute(x, target=1, n_steps=50, return_convergence_delta=True)
    assert delta.abs().max() < 1e-2 and clean_rows(net, x)["0"] == 2
