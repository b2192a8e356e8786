"""Channels last, as networks from Keras and JAX have them: methods explain the same function as with channels first."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp_plugins as ip
from interp_plugins import attr
from interp_plugins.core.baseline import Sample
from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.core.spec import InputSpec

LAST = InputSpec("image", layout="last")
SEEDED = {"n_samples": 40, "seed": 3}


class Last(nn.Module):
    """A classifier of pictures (N, H, W, C) that asks for a view, as ported code does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, *x.shape[1:])
        return self.head(torch.relu(self.conv(x.permute(0, 3, 1, 2))).mean((2, 3)))


class First(nn.Module):
    """The same function of (N, C, H, W)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.permute(0, 2, 3, 1).contiguous())


@pytest.fixture
def net() -> Last:
    return Last().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(1))


METHODS: dict[str, dict[str, Any]] = {
    "saliency": {},
    "integrated_gradients": {"n_steps": 5, "baselines": "blur"},
    "gradcam": {},
    "scorecam": {},
    "blur_ig": {"n_steps": 4},
    "occlusion": {},
    "rise": SEEDED,
    "kernel_shap": {"n_samples": 60, "baselines": "mean"},
    "noise_tunnel": {"nt_samples": 3},
}


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_those_of_the_same_function_with_channels_first(method: str, net: Last, x: Tensor) -> None:
    options = dict(METHODS[method])
    found = ip.explain(net, x, method, target=1, input_spec=LAST, progress=False, **options)[0]
    there = ip.explain(First(net), x.permute(0, 3, 1, 2), method, target=1, progress=False, **options)[0]
    right = there.attribution
    right = right.permute(0, 2, 3, 1) if found.attribution.shape == x.shape else right
    assert found.attribution.shape == right.shape
    if method == "noise_tunnel":  # the noise is drawn in the order of memory
        assert found.inputs.shape == x.shape
    else:
        torch.testing.assert_close(found.attribution, right, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.input, x) and found.spec.layout == "last"


def test_what_the_user_gives_has_the_users_layout(net: Last, x: Tensor) -> None:
    seen: list[tuple[int, ...]] = []

    def black(inputs: Tensor) -> Tensor:
        seen.append(tuple(inputs.shape))
        return torch.zeros_like(inputs)

    base = torch.rand(1, 16, 16, 3)
    ways = (base, base.expand_as(x), Sample(base), (base,))
    maps = [ip.explain(net, x, "ig", target=0, input_spec=LAST, n_steps=4, baselines=b)[0] for b in ways]
    for one in maps:
        assert one.baselines is not None and one.baselines.shape == x.shape
        torch.testing.assert_close(one.attribution, maps[0].attribution)
    ip.explain(net, x, "ig", target=0, input_spec=LAST, n_steps=4, baselines=black)
    assert set(seen) == {tuple(x.shape)}
    mask = torch.arange(16)[:, None, None].expand(16, 16, 3)[None] // 8  # upper and lower half
    halves = ip.explain(net, x, "feature_ablation", target=0, input_spec=LAST, feature_mask=mask)[0].attribution
    assert all(len(half.unique()) == 1 for row in halves for half in row.split(8))
    windows = ip.explain(
        net, x, "occlusion", target=0, input_spec=LAST, sliding_window_shapes=(8, 16, 3), strides=(8, 16, 3)
    )[0]
    torch.testing.assert_close(windows.attribution, halves)
    assert windows.params["sliding_window_shapes"] == (8, 16, 3)
    own = ip.explain(net, x, {"occlusion": {"sliding_window_shapes": (8, 16, 3), "strides": (8, 16, 3)}}, target=0,
                     input_spec=LAST)[0]  # fmt: skip
    torch.testing.assert_close(own.attribution, halves)


def test_a_guess_is_said_and_a_picture_is_drawn(net: Last, x: Tensor) -> None:
    with pytest.warns(InterpWarning, match=r"\(2, 16, 16, 3\).*channels last"):
        exp = ip.explain(net, x, "saliency", target=1)[0]
    assert exp.spec == InputSpec("image", layout="last")
    assert exp.heatmap(0).shape == (16, 16)
    exp.show(kind="overlay")
    assert exp.attribution.shape == x.shape


def test_a_guess_is_denied(net: Last) -> None:
    features = torch.rand(1, 16, 16, 3)

    def score(z: Tensor) -> Tensor:
        return z.mean((2, 3))[:, :3]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exp = ip.explain(score, features, "occlusion", target=0, input_spec=InputSpec("image", layout="first"))[0]
    assert exp.params["sliding_window_shapes"][0] == 16  # sixteen channels


@pytest.mark.parametrize("shape", [(2, 3, 24, 24), (2, 16, 5, 4), (1, 16, 7, 3), (2, 1, 8, 3), (1, 4, 20, 20, 20)])
def test_small_feature_maps_and_pictures_are_not_taken_for_channels_last(shape: tuple[int, ...]) -> None:
    assert InputSpec.guess(torch.rand(shape)).layout is None


def test_volumes_and_several_inputs_are_moved_each_in_its_way() -> None:
    volume = torch.rand(2, 8, 9, 10, 1, dtype=torch.double)
    table = torch.rand(2, 4, dtype=torch.double)
    w = torch.rand(8, 9, 10, 1, dtype=torch.double)

    def score(v: Tensor, t: Tensor) -> Tensor:
        return (v * w).sum((1, 2, 3, 4)) * t.sum(1)

    spec = InputSpec("volume", layout="last", others=(InputSpec("tabular"),))
    exp = ip.explain(score, (volume, table), "input_x_gradient", input_spec=spec)[0]
    torch.testing.assert_close(exp.attributions[0], volume * w * table.sum(1)[:, None, None, None, None])
    assert exp.attributions[1].shape == (2, 4) and exp.spec == spec
    windows = ip.explain(score, (volume, table), "occlusion", input_spec=spec)[0]
    assert windows.meta["n_windows"] < 900


def test_baselines_of_channels_know_where_they_are(net: Last, x: Tensor) -> None:
    spec = InputSpec("image", layout="last", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    exp = ip.explain(net, x, "ig", target=0, input_spec=spec, n_steps=3)[0]
    assert exp.baselines is not None
    torch.testing.assert_close(exp.baselines[0, 0, 0], torch.tensor([-2.5, -2.0, -3.0]))
    torch.testing.assert_close(spec.denormalise(spec.normalise(x)), x)


def test_method_objects_have_their_own_model_and_say_what_they_see(net: Last, x: Tensor) -> None:
    exp = ip.explain(net, x, [attr.Saliency(net)], target=1, input_spec=LAST)[0]
    torch.testing.assert_close(exp.attribution, attr.Saliency(net).attribute(x, 1))
    with pytest.warns(InterpWarning, match="BlurIG|Blur IG.*16 channels of 16 x 3"):
        attr.BlurIG(net).attribute(x, 1, n_steps=2)
    with pytest.warns(InterpWarning, match="RISE.*16 channels of 16 x 3"):
        attr.RISE(net).attribute(x, target=1, n_samples=4, seed=0)


def test_a_wrong_layout_is_refused() -> None:
    with pytest.raises(InputError, match=r"'first'.*'last'.*got 'NHWC'"):
        InputSpec("image", layout="NHWC")


def test_saved_explanations_keep_their_layout(net: Last, x: Tensor, tmp_path: Any) -> None:
    exp = ip.explain(net, x, "saliency", target=1, input_spec=LAST)[0]
    again = type(exp).load(exp.save(tmp_path / "map.safetensors"))
    assert again.spec == exp.spec and torch.equal(again.attribution, exp.attribution)
