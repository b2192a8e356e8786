"""`budget=`: what a call may cost, and that what is given by name goes before it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from interp_plugins import InputSpec, explain, list_methods
from interp_plugins.core.errors import UnknownNameError
from interp_plugins.core.features import Windows
from interp_plugins.core.progress import LateBar, Overall, progress_bar
from interp_plugins.core.registry import method_info
from interp_plugins.viz.titles import panel_caption

NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3)).double()
X = torch.rand(1, 3, 16, 16, dtype=torch.float64)


def test_more_budget_is_more_work_and_parameters_go_before_it() -> None:
    cost = [
        explain(NET, X, "ig", target=1, budget=b)[0].params.get("n_steps", 50) for b in ("fast", "normal", "thorough")
    ]
    assert cost == [16, 50, 200]
    own = explain(NET, X, "ig", target=1, budget="fast", n_steps=7)[0].params
    assert own["n_steps"] == 7 and "method" not in own  # the rule was chosen for the budget's own steps
    with pytest.raises(UnknownNameError, match=r"budget.*'quick'.*fast"):
        explain(NET, X, "ig", budget="quick")


def test_a_fast_answer_says_its_errors() -> None:
    exps = explain(NET, X, target=1, budget="fast")
    ig, smooth, occlusion = exps
    assert ig.relative_delta is not None
    assert set(smooth.meta["per_sample"]) >= {"n_draws", "map_error"} and smooth.meta["per_sample"]["n_draws"] == [5]
    all_windows = explain(NET, X, "occlusion", target=1)[0].meta["n_windows"]
    assert occlusion.meta["n_windows"] == all_windows  # a picture as small as this has all of them
    assert "estimated error" in panel_caption(smooth) and "completeness error" in panel_caption(ig)


@pytest.mark.parametrize(("budget", "words"), [("fast", "coarse windows of 48 × 48"), ("normal", "")])
def test_a_picture_of_coarse_windows_says_so(budget: str, words: str) -> None:
    net = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(3 * 49, 2))
    [exp] = explain(
        net, torch.ones(1, 3, 224, 224), "occlusion", input_spec=InputSpec("image"), budget=budget, progress=False
    )
    assert exp.meta.get("remark", "") == words and ("windows" in panel_caption(exp)) == bool(words)


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


@pytest.mark.parametrize(
    "shape", [(3, 224, 224), (1, 28, 28), (3, 16, 16), (2, 500), (1, 24, 64, 64), (1, 5), (3, 64, 480)]
)
def test_coarse_windows_are_few_and_cover_everything(shape: tuple[int, ...]) -> None:
    x = torch.zeros(1, *shape)
    kind = InputSpec({2: "series", 3: "image", 4: "volume"}[len(shape)])
    chosen = method_info("occlusion").presets("fast", (x,), kind)
    windows = Windows((x,), chosen["sliding_window_shapes"], chosen["strides"], "shift")
    normal = method_info("occlusion").presets("normal", (x,), kind)
    many = Windows((x,), normal["sliding_window_shapes"], normal["strides"], "shift")
    most = max(64, 64 * 3 * 224 * 224 // x.numel())  # small pictures can have more
    assert min(20, len(many)) <= len(windows) <= min(most, len(many))
    assert all(s <= w <= n for w, s, n in zip(chosen["sliding_window_shapes"], chosen["strides"], shape, strict=True))


def test_one_bar_over_all_methods(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Bar:
        disable = False

        def __init__(self, total: int, desc: str, **rest: object):
            self.total, self.n, self.said = total, 0, [desc]
            made.append(self)

        def update(self, n: int) -> None:
            self.n += n

        def set_description_str(self, what: str) -> None:
            self.said.append(what)

        def close(self) -> None:
            self.total = min(self.total, self.n)

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    explain(NET, X, ("ig", "nt", "occlusion", "gradcam"), target=[0, 1], progress=True, budget="fast")
    [bar] = made
    assert 990 <= bar.n <= 1000
    assert bar.said[1:] == [
        "Integrated Gradients (1 of 4)", "SmoothGrad-squared of IG (2 of 4)", "Occlusion (3 of 4)", "Grad-CAM (4 of 4)",
    ]  # fmt: skip
    made.clear()
    explain(NET, X, "occlusion", target=0, progress=False)
    assert not made


def test_a_bar_inside_another_moves_it_on() -> None:
    with Overall(["a", "b"], [1, 3], False).open() as whole:
        with whole.piece(0), progress_bar(10, "rows", None) as rows:
            rows.update(5)
            assert whole._units == 125
        with whole.piece(1, bars=2):
            for expected in (625, 1000):
                with progress_bar(4, "rows", True) as rows:
                    rows.update(4)
                assert whole._units == expected
    with progress_bar(3, "rows", None) as alone:
        assert isinstance(alone, LateBar)


def test_results_are_seen_one_by_one_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("interp_plugins.api.growing.display_handle", lambda: seen.append)
    monkeypatch.setattr("interp_plugins.api.growing._SOON", -1.0)
    explain(NET, X, ("saliency", "ig", "gradcam"), target=0, n_steps=3)
    assert [html.count("<img") for html in seen] == [2, 3, 0] and seen[-1] == ""
    seen.clear()
    explain(NET, X, "ig", target=0, n_steps=3)
    explain(NET, X, ("ig", "saliency"), target=0, n_steps=3, progress=False)
    assert not seen
