"""`budget=`: what a call may cost, and that what is given by name goes before it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from interp_plugins import InputSpec, explain, list_methods
from interp_plugins.core.errors import UnknownNameError
from interp_plugins.core.registry import method_info

NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3)).double()
X = torch.rand(1, 3, 16, 16, dtype=torch.float64)


def test_more_budget_is_more_work_and_parameters_go_before_it() -> None:
    cost = [
        explain(NET, X, "ig", target=1, budget=b)[0].params.get("n_steps", 50) for b in ("fast", "normal", "thorough")
    ]
    assert cost == [16, 50, 200]
    assert explain(NET, X, "ig", target=1, budget="fast", n_steps=7)[0].params["n_steps"] == 7
    with pytest.raises(UnknownNameError, match=r"budget.*'quick'.*fast"):
        explain(NET, X, "ig", budget="quick")


def test_a_fast_answer_says_its_errors() -> None:
    exps = explain(NET, X, target=1, budget="fast")
    ig, smooth, occlusion = exps
    assert ig.relative_delta is not None
    assert set(smooth.meta["per_sample"]) >= {"n_draws", "map_error"} and smooth.meta["per_sample"]["n_draws"] == [10]
    assert occlusion.meta["per_sample"]["map_error"][0] <= 0.5


@pytest.mark.parametrize("kind", ["tabular", "text"])
def test_rows_get_no_windows_and_no_squares(kind: str) -> None:
    net = nn.Linear(4, 2).double()
    exps = explain(net, torch.rand(2, 4, dtype=torch.float64), target=1, input_spec=InputSpec(kind=kind))
    assert [exp.method for exp in exps] == ["integrated_gradients", "noise_tunnel", "feature_ablation"]
    assert exps[1].title == "SmoothGrad of IG"
    assert [e.method for e in explain(NET, X, target=1)] == ["integrated_gradients", "noise_tunnel", "occlusion"]


def test_presets_are_parameters_of_their_method() -> None:
    x = (torch.rand(1, 3, 16, 16),)
    for name in list_methods():
        info = method_info(name)
        for budget in ("fast", "thorough"):
            given = info.presets(budget, x, InputSpec(kind="image"))
            known = info.takes if info.traits.inside is None else info.takes | method_info(info.traits.inside).takes
            assert set(given) <= known, (name, budget)
