"""`learn.attribution_importance`: the columns that a trained model rests on come first."""

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.progress import no_bar  # noqa: F401 - Learner.no_bar
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from fastai.torch_core import set_seed
from torch import nn

from interp_plugins.core.errors import InputError, UnknownNameError

WEIGHTS = (0.0, 3.0, -1.0)


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    """A net trained on y = 3 b - c; a says nothing."""
    set_seed(0)
    x = torch.randn(256, 3)
    rows = list(zip(x, x @ torch.tensor(WEIGHTS)))
    loaders = [DataLoader(rows, bs=64, shuffle=split == 0, num_workers=0) for split in range(2)]
    net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))
    learn = Learner(DataLoaders(*loaders), net, loss_func=MSELossFlat(), path=tmp_path_factory.mktemp("table"))
    with learn.no_bar(), learn.no_logging():
        learn.fit(20, 2e-2)
    return learn, x


def test_columns_come_in_the_order_of_what_they_do(regression):
    learn, x = regression
    table = learn.attribution_importance()
    assert list(table.columns) == ["feature", "importance", "share"]
    assert table.feature.tolist() == ["feature_1", "feature_2", "feature_0"]
    assert table.share.sum() == pytest.approx(1)
    expected = 3 * x[:, 1].abs().mean().item()  # a linear function's attribution is weight times value
    assert table.importance[0] == pytest.approx(expected, rel=0.1) and table.importance[2] < 0.15


def test_sums_of_ones_own_and_several_methods(regression):
    learn, x = regression
    batch = [(x[:8], x[:8, :1])]
    attributions = learn.explain(dl=batch, methods="integrated_gradients")[0].attributions.double().numpy()
    for agg, want in {
        "mean": attributions.mean(0),
        "max_abs": np.abs(attributions).max(0),
        "median_abs": np.median(np.abs(attributions), 0),
        (lambda a: a.std(0)): attributions.std(0),
    }.items():
        table = learn.attribution_importance(batch, agg=agg).set_index("feature")
        assert table.importance[[f"feature_{j}" for j in range(3)]].to_numpy() == pytest.approx(want)
    both = learn.attribution_importance(batch, ["ig", "feature_ablation"])
    assert list(both.columns[:2]) == ["method", "target"] and len(both) == 6
    assert isinstance(both, pd.DataFrame) and set(both.method) == {"integrated_gradients", "feature_ablation"}


def test_what_is_no_table_is_refused(regression, learn):
    table, _ = regression
    with pytest.raises(UnknownNameError, match=r"Unknown agg 'mean_ab'\. Did you mean 'mean_abs'"):
        table.attribution_importance(agg="mean_ab")
    with pytest.raises(InputError, match=r"agg gave an array of shape \(\) for 3 columns"):
        table.attribution_importance(agg=np.mean)
    with pytest.raises(InputError, match=r"one attribution per row and column \(N, F\), .*got \(6, 3, 20, 20\)"):
        learn.attribution_importance(methods="saliency")
