"""explanation_robustness: how far maps move while the prediction stays, where it is known and where it is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.core.errors import InterpError
from interp_plugins.core.spec import InputSpec
from interp_plugins.metrics import spearman_correlation
from interp_plugins.robust import ExplanationRobustness, explanation_robustness
from interp_plugins.robust.map_change import Likeness

SPEC = InputSpec("image", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), vocab=("ant", "bee", "cat"))


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(24, 3),
    ).double().eval()  # fmt: skip


def pictures(n: int = 3) -> Tensor:
    return SPEC.normalise(torch.rand(n, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("method", ["saliency", "noise_tunnel", "ablation"])
def test_the_map_of_a_linear_model_does_not_move(method: str) -> None:
    net, x = nn.Linear(6, 1).double(), torch.rand(2, 6, dtype=torch.float64)
    params = {"stdevs": 0.1, "nt_type": "smoothgrad"} if method == "noise_tunnel" else {}
    if method == "ablation":  # its map is w x: baselines that move along keep it
        params = {"baselines": lambda v: v - 1}
    found = explanation_robustness(
        nn.Sequential(net), x, method if method != "noise_tunnel" else _smoothed(net), eps=0.1, keep=9.0, n_random=2,
        steps=2, **params if method == "ablation" else {},
    )  # fmt: skip
    for numbers in (found.random_mean, found.random_worst, found.attacked):
        assert torch.allclose(numbers, torch.ones(1, 2, dtype=torch.float64))
    assert found.holding == found.methods


def _smoothed(net: nn.Module) -> Any:
    from interp_plugins.attr import NoiseTunnel, Saliency

    return [NoiseTunnel(Saliency(net))]


def test_of_the_larger_of_two_planes_the_worst_map_is_that_of_the_other() -> None:
    a, b = torch.tensor([1.0, 2.0, 3.0, 4.0]).double(), torch.tensor([4.0, 1.0, 2.0, 3.0]).double()

    def model(x: Tensor) -> Tensor:  # b x where a x > b x > 0
        both = torch.stack([x @ a, x @ (a - b)], 1).relu()
        return both[:, 0] - both[:, 1]

    x = torch.tensor([[0.5, 0.6, 0.5, 0.5]]).double()
    assert float(x @ a) > float(x @ b) > float(x @ a) - 0.2
    found = explanation_robustness(model, x, "saliency", eps=0.2, keep=0.5, n_random=1, steps=30, seed=3)
    assert found.how == ("gradient",) and found.spec.kind == "tabular"
    assert float(found.attacked) == pytest.approx(float(spearman_correlation(a[None], b[None])))


def test_attacked_is_never_milder_than_the_worst_draw_and_mostly_worse() -> None:
    found = explanation_robustness(
        conv_net(), pictures(), ["saliency", "ig", "gradcam", "occlusion"], eps=0.05, n_random=3, steps=8,
        input_spec=SPEC, n_steps=6, sliding_window_shapes=(3, 2, 2), strides=(3, 2, 2),
    )  # fmt: skip
    assert found.how == ("gradient", "gradient", "gradient", "search")
    assert bool((found.attacked <= found.random_worst).all()) and bool((found.random_worst <= found.random_mean).all())
    assert float((found.attacked[:3] < found.random_worst[:3] - 0.01).double().mean()) > 0.6
    assert {"gradient"} <= {b for row in found.by for b in row}


def test_what_is_told_can_be_checked_from_outside() -> None:
    net, x = conv_net(), pictures()
    found = explanation_robustness(net, x, "saliency", eps=0.04, keep=0.2, n_random=3, steps=6, input_spec=SPEC)
    changed, clean = found.changed[0], net(x).detach()
    assert isinstance(changed, Tensor)
    said = net(changed).detach()
    c = clean.argmax(1)
    assert torch.equal(said.argmax(1), c) and bool((found.kept > 0).all())
    distance = (clean.gather(1, c[:, None])[:, 0] - clean.mean(1)).abs()
    moved = (said - clean).gather(1, c[:, None])[:, 0].abs()
    assert bool((moved <= 0.2 * distance * 1.001).all())
    raw = SPEC.denormalise(changed)
    assert float((raw - SPEC.denormalise(x)).abs().max()) <= 0.04 + 1e-9 and float(raw.min()) >= 0 and raw.max() <= 1
    before, after = (explain(net, v, "saliency", target=c, input_spec=SPEC)[0] for v in (x, changed))
    maps = [one.attribution.sum(1).flatten(1).abs() for one in (before, after)]
    assert torch.allclose(spearman_correlation(*maps), found.attacked[0])
    assert torch.equal(found.after[0].attribution, after.attribution)


@pytest.mark.parametrize("similarity", ["topk", "cosine", lambda a, b: -(a - b).abs().sum(1)])
def test_other_likenesses_and_norms(similarity: Any) -> None:
    found = explanation_robustness(
        conv_net(), pictures(2), "gradcam", eps=0.8, norm="l2", n_random=2, steps=5, similarity=similarity,
        input_spec=SPEC, keep=0.5,
    )  # fmt: skip
    assert bool((found.attacked <= found.random_worst).all())
    delta = SPEC.denormalise(found.changed[0]) - SPEC.denormalise(pictures(2))
    assert float(delta.flatten(1).norm(dim=1).max()) <= 0.8 + 1e-9


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_sample_is_answered_alone_as_in_a_batch(norm: str) -> None:
    asked: dict[str, Any] = {
        "eps": 0.05 if norm == "Linf" else 0.4, "norm": norm, "n_random": 2, "steps": 4, "input_spec": SPEC,
        "sliding_window_shapes": (3, 2, 2), "strides": (3, 2, 2), "keep": 0.4, "nt_samples": 3,
    }  # fmt: skip
    methods = ["saliency", "noise_tunnel", "occlusion"]
    net, x = conv_net(), pictures()
    alone, batch = (explanation_robustness(net, v, methods, **asked) for v in (x[1:2], x))
    for name in ("random_mean", "random_worst", "attacked"):
        assert torch.allclose(getattr(alone, name)[:, 0], getattr(batch, name)[:, 1], atol=1e-9, equal_nan=True)
    assert alone.kept[0] == batch.kept[1] and [b[0] for b in alone.by] == [b[1] for b in batch.by]


def test_maps_are_drawn_towards_a_region() -> None:
    net, x, region = conv_net(), pictures(2), torch.zeros(8, 8)
    region[:4, :4] = 1
    asked: dict[str, Any] = {"eps": 0.08, "n_random": 2, "steps": 12, "keep": 0.5, "input_spec": SPEC}
    asked |= {"similarity": "cosine"}
    windows = {"sliding_window_shapes": (3, 2, 2), "strides": (3, 2, 2)}
    found = explanation_robustness(net, x, ["saliency", "gradcam", "occlusion"], towards=region, **asked, **windows)
    before, after = found.wanted_before, found.wanted_after
    assert before is not None and after is not None and bool((after[:2] > before[:2] + 0.01).all())
    share = lambda one: one.attributions.sum(1)[:, :4, :4].sum((1, 2)) / one.attributions.sum((1, 2, 3))  # noqa: E731
    assert bool((share(found.after[0]) > share(found.before[0])).all())
    assert "wanted_after" in found.summary() and "wanted_before" in found.to_df() and "; wanted " in repr(found)
    assert "wanted" in found.show(1).axes[0, 3].get_title()
    as_batch = region.expand(2, 1, 8, 8)
    again = explanation_robustness(net, x, ["saliency"], towards=as_batch, **{**asked, "n_random": 1, "steps": 1})
    assert again.wanted_before is not None and torch.allclose(again.wanted_before[0], before[0])
    for wrong in (torch.ones(8, 8), torch.rand(3, 8, 8), torch.full((8, 8), torch.nan)):
        with pytest.raises(InterpError, match=r"towards= is"):
            explanation_robustness(net, x, "saliency", towards=wrong, **asked)


def test_the_way_of_the_centre_of_mass_is_told_in_halves_of_the_diagonal() -> None:
    weights = torch.zeros(2, 1, 5, 5)
    weights[0, 0, 0, 0] = weights[1, 0, 4, 4] = 1.0  # one map lies in one corner, the other in the opposite
    alike = Likeness("centre").between(weights[:1].flatten(1), weights[1:].flatten(1), (5, 5))
    assert float(alike) == pytest.approx(-1.0, abs=1e-6)
    beside = weights[:1].roll(1, 3)
    moved = Likeness("centre").between(weights[:1].flatten(1), beside.flatten(1), (5, 5))
    assert float(moved) == pytest.approx(1 - 1 / (2 * 2**0.5))
    found = explanation_robustness(
        conv_net(), pictures(1), "saliency", similarity="centre", eps=0.05, n_random=2, steps=6, input_spec=SPEC
    )
    assert float(found.attacked) < float(found.random_worst) <= 1
    with pytest.raises(InterpError, match="these maps have no places"):
        explanation_robustness(nn.Linear(4, 2), torch.rand(1, 4), "saliency", similarity="centre")


def test_nothing_is_kept_where_the_score_must_not_move() -> None:
    net = nn.Linear(4, 3).double()
    found = explanation_robustness(net, torch.rand(2, 4).double(), "ixg", eps=0.5, keep=1e-9, n_random=2, steps=2)
    assert bool(found.attacked.isnan().all()) and found.by == (("none", "none"),) and float(found.kept.max()) == 0
    assert torch.equal(found.changed[0], found.inputs) and not found.holding


def test_nothing_of_the_users_is_changed() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 2)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x, state = torch.randn(3, 4), torch.get_rng_state()
    kept = x.clone()
    with torch.inference_mode():
        explanation_robustness(net, x, ["saliency", "noise_tunnel"], eps=0.1, keep=1.0, n_random=2, steps=2, n_steps=3)
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(x, kept) and torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_a_result_is_a_table_a_picture_and_a_page(tmp_path: Path) -> None:
    found = explanation_robustness(
        conv_net(), pictures(2), ["saliency", "gradcam"], eps="8/255", n_random=2, steps=3, input_spec=SPEC
    )
    assert isinstance(found, ExplanationRobustness) and "saliency: " in repr(found) and len(found) == 2
    assert list(found.to_df()["method"]) == ["saliency"] * 2 + ["grad_cam"] * 2
    assert list(found.summary()["how"]) == ["gradient", "gradient"]
    plot = found.show(max_n=1)
    assert plot.axes.shape == (2, 4) and plot.axes[0, 2].get_title() == "changed by 8/255 Linf"
    assert plot.axes[1, 1].get_title() == "Grad-CAM" and "likeness" in plot.axes[1, 3].get_title()
    text = Path(found.to_html(tmp_path / "page.html")).read_text(encoding="utf-8")
    assert "Which maps hold" in text and text.count("<img") == 2 * 2 * 4 and 'src="http' not in text


BAD: list[tuple[dict[str, Any], str]] = [
    ({"eps": -1}, "eps must be a number from 0"),
    ({"norm": "L3"}, "norm must be one of"),
    ({"keep": 0}, "keep is the share"),
    ({"n_random": 0}, "n_random must be a positive int"),
    ({"steps": 1.5}, "steps must be a positive int"),
    ({"similarity": "spaerman"}, "Unknown similarity.*spearman"),
    ({"similarity": 3}, "a function of two tensors"),
    ({"how": "magic"}, "how must be one of auto, gradient, search"),
    ({"how": "gradient", "methods": "ablation"}, "has no slope.*how='auto'"),
    ({"mask": torch.full((2, 4), 0.5)}, "zeros and ones"),
    ({"bounds": (1.0, 2.0)}, "outside of lower_bound"),
    ({"methods": "salience"}, "Unknown method"),
]


@pytest.mark.parametrize(("wrong", "text"), BAD, ids=lambda v: str(v) if isinstance(v, str) else "")
def test_wrong_calls_say_what_to_do(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(InterpError, match=text):
        explanation_robustness(nn.Linear(4, 3), torch.zeros(2, 4), **{"methods": "saliency", **wrong})


@pytest.mark.filterwarnings("ignore:The rows of this model:UserWarning")
def test_rows_that_feel_each_other_are_refused() -> None:
    net = nn.Linear(4, 3)
    with pytest.raises(InterpError, match=r"feel each other.*one sample at a time"):
        explanation_robustness(lambda v: net(v - v.mean(0)), torch.randn(3, 4), "saliency")
