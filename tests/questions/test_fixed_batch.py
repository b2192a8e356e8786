"""Models that take one row, or the batch's own number of rows."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
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
