"""Where perturbation methods and helpers differ from Captum on purpose: entries of docs/differences.md."""

from __future__ import annotations

import warnings
from typing import Any

import captum.attr as theirs
import matplotlib
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import interp_plugins.attr as ours
from interp_plugins import row_probe
from tests.conformance.cases import Mlp


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Mlp(nn.ReLU()).double()


def rows_of(lib: Any, net: nn.Module, x: Tensor, **arguments: Any) -> int:
    rows: list[int] = []

    def model(z: Tensor) -> Tensor:
        rows.append(len(z))
        return net(z)[:, 0]

    lib.ShapleyValues(model).attribute(x, **arguments)
    return sum(rows)


@row_probe(False)
def test_exact_shapley_values_ask_for_each_coalition_once(net: nn.Module, x: Tensor) -> None:
    one = x[:1]
    assert rows_of(ours, net, one) == 2**4 + 1  # F(x) is also the score that is reported
    assert rows_of(theirs, net, one) == 4 * 24 + 1
    gap = torch.tensor([[0, 1, 3, 3]])  # no feature 2
    with pytest.warns(UserWarning, match="missing some integers"):
        assert rows_of(theirs, net, one, feature_mask=gap) == 4 * 24 + 1
    assert rows_of(ours, net, one, feature_mask=gap) == 2**3 + 1


def test_kernel_shap_of_one_feature_and_its_constraint(net: nn.Module, x: Tensor) -> None:
    change = (net(x) - net(x * 0))[:1, 1].detach()
    whole = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises((ValueError, RuntimeError), match=r"probs|probability"):  # whichever of torch's checks is on
        theirs.KernelShap(net).attribute(x[:1], target=1, feature_mask=whole)
    assert torch.allclose(ours.KernelShap(net).attribute(x[:1], target=1, feature_mask=whole), change.expand(1, 4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        captums = theirs.KernelShap(net).attribute(x[:1], target=1, n_samples=12)
    mine = ours.KernelShap(net).attribute(x[:1], target=1, n_samples=12, seed=0)
    assert abs(float(mine.sum() - change)) < 1e-14 < 1e-9 < abs(float(captums.sum() - change))
    assert mine.dtype == torch.float64 and captums.dtype == torch.float32


def test_samples_of_a_batch_share_their_draws(net: nn.Module, x: Tensor) -> None:
    alike = {}
    for lib in (ours, theirs):
        for name in ("Lime", "KernelShap"):
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "You are providing multiple inputs"
                torch.manual_seed(0)
                together = getattr(lib, name)(net).attribute(x, target=1, n_samples=10)
                torch.manual_seed(0)
                alone = getattr(lib, name)(net).attribute(x[1:2], target=1, n_samples=10)
            alike[lib, name] = bool(torch.allclose(together[1], alone[0]))
    assert alike == {(ours, "Lime"): True, (ours, "KernelShap"): True, (theirs, "Lime"): False,
                     (theirs, "KernelShap"): False}  # fmt: skip


def test_layer_permutation_takes_a_target(net: nn.Module, x: Tensor) -> None:
    with pytest.raises(AssertionError, match="Cannot choose target column"):
        theirs.LayerFeaturePermutation(net, net.act).attribute(x, target=1)
    mine = ours.LayerFeaturePermutation(net, net.act).attribute(x, target=1, seed=0)
    assert mine.shape == (3, 5) and mine.any()


def test_one_sample_is_not_permuted(net: nn.Module, x: Tensor) -> None:
    assert not theirs.FeaturePermutation(net).attribute(x[:1], target=1).any()
    with pytest.raises(AssertionError, match="cannot permute features with batch_size = 1"):
        ours.FeaturePermutation(net).attribute(x[:1], target=1)


def test_every_input_needs_a_mask(net: nn.Module, x: Tensor) -> None:
    def two(a: Tensor, b: Tensor) -> Tensor:
        return net(a + 2 * b)

    mask = torch.tensor([[0, 0, 1, 1]])
    first, second = theirs.FeatureAblation(two).attribute((x, x), target=1, feature_mask=mask)
    assert first.any() and not second.any()
    with pytest.raises(AssertionError, match="feature_mask has 1 tensors for 2 inputs; give one per input"):
        ours.FeatureAblation(two).attribute((x, x), target=1, feature_mask=mask)


def test_feature_of_two_inputs_is_permuted_in_one_order() -> None:
    a = torch.arange(40.0)[:, None]
    same = torch.zeros(1, 1, dtype=torch.long)
    apart = {}
    for lib in (ours, theirs):
        seen: list[Tensor] = []

        def model(u: Tensor, v: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append((u - v).abs().max())
            return (u * v).sum(1)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            lib.FeaturePermutation(model).attribute((a, a), feature_mask=(same, same))
        apart[lib] = float(torch.stack(seen).max())
    assert apart[ours] == 0 < apart[theirs]


def test_expanded_masks_are_taken(net: nn.Module, x: Tensor) -> None:
    images = x[:, None].expand(3, 2, 4)
    mask = torch.tensor([[[0, 0, 1, 2]]]).expand(1, 2, 4)
    with pytest.raises(RuntimeError, match="view"):
        theirs.ShapleyValueSampling(lambda z: net(z.sum(1))).attribute(
            images, target=0, feature_mask=mask.permute(0, 2, 1).expand(1, 4, 2).permute(0, 2, 1)
        )
    mine = ours.ShapleyValueSampling(lambda z: net(z.sum(1))).attribute(images, target=0, feature_mask=mask)
    assert mine.shape == images.shape


def test_loader_of_plain_tensors_explains_the_whole_batch(x: Tensor) -> None:
    loader = DataLoader(x, batch_size=3)
    weight = torch.tensor([1.0, 2.0, 0.0, -1.0], dtype=torch.float64)
    known: dict[str, Any] = {"to_metric": lambda out: out.sum(), "return_input_shape": False}
    mine = ours.DataLoaderAttribution(ours.FeatureAblation(lambda z: z @ weight)).attribute(loader, **known)
    assert torch.allclose(mine[0].double(), x.sum(0) * weight)
    captums = theirs.DataLoaderAttribution(theirs.FeatureAblation(lambda z: z @ weight))
    with pytest.raises(Exception):  # noqa: B017, PT011 - it iterates over the rows, and fails where it happens to
        assert torch.allclose(captums.attribute(loader, **known)[0].double(), x.sum(0) * weight)


def test_pictures_of_zeros_and_of_time_series_are_drawn() -> None:
    zeros = np.zeros((4, 4, 1))
    with pytest.raises(AssertionError, match="Cannot normalize by scale factor = 0"):
        theirs.visualization.visualize_image_attr(zeros, use_pyplot=False)
    assert not np.asarray(
        ours.visualization.visualize_image_attr(zeros, use_pyplot=False)[1].images[0].get_array()
    ).any()
    series = np.random.default_rng(0).normal(size=(9, 2))
    assert tuple(map(int, matplotlib.__version__.split(".")[:2])) >= (3, 9)
    with pytest.raises(AttributeError, match="get_cmap"):
        theirs.visualization.visualize_timeseries_attr(series, series, use_pyplot=False)
    figure, _ = ours.visualization.visualize_timeseries_attr(series, series, use_pyplot=False)
    assert len(figure.axes) == 2
    for lib, escaped in ((ours, True), (theirs, False)):
        assert ("&lt;i&gt;" in lib.visualization.format_word_importances(["an <i>x</i>"], [0.5])) == escaped
