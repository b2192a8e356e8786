"""Series in a fastai Learner, as tsai has them: several in one array, and which variable matters at which step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fastai.callback.progress import ProgressCallback  # noqa: F401 - Learner.no_bar
from fastai.data.core import Datasets
from fastai.data.transforms import Categorize, IndexSplitter
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from torch import Tensor, nn

import interp_plugins.fastai  # noqa: F401 - Learner.explain
from interp_plugins.core.errors import InputError

WHEN, WHICH = slice(10, 16), 2


def series() -> np.ndarray:
    """Four variables of 40 steps; the class is whether the third rises in the middle."""
    x = np.random.default_rng(0).normal(0, 0.3, (64, 4, 40)).astype(np.float32)
    x[1::2, WHICH, WHEN] += 2
    return x


class Net(nn.Module):
    """A small convolutional network of series."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(4, 8, 5, padding=2), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(8, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.fixture(scope="module")
def learn() -> Any:
    torch.manual_seed(0)
    x = series()
    items = list(x)
    names = {row.tobytes(): "rise" if i % 2 else "flat" for i, row in enumerate(items)}
    data = Datasets(
        items,
        [[lambda row: torch.tensor(row)], [lambda row: names[row.tobytes()], Categorize()]],
        splits=IndexSplitter(range(48, 64))(x),
    )
    learn = Learner(data.dataloaders(bs=8, device="cpu"), Net(), loss_func=CrossEntropyLossFlat())
    with learn.no_bar(), learn.no_logging():
        learn.fit(12, 1e-2)
    return learn


def test_several_series_in_one_array(learn: Any) -> None:
    x = series()[:5]
    together = learn.explain(x, "ig", n_steps=8)[0]
    assert together.attribution.shape == (5, 4, 40) and together.spec.kind == "series"
    assert together.target_label == ("flat", "rise", "flat", "rise", "flat")
    for given in (torch.tensor(x), list(x)):
        torch.testing.assert_close(learn.explain(given, "ig", n_steps=8)[0].attribution, together.attribution)
    one = learn.explain(x[1], "ig", n_steps=8)[0]
    torch.testing.assert_close(one.attribution, together.attribution[1:2], rtol=1e-3, atol=1e-6)


def test_which_variable_matters_at_which_step(learn: Any) -> None:
    table = learn.attribution_importance(methods="ig", target="rise", n_steps=8)
    assert list(table.columns) == ["feature", "step", "importance", "share"] and len(table) == 4 * 40
    assert table["feature"][0] == f"channel_{WHICH}" and WHEN.start - 2 <= table["step"][0] < WHEN.stop + 2
    assert abs(table["share"].sum() - 1) < 1e-9
    matrix = table.pivot(index="feature", columns="step", values="importance")
    exp = learn.explain(ds_idx=1, methods="ig", target="rise", n_steps=8)[0]
    np.testing.assert_allclose(matrix.to_numpy(), exp.attribution.abs().mean(0).numpy(), rtol=1e-3, atol=1e-6)
    signed = learn.attribution_importance(methods="ig", agg="mean", target="rise", n_steps=8)
    assert signed["importance"].min() < 0 < signed["importance"].max()


def test_importance_of_windows_and_of_a_layer(learn: Any) -> None:
    table = learn.attribution_importance(methods=["occlusion", "ig"], target="rise", n_steps=4)
    assert list(table.columns[:4]) == ["method", "target", "feature", "step"]
    assert table.groupby("method")["share"].sum().round(6).eq(1).all()
    with pytest.raises(InputError, match=r"per variable and step.*at net\.1"):
        learn.attribution_importance(methods="gradcam")
