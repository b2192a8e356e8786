"""Orders of features walked step by step: the same scores as the plain engine, or not used at all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_plugins.attr import ShapleyValueSampling
from interp_plugins.engine import Walker, acceleration
from interp_plugins.engine.incremental import walk
from tests.engine.test_incremental import FALLBACKS, NETS, both, net, picture, same, simple


@pytest.fixture(autouse=True)
def _even_small_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny nets gain little; what is tested is exactness. Several parts per order."""
    for name, value in (("MIN_GAIN", 0), ("MIN_ELEMENTS", 0), ("MAX_STEPS", 6), ("MIN_STEPS", 4)):
        monkeypatch.setattr(walk, name, value)


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each asking was answered by walking."""
    found: list[bool] = []
    original = Walker.scores

    def scores(self: Walker, *args: Any) -> Tensor | None:
        made = original(self, *args)
        found.append(made is not None)
        return made

    monkeypatch.setattr(Walker, "scores", scores)
    return found


def segments(samples: int = 1) -> Tensor:
    """Sixteen segments with ragged borders, (samples, 1, 23, 19); those of the second sample lie elsewhere."""
    mask = (torch.arange(23)[:, None] // 6 * 4 + torch.arange(19) // 5).expand(samples, 1, 23, 19).clone()
    mask[:, :, 5, 2] = 4
    mask[-1, :, 12, 9:11] = 5
    return mask


def shapley(model: Any, x: Tensor, **kwargs: Any) -> Tensor:
    kwargs = {"target": 1, "feature_mask": segments(), "n_samples": 3, "seed": 0, "progress": False, **kwargs}
    return ShapleyValueSampling(model).attribute(x, **kwargs)


@pytest.mark.parametrize("name", NETS)
def test_scores_are_those_of_the_plain_engine(name: str, walked: list[bool]) -> None:
    model, x = net(*NETS[name]()), picture(1)
    assert same(*both(lambda: shapley(model, x, baselines=0.3)))
    assert walked == [True]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"feature_mask": segments(2), "target": [0, 2]},
        {"target": None, "baselines": picture(2).flip(2)},
        {"target": lambda out: out.softmax(1)[:, 0], "antithetic": True, "perturbations_per_eval": 3},
        {"stratified": True, "tol": 0.3, "max_samples": 9},
        {"batch_size": 1, "n_samples": 1},
    ],
    ids=["masks of their own", "all outputs", "function", "tol", "row by row"],
)
def test_arguments_mean_what_they_mean(kwargs: dict[str, Any], walked: list[bool]) -> None:
    model, x = net(*NETS["residual"]()), picture(2)
    assert same(*both(lambda: shapley(model, x, **kwargs)))
    assert walked and all(walked)


def test_segments_that_are_as_their_baseline_are_left_out(walked: list[bool]) -> None:
    model, same_there = net(*NETS["residual"]()), segments() % 5 == 0
    x = torch.where(same_there, 0.3, picture(1))
    made, plain = both(lambda: shapley(model, x, baselines=0.3))
    assert same(made, plain) and walked == [True]
    assert not made[same_there.expand_as(made)].any()


def test_rounding_does_not_add_up(walked: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_STEPS", 32)
    monkeypatch.setattr(walk, "MIN_STEPS", 32)
    model, x = net(*NETS["residual"]()), picture(1)
    made, plain = both(lambda: shapley(copy.deepcopy(model).float(), x.float()))
    truth = shapley(model, x)
    assert walked == [True, True]
    assert (made - truth).norm() < 2 * (plain - truth).norm() < 1e-4 * truth.norm()


def test_rows_are_halved_when_memory_runs_out(walked: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    original = Walker._run

    def run(self: Walker, rows: Any) -> Any:
        if len(rows) > 1:
            raise MemoryError
        return original(self, rows)

    monkeypatch.setattr(Walker, "_run", run)
    model, x = net(*NETS["pools"]()), picture(1)
    assert same(*both(lambda: shapley(model, x)))
    assert walked == [True]


@pytest.mark.parametrize("name", FALLBACKS)
def test_falls_back_to_the_plain_engine(name: str, walked: list[bool]) -> None:
    model, x = FALLBACKS[name](), picture(1)
    made, plain = both(lambda: shapley(model, x, target=None if name == "control flow" else 0))
    assert walked == ([False] if name == "disagreeing" else [])
    assert torch.equal(made, plain)


def test_is_left_alone_where_it_does_not_pay(walked: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = simple(), picture(1)
    scattered = (torch.arange(23 * 19) % 16).reshape(1, 1, 23, 19)
    shapley(model, x, feature_mask=scattered)
    for name in ("MIN_ELEMENTS", "MIN_FEATURES"):
        monkeypatch.setattr(walk, name, 10**15)
        shapley(model, x)
        monkeypatch.setattr(walk, name, 0)
    assert not walked
    monkeypatch.setattr(walk, "MIN_GAIN", 10**15)
    made = shapley(model, x)
    with acceleration(False):
        assert torch.equal(made, shapley(model, x))
    assert walked == [False]
