"""Occlusion from a part of the windows: exact with all of them, honest with fewer, each sample on its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.attr import Occlusion
from interp_plugins.attr.perturbation.window_grid import Lattice
from interp_plugins.core.errors import InputError
from interp_plugins.core.features import Windows
from interp_plugins.core.report import collect
from interp_plugins.engine import acceleration
from interp_plugins.engine.incremental import engine


class Score(nn.Module):
    """Two smooth, not additive values per sample of any number of inputs of any shape."""

    def forward(self, *xs: Tensor) -> Tensor:
        total = sum(
            (x.flatten(1) * torch.linspace(0, 3, x[0].numel(), dtype=x.dtype).sin()).cumsum(1).tanh().mean(1)
            for x in xs
        )
        return torch.stack([total, total.square()], 1)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


SHAPES: dict[str, tuple[Any, Any, Any]] = {
    "series": (draw(2, 20, 3), (4, 3), (2, 3)),
    "row": (draw(3, 12), (1,), 1),
    "picture": (draw(2, 3, 13, 11), (3, 4, 3), (3, 2, 1)),
    "one window per channel": (draw(2, 3, 9, 9), (1, 3, 3), (1, 2, 2)),
    "volume": (draw(1, 1, 7, 6, 8), (1, 3, 2, 3), (1, 2, 1, 2)),
    "several": ((draw(2, 9), draw(2, 1, 8, 7)), ((3,), (1, 3, 3)), (1, (1, 2, 2))),
    "one window": (draw(2, 4), (4,), 1),
    "two windows": (draw(2, 4), (2,), 2),
}


@pytest.mark.parametrize("border", ["shift", "clip"])
@pytest.mark.parametrize("name", SHAPES)
def test_all_windows_give_the_plain_map(name: str, border: str) -> None:
    x, window, strides = SHAPES[name]
    for target in (1, None):
        how = {"sliding_window_shapes": window, "strides": strides, "border": border, "target": target}
        plain = Occlusion(Score()).attribute(x, **how)
        with collect() as report:
            found = Occlusion(Score()).attribute(x, tol=1e-12, **how)
        total = len(Windows(x if isinstance(x, tuple) else (x,), window, strides, border))
        assert report["n_windows"] == [total] * len(report["map_error"]) and set(report["map_error"]) == {0}
        for a, b in zip(*(m if isinstance(m, tuple) else (m,) for m in (found, plain)), strict=True):
            assert a.shape == b.shape and torch.allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", SHAPES)
def test_a_lattice_knows_the_norm_of_the_map_and_keeps_what_is_known(name: str) -> None:
    x, window, strides = SHAPES[name]
    xs = x if isinstance(x, tuple) else (x,)
    windows = Windows(xs, window, strides)
    start = 0
    for i, axes in enumerate(windows.axes):
        lattice = Lattice(axes)
        count = lattice.level.numel()
        values = draw(2, *lattice.sizes)
        total, times = torch.zeros(2, *xs[i].shape[1:]).double(), torch.zeros(xs[i].shape[1:])
        for k in range(count):
            which, box = windows.box(start + k)
            assert which == i
            total[(slice(None), *box)] += values.flatten(1)[:, k].reshape(2, *(1,) * len(box))
            times[box] += 1
        assert lattice.squared_norm(values) == pytest.approx(float((total / times).square().sum()))
        known = lattice.level == 0
        made = lattice.interpolated(values * known, known)
        assert torch.allclose(made[:, known], values[:, known])
        assert torch.allclose(lattice.interpolated(values, torch.ones_like(known)), values)
        assert float(made.abs().max()) <= float(values[:, known].abs().max()) + 1e-12
        start += count


def test_what_is_linear_between_the_first_windows_needs_no_others() -> None:
    ramp = torch.arange(40, dtype=torch.float64)
    with collect() as report:
        found = Occlusion(lambda z: z @ ramp).attribute(torch.ones(1, 40).double(), (8,), 2, tol=1e-9)
    plain = Occlusion(lambda z: z @ ramp).attribute(torch.ones(1, 40).double(), (8,), 2)
    assert report["n_windows"] == [5] and report["map_error"][0] < 1e-9
    assert torch.allclose(found, plain)


def test_first_windows_cover_everything_where_windows_overlap() -> None:
    """A single element that matters is not missed, however small."""
    for place in range(32):
        x = torch.ones(1, 32).double()
        with collect() as report:
            found = Occlusion(lambda z, p=place: z[:, p]).attribute(x, (5,), 1, tol=0.1)
        plain = Occlusion(lambda z, p=place: z[:, p]).attribute(x, (5,), 1)
        assert float((found - plain).norm() / plain.norm()) <= 0.1
        assert 9 <= report["n_windows"][0] <= 28


@pytest.fixture(scope="module")
def cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 5, padding=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 144, 3),
    ).double()  # fmt: skip


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Blurred noise with a bright spot, as different from each other as can be."""
    noise = nn.functional.avg_pool2d(draw(4, 1, 28, 28), 5, 1)
    noise[:, :, 5:9, 12:16] += 1
    return noise * torch.tensor([1, 3, 0.3, 1.5]).double().reshape(-1, 1, 1, 1)


WINDOW = {"sliding_window_shapes": (1, 6, 6), "strides": (1, 2, 2), "progress": False}


def test_estimates_are_near_the_truth_and_save_windows(cnn: nn.Module, pictures: Tensor) -> None:
    ratios, used, close = [], [], {**WINDOW, "strides": (1, 1, 1)}
    for target in range(3):
        plain = Occlusion(cnn).attribute(pictures, target=target, **close)
        for tol in (0.3, 0.1):
            with collect() as report:
                found = Occlusion(cnn).attribute(pictures, target=target, tol=tol, **close)
            true = (found - plain).flatten(1).norm(dim=1) / plain.flatten(1).norm(dim=1)
            stated = torch.tensor(report["map_error"], dtype=torch.float64)
            assert bool((stated <= tol).all())
            ratios.append((true / stated)[stated > 0])
            used.append(torch.tensor(report["n_windows"]) / 361)
    together = torch.cat(ratios)
    assert float((together <= 1).double().mean()) >= 0.9 and float(together.max()) < 1.5
    assert float(together.median()) > 0.3
    assert float(torch.stack(used[::2]).mean()) < 0.6


def test_samples_do_not_know_their_neighbours_or_chunks(cnn: nn.Module, pictures: Tensor) -> None:
    how = {**WINDOW, "target": 1, "tol": 0.1}
    with collect() as report:
        together = Occlusion(cnn).attribute(pictures, **how)
    assert len(set(report["n_windows"])) > 1
    with collect() as alone:
        one = Occlusion(cnn).attribute(pictures[2:3], batch_size=7, **how)
    assert alone["n_windows"] == report["n_windows"][2:3]
    assert torch.allclose(one[0], together[2], atol=1e-12)
    assert torch.allclose(Occlusion(cnn).attribute(pictures, perturbations_per_eval=5, **how), together, atol=1e-12)


def test_passes_are_what_is_reported(cnn: nn.Module, pictures: Tensor) -> None:
    with acceleration(False), collect() as report:
        Occlusion(cnn).attribute(pictures[:1], target=0, tol=0.2, batch_size=1, **WINDOW)
    assert report["forward_passes"] == report["n_windows"][0] + 1


def test_the_incremental_engine_evaluates_the_same_windows(
    cnn: nn.Module, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MIN_GAIN", "MIN_FEATURES", "MIN_ELEMENTS", "MIN_PRODUCTS"):
        monkeypatch.setattr(engine, name, 0)
    found, counts = [], []
    for on in (True, False):
        with acceleration(on), collect() as report:
            found.append(Occlusion(cnn).attribute(pictures, target=2, tol=0.1, **WINDOW))
        counts.append(report["n_windows"])
    assert counts[0] == counts[1]
    assert torch.allclose(found[0], found[1], atol=1e-10)


def test_a_model_with_one_value_per_batch(pictures: Tensor) -> None:
    with collect() as report:
        found = Occlusion(lambda z: z.square().mean()).attribute(pictures, tol=1e-9, **WINDOW)
    plain = Occlusion(lambda z: z.square().mean()).attribute(pictures, **WINDOW)
    assert len(report["n_windows"]) == 1 and torch.allclose(found, plain)


def test_explain_says_windows_and_error_per_sample(cnn: nn.Module, pictures: Tensor) -> None:
    both = explain(cnn, pictures, "occlusion", target=[0, 1], tol=0.3, progress=False,
                   sliding_window_shapes=(1, 6, 6), strides=(1, 2, 2))  # fmt: skip
    for exp in both:
        said = exp.meta["per_sample"]
        assert max(said["map_error"]) <= 0.3 and min(said["n_windows"]) < 100


@pytest.mark.parametrize("tol", [0, -1, True, "0.1"])
def test_tolerances_that_cannot_be_meant_are_refused(tol: Any) -> None:
    with pytest.raises(InputError, match="tol is a relative error of the map"):
        Occlusion(Score()).attribute(draw(1, 9), (3,), tol=tol)
