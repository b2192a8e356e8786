"""Models that take one row, or the batch's own number of rows."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.attr import FeatureAblation, KernelShap, Lime, Occlusion, ShapleyValues, ShapleyValueSampling
from interp_plugins.core.batching import AUTOMATIC
from interp_plugins.core.errors import InterpWarning

torch.manual_seed(0)


class Viewed(nn.Module):
    """The number of rows is written into a view; the net is affine."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.rows = nn.Conv2d(1, 2, 3).double(), nn.Linear(32, 3).double(), rows

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).view(self.rows, -1))


class Asserting(Viewed):
    """As wrappers of graph networks do it."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[0] == self.rows, "Dimension 0 of input should be 1"
        return super().forward(x)


class Pooled(Viewed):
    """No error for more rows, but no row for each either."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).reshape(-1, 2, 4, 4).mean(0, keepdim=True).flatten(1))


MASK = torch.arange(36).view(1, 1, 6, 6) // 9
METHODS: dict[str, dict[str, Any]] = {
    "feature_ablation": {"feature_mask": MASK},
    "shapley_values": {"feature_mask": MASK},
    "shapley_value_sampling": {"feature_mask": MASK, "n_samples": 2},
    "kernel_shap": {"feature_mask": MASK, "n_samples": 30},
    "integrated_gradients": {"n_steps": 3},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("kind", "rows"), [(Viewed, 1), (Asserting, 1), (Pooled, 1), (Viewed, 3), (Asserting, 3)])
def test_affine_maps_are_right(kind: type[Viewed], rows: int, method: str) -> None:
    net, x = kind(rows), torch.randn(rows, 1, 6, 6).double()
    per_feature = torch.zeros_like(x)
    for k in range(4):
        change = (net(x) - net(torch.where(k == MASK, 0.0, x)))[:, 1].detach()
        per_feature += change[:, None, None, None] * (k == MASK)
    with pytest.warns(InterpWarning, match="one row at a time|one number of rows only"):
        found = explain(net, x, method, target=1, **METHODS[method])[0].attribution
    if method == "integrated_gradients":
        sums = [torch.stack([t[:, MASK[0] == k].sum(1) for k in range(4)], 1) for t in (found, per_feature)]
        sums[1] = sums[1] / 9
        assert torch.allclose(sums[0], sums[1], atol=1e-9)
    else:
        assert torch.allclose(found.expand_as(x), per_feature, atol=1e-8)


def test_it_is_said_once() -> None:
    net, x = Viewed(1), torch.randn(1, 1, 6, 6).double()
    with pytest.warns(InterpWarning, match="one row at a time"):
        explain(net, x, "ig", target=1, n_steps=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(net, x, "ig", target=1, n_steps=3)


def test_exported_programs_of_one_row() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).eval()
    x = torch.randn(1, 4)
    exported = torch.export.export(net, (x,)).module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = explain(exported, x, "feature_ablation", target=1)[0].attribution
    assert torch.allclose(found, explain(net, x, "feature_ablation", target=1)[0].attribution, atol=1e-6)


class Limited(Viewed):
    """Any number of rows up to some, as programs exported with a range for the batch have it."""

    def __init__(self, most: int) -> None:
        super().__init__(-1)
        self.most = most
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise ValueError(f"expected at most {self.most} rows, got {len(x)}")
        return self.head(self.conv(x).flatten(1))


@pytest.mark.parametrize("method", ["feature_ablation", "kernel_shap", "integrated_gradients"])
@pytest.mark.parametrize(("most", "samples", "left"), [(2, 1, 1), (3, 3, 3), (4, 3, 3), (2, 3, 1)])
def test_more_rows_than_run_are_tried_once_a_model(most: int, samples: int, left: int, method: str) -> None:
    net, x = Limited(most), torch.randn(samples, 1, 6, 6).double()
    right = explain(Limited(10**6), x, method, target=1, **METHODS[method])[0].attribution
    with pytest.warns(InterpWarning, match="expected at most"):
        found = explain(net, x, method, target=1, **METHODS[method])[0].attribution
    assert torch.allclose(found, right, atol=1e-9)
    net.seen.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(net, x, method, target=1, **METHODS[method])
    assert max(net.seen) <= max(left, min(samples, most))


def test_errors_of_a_size_that_was_said_and_of_every_size_are_the_models_own() -> None:
    x = torch.randn(2, 1, 6, 6).double()
    for size, options in ((6, {"batch_size": 6}), (8, {"perturbations_per_eval": 4})):
        net = Limited(2)
        with pytest.raises(ValueError, match=f"got {size}"):
            explain(net, x, "feature_ablation", target=1, feature_mask=MASK, **options)
        assert net.seen[-1] == size
    broken = Limited(0)
    with pytest.raises(ValueError, match="expected at most 0 rows"):
        explain(broken, x, "ig", target=1)


@pytest.mark.parametrize("cls", [FeatureAblation, ShapleyValues, ShapleyValueSampling, KernelShap, Lime, Occlusion])
@pytest.mark.parametrize("samples", [1, 3])
def test_one_perturbation_that_is_said_is_one_in_a_pass(cls: Any, samples: int) -> None:
    net, x = Limited(10**6), torch.randn(samples, 1, 6, 6).double()
    options: dict[str, Any] = {"sliding_window_shapes": (1, 3, 3)} if cls is Occlusion else {"feature_mask": MASK}
    options |= {"seed": 0} if cls in (ShapleyValueSampling, KernelShap, Lime) else {}
    said = cls(net).attribute(x, target=1, perturbations_per_eval=1, **options)
    assert max(net.seen) <= max(samples, 2)  # two rows are the probe's
    many = cls(net).attribute(x, target=1, **options)
    assert max(net.seen) > samples + 1
    assert torch.allclose(said, many, atol=1e-9)


def test_a_copied_default_is_still_the_default() -> None:
    for again in (copy.copy(AUTOMATIC), copy.deepcopy(AUTOMATIC), pickle.loads(pickle.dumps(AUTOMATIC))):
        assert again is AUTOMATIC
    assert AUTOMATIC == 1 and AUTOMATIC is not int(AUTOMATIC) and repr(AUTOMATIC) == "1"
