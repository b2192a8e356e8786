"""What `Explanation.meta["engine"]` tells: what ran, what was dropped and why; and the switch that it reads of."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import acceleration, explain
from interp_plugins.core.concat import joined
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.forward import Forward
from interp_plugins.core.report import collect
from interp_plugins.engine import incremental_for, planned, read_meter
from interp_plugins.engine.incremental import engine, walk
from interp_plugins.engine.kernels import weight_cache
from interp_plugins.engine.plan import convolutions
from interp_plugins.engine.plan import planned as planning
from interp_plugins.engine.switch import enabled, kernels_enabled
from tests.engine.test_plan import Residual, trained
from tests.engine.test_winograd import Block, chosen_here


@pytest.fixture
def residual() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return trained(Residual()), torch.randn(3, 3, 8, 8)


def told(net: Any, x: Tensor, method: Any = "ig", **kwargs: Any) -> dict[str, list[str]]:
    meter = explain(net, x, method, target=1, progress=False, **kwargs)[0].meta["engine"]
    return {kind: [text for text in texts if not text.startswith("shared passes")] for kind, texts in meter.items()}


def test_it_says_what_ran(residual: tuple[nn.Module, Tensor]) -> None:
    net, x = residual
    assert told(net, x, n_steps=20) == {
        "used": ["planned: folded 2, channels-last, first layer out of the loop"],
        "dropped": [],
    }
    assert told(net, x, "idgi", n_steps=20)["used"] == ["planned: folded 2, channels-last"]
    assert told(net, x, "occlusion", sliding_window_shapes=(3, 2, 2)) == {
        "used": ["planned: folded 2, channels-last"],
        "dropped": ["incremental: 49 pictures of 576 numbers, too few to pay"],
    }
    assert told(net, x, "saliency", accelerate=False) == {"used": [], "dropped": []}


def test_reasons(residual: tuple[nn.Module, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = residual
    assert told(net, x, n_steps=3)["dropped"] == ["planned: 9 rows, and 12 are the fewest that pay"]
    assert told(net, x, n_steps=20, accelerate=False)["dropped"] == ["planned: switched off"]
    assert told(net.half(), x.half(), n_steps=20)["dropped"] == ["planned: inputs are float16"]
    net.float()
    with torch.autocast("cpu"):
        assert told(net, x, n_steps=20)["dropped"] == ["planned: autocast"]
    assert told(lambda t: net(t), x, n_steps=20)["dropped"] == [
        "planned: the model has nothing to change for the better"
    ]
    mixed = nn.Linear(4, 64), *(nn.Linear(64, 64) for _ in range(8))
    tokens = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), *mixed, nn.Flatten())
    (why,) = told(tokens.eval(), torch.rand(1, 3, 8, 8), n_steps=20)["dropped"]
    assert why == "planned: 20 rows of a network of tokens, too few to pay"
    (why,) = told(nn.DataParallel(net), x, n_steps=20)["dropped"]
    assert why == "planned: no private view: DataParallel runs code that belongs to its own module objects"
    for bound in ("MIN_GAIN", "MIN_FEATURES", "MIN_ELEMENTS", "MIN_PRODUCTS"):
        monkeypatch.setattr(engine, bound, 0)
    windows = {"sliding_window_shapes": (3, 2, 2)}
    (ran,) = told(net, x, "occlusion", **windows)["used"]
    assert ran.startswith("incremental: ") and "times fewer multiplications" in ran
    reasons = {
        "hooks on conv2": lambda: net.conv2.register_forward_hook(lambda m, i, o: o),
        "the model takes further arguments": lambda: {"additional_forward_args": (None,)},
        "does not pay, ": lambda: monkeypatch.setattr(engine, "MIN_GAIN", 10**9),
        "too few multiplications to pay": lambda: monkeypatch.setattr(engine, "MIN_PRODUCTS", 10**18),
    }

    class Second(Residual):
        def forward(self, t: Tensor, unused: Any = None) -> Tensor:
            return super().forward(t)

    for reason, change in reasons.items():
        made = change()
        if isinstance(made, dict):
            found = told(trained(Second()), x, "occlusion", **windows, **made)["dropped"]
        else:
            found = told(net, x, "occlusion", **windows)["dropped"]
            if made is not None:
                made.remove()
        assert any(text.startswith(f"incremental: {reason}") for text in found), found
        monkeypatch.setattr(engine, "MIN_GAIN", 0)


def test_what_an_unknown_call_costs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("MIN_GAIN", "MIN_FEATURES", "MIN_ELEMENTS", "MIN_PRODUCTS"):
        monkeypatch.setattr(engine, bound, 0)
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    (ran,) = told(nn.Sequential(*layers), torch.randn(1, 3, 16, 16), "occlusion", sliding_window_shapes=(3, 4, 4))[
        "used"
    ]
    assert ran.endswith("whole tensors in GroupNorm")


def test_it_is_of_the_explanation_and_stays_with_it(residual: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    net, x = residual
    whole = explain(net, x, "ig", target=[0, 1], n_steps=20, progress=False)
    meters = [exp.meta["engine"] for exp in whole]
    assert meters[0] == meters[1] and meters[0]["used"] and meters[0]["used"] is not meters[1]["used"]
    assert whole[0][1:].meta["engine"] == meters[0]
    assert Explanation.load(whole[0].save(tmp_path / "one.safetensors")).meta["engine"] == meters[0]
    few = explain(net, x[:1], "ig", target=0, n_steps=3, progress=False)[0]
    both = joined([whole[0], few, whole[0]]).meta["engine"]
    assert both == {"used": meters[0]["used"], "dropped": ["planned: 3 rows, and 12 are the fewest that pay"]}


def test_a_stored_run_keeps_what_was_told_of_its_first_sample(
    residual: tuple[nn.Module, Tensor], tmp_path: Path
) -> None:
    pytest.importorskip("zarr")
    from interp_plugins.store import explain_dataset

    net, x = residual
    run: dict[str, Any] = {"methods": ("ig", "saliency"), "target": 1, "n_steps": 20, "progress": False}
    store = explain_dataset(net, list(x), tmp_path / "run", **run)
    again = explain_dataset(net, list(x), tmp_path / "run", **run)
    direct = explain(net, x[:1], ("ig", "saliency"), target=1, n_steps=20, progress=False)
    for i in range(2):
        assert store[2][i].meta["engine"] == again[0][i].meta["engine"] == direct[i].meta["engine"]
    assert "planned: folded 2, channels-last, first layer out of the loop" in store[2]["ig"].meta["engine"]["used"]


def test_what_cannot_pay_is_refused_before_anybody_looks_at_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unseen(nn.Module):
        def modules(self) -> Iterator[nn.Module]:
            raise AssertionError("somebody looked")

    monkeypatch.setattr(planning, "MIN_ELEMENTS", 1 << 14)
    x = torch.randn(1, 3, 8, 8)
    forward = Forward(Unseen(), 1)
    with collect() as report:
        assert planned(forward, [x], rows=11, chunk=8, backward=True)[0] is forward
        assert planned(forward, [x], rows=50, chunk=8)[0] is forward
        assert incremental_for(forward, [x], [x], range(7)) is None
        assert incremental_for(forward, [x], [x], range(500)) is None
    assert read_meter(report)["dropped"] == [
        "planned: 11 rows, and 12 are the fewest that pay",
        "planned: 50 rows of 192 numbers, too few to pay",
        "incremental: 7 features, and 8 are the fewest that pay",
        "incremental: 500 pictures of 192 numbers, too few to pay",
    ]


def test_switches_nest_and_belong_to_their_thread() -> None:
    seen: list[tuple[bool, bool]] = []

    def look() -> None:
        seen.append((enabled(), kernels_enabled()))

    both = acceleration(False)
    with acceleration(kernels=False):
        look()
        with both:
            look()
            with both, acceleration(True):
                look()
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        acceleration(False)(look)()
        look()
    look()
    assert seen == [
        (True, False),
        (False, False),
        (True, False),
        (True, True),
        (False, False),
        (True, False),
        (True, True),
    ]


@chosen_here
def test_what_is_kept_is_freed_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "_PREPARED", 0)
    torch.manual_seed(0)
    net, x = Block().eval(), torch.randn(1, 3, 33, 33)
    ran = "planned: folded 1, channels-last, winograd 2, first layer out of the loop"
    gc.collect()
    with acceleration(kernels=False):
        before = len(weight_cache._kept)
        assert told(net, x, n_steps=12, batch_size=8)["dropped"] == ["winograd: kernels are switched off"]
        assert len(weight_cache._kept) == before
    assert told(net, x, n_steps=12, batch_size=8)["used"] == [ran]
    assert len(weight_cache._kept) == before + 2
    acceleration.clear()
    assert len(weight_cache._kept) == 0
    assert told(net, x, n_steps=12, batch_size=8)["used"] == [ran]
    assert len(weight_cache._kept) == 2
    assert acceleration.max_bytes == 256 << 20


class OnCuda(Tensor):
    """A tensor that says that it lies on a GPU, where there is none."""

    device = torch.device("cuda")


@pytest.mark.parametrize(("features", "size", "pays"), [(64, 224, False), (784, 224, True), (2304, 384, True)])
def test_short_batches_of_a_gpu_are_not_prepared(features: int, size: int, pays: bool) -> None:
    """64 segments of a picture are one batch there, shorter than tracing and planning; a whole occlusion is not."""
    on_cpu = torch.empty(1, 3, size, size)
    x = on_cpu.as_subclass(OnCuda)
    forward: Any = SimpleNamespace(args=(), n=1, rows_apart=lambda: None)
    assert (engine._refused_at_once(x, features) is None) == pays
    assert (planning._refused_at_once(forward, [x], features) is None) == (features >= planning.MIN_ROWS_CUDA)
    assert walk._refused_at_once(x, features, 10**6) == "on cuda passes are short"
    assert engine._refused_at_once(on_cpu, features) is None
    assert planning._refused_at_once(forward, [on_cpu], features) is None
