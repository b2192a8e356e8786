"""Series, clips and volumes: windows along their own axes, maps that say when, pictures of their own."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import interp_plugins as ip
from interp_plugins.core.errors import InterpWarning, LayerError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.features import Windows, default_window
from interp_plugins.core.spec import InputSpec, as_spec


def series_net(channels: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv1d(channels, 4, 5, padding=2), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(4, 2))
    return nn.Sequential(*layers).eval()


def event(steps: int, channels: int = 3, channel: int = 1) -> Tensor:
    x = torch.zeros(2, channels, steps)
    x[:, channel, steps // 4 : steps // 4 + max(2, steps // 16)] = 4
    return x


def sum_of_channel_one(z: Tensor) -> Tensor:
    return z[:, 1].sum(1)


@pytest.mark.parametrize("steps", [16, 20, 40, 64, 100, 400])
def test_occlusion_says_when_and_in_which_variable(steps: int) -> None:
    x = event(steps)
    exp = ip.explain(sum_of_channel_one, x, "occlusion")[0]
    a = exp.attribution
    assert exp.spec.kind == "series" and not a[:, [0, 2]].any()
    middle = steps // 4 + max(2, steps // 16) // 2
    assert abs(int(a[0, 1].argmax()) - middle) <= max(2, steps // 12)
    assert exp.meta["n_windows"] == len(Windows([x], exp.params["sliding_window_shapes"], exp.params["strides"]))
    noisy = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert len(ip.explain(series_net(), noisy, "occlusion", target=1)[0].attribution[0, 1].unique()) > 2


@pytest.mark.parametrize(
    "kind, shape",
    [
        ("series", (1, 1, 16_000)),
        ("series", (1, 300, 1_000)),
        ("series", (1, 12, 5_000)),
        ("sequence", (1, 5_000, 6)),
        ("sequence", (1, 16_000)),
        ("volume", (1, 1, 64, 96, 96)),
        ("volume", (1, 4, 16, 128, 128)),
        ("clip", (1, 16, 3, 112, 112)),
        ("clip", (1, 64, 1, 32, 48)),
        ("image", (1, 3, 512, 512)),
        ("generic", (1, 2, 30, 30, 30)),
    ],
)
def test_the_number_of_default_windows_is_bounded_and_nothing_is_left_out(kind: str, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    windows = Windows([x], *default_window(x, InputSpec(kind)))
    assert 20 <= len(windows) < 1200
    covered = torch.zeros(shape[1:], dtype=torch.bool)
    for _, box in windows.boxes:
        covered[box] = True
    assert covered.all()


def test_many_variables_are_hidden_together_and_few_one_by_one() -> None:
    few, many = (default_window(torch.zeros(1, c, 100), InputSpec("series"))[0] for c in (28, 29))
    assert few[0] == 1 and many[0] == 29
    assert default_window(torch.zeros(1, 100, 6), InputSpec("sequence"))[0] == (7, 1)
    assert default_window(torch.zeros(1, 20, 64), InputSpec("text"))[0] == (1, 64)
    assert default_window(torch.zeros(1, 9), InputSpec("tabular"))[0] == (1,)


def test_occlusion_of_a_clip_finds_frames_and_place() -> None:
    x = torch.zeros(1, 12, 3, 24, 32)
    x[0, 5:7, :, 6:12, 8:16] = 1
    exp = ip.explain(lambda z: z.sum((1, 2, 3, 4)), x, "occlusion", input_spec=InputSpec("clip"))[0]
    assert exp.attribution.shape == x.shape
    t, _, h, w = np.unravel_index(int(exp.attribution[0].argmax()), x.shape[1:])
    assert 5 <= t < 7 and 6 <= h < 12 and 8 <= w < 16
    assert exp.params["sliding_window_shapes"][1] == 3  # all colours


class Clips(nn.Module):
    """A 3-D network of clips (N, T, C, H, W), or (N, C, T, H, W)."""

    def __init__(self, frames_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.frames_first = nn.Conv3d(3, 4, 3, padding=1, stride=2), nn.Linear(4, 3), frames_first

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2) if self.frames_first else x
        return self.head(torch.relu(self.conv(x)).mean((2, 3, 4)))


@pytest.mark.parametrize("method", ["occlusion", "gradcam", "scorecam", "integrated_gradients", "blur_ig", "saliency"])
def test_frames_first_and_colours_first_are_one_function(method: str) -> None:
    x = torch.rand(1, 8, 3, 12, 14)
    options: dict[str, Any] = {"n_steps": 4} if method in ("integrated_gradients", "blur_ig") else {}
    one = ip.explain(Clips(True), x, method, target=1, input_spec=InputSpec("clip"), **options)[0]
    other = InputSpec("clip", layout="first")
    two = ip.explain(Clips(False), x.transpose(1, 2), method, target=1, input_spec=other, **options)[0]
    right = two.attribution.transpose(1, 2) if one.attribution.shape == x.shape else two.attribution
    torch.testing.assert_close(one.attribution, right, rtol=1e-4, atol=1e-6)
    for exp in (one, two):
        ax = exp.show(kind="frames")
        assert "most in frame" in ax.get_title() and [t.get_text() for t in ax.texts[:2]] == ["frame 0", "frame 1"]


def test_a_clip_has_its_own_picture() -> None:
    x = torch.rand(1, 20, 3, 6, 8)
    a = torch.zeros_like(x)
    a[0, 12] = 1
    exp = Explanation(attributions=a, inputs=x, method="saliency", spec=InputSpec("clip"))
    assert "most in frame 12: 100 %" in exp.show(kind="heatmap").get_title()
    ax = exp.show(kind="original")
    assert [t.get_text() for t in ax.texts] == [f"frame {t}" for t in (1, 3, 6, 8, 11, 13, 16, 18)]
    assert "8 of 20 frames" in exp.plot()[0].axes[0].get_xlabel()
    assert "<img" in exp.to_html()


@pytest.mark.parametrize(
    "shape, kind, layout, said",
    [
        ((2, 8, 3, 32, 32), "clip", None, True),
        ((2, 4, 3, 32, 32), "clip", None, True),
        ((2, 16, 1, 28, 28), "clip", None, True),
        ((2, 3, 16, 32, 32), "clip", "first", True),
        ((2, 16, 32, 32, 3), "clip", "last", True),
        ((2, 16, 32, 32, 1), "volume", "last", True),
        ((2, 1, 16, 32, 32), "volume", None, False),
        ((2, 4, 16, 32, 32), "volume", None, False),
        ((2, 1, 3, 32, 32), "volume", None, False),
        ((2, 5, 2, 6, 6), "volume", None, False),
    ],
)
def test_what_tells_a_clip_from_a_volume(shape: tuple[int, ...], kind: str, layout: str | None, said: bool) -> None:
    x = torch.rand(shape)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exp = ip.explain(lambda z: z.sum((1, 2, 3, 4)), x, "saliency")[0]
    assert (exp.spec.kind, exp.spec.layout) == (kind, layout)
    texts = [str(w.message) for w in caught if issubclass(w.category, InterpWarning)]
    assert (len(texts) == 1 and f"kind {kind!r}" in texts[0]) if said else not texts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ip.explain(lambda z: z.sum((1, 2, 3, 4)), x, "saliency", input_spec=InputSpec(kind, layout=layout))


def test_gradcam_finds_the_last_convolution_along_time() -> None:
    net, x = series_net(), event(64)
    exp = ip.explain(net, x, "gradcam", target=1)[0]
    assert exp.attribution.shape == (2, 1, 64) and exp.layer == "1"

    class OneVariable(nn.Module):  # rows of a table of steps, (N, T)
        def __init__(self) -> None:
            super().__init__()
            self.net = series_net(1)

        def forward(self, z: Tensor) -> Tensor:
            return self.net(z[:, None])

    assert ip.explain(OneVariable(), x[:, 1], "gradcam", target=0)[0].layer == "net.1"
    exp.show()
    with pytest.raises(LayerError, match="no convolution along time"):
        ip.explain(nn.Linear(4, 2), torch.randn(2, 4), "gradcam", target=0)
    lstm = nn.LSTM(3, 4, batch_first=True)
    with pytest.raises(LayerError, match="Give layer="):
        ip.explain(lambda z: lstm(z)[0][:, -1], torch.randn(2, 12, 3), "gradcam", target=0)


FEW = {
    "kernel_shap": {"n_samples": 120},
    "lime": {"n_samples": 60},
    "shapley_value_sampling": {"n_samples": 3},
    "shapley_values": {},
}


@pytest.mark.parametrize("method, options", FEW.items())
def test_features_of_a_series_are_parts_of_its_time(method: str, options: dict[str, Any]) -> None:
    x = event(28)
    a = ip.explain(sum_of_channel_one, x, method, progress=False, **options)[0].attribution
    assert float(a[0, 1].abs().max()) > 1 and len(a[0, 1].round(decimals=3).unique()) > 1
    assert a[0, [0, 2]].abs().max() < 1e-2


def test_rise_varies_along_time() -> None:
    a = ip.explain(sum_of_channel_one, event(64), "rise", n_samples=300, progress=False)[0].attribution
    assert 8 <= int(a[0, 1].argmax()) < 28 and torch.equal(a[0, 0], a[0, 1])


def test_the_mean_baseline_of_a_sequence_is_that_of_its_variables() -> None:
    x = torch.randn(2, 12, 3)
    exp = ip.explain(lambda z: z.sum((1, 2)), x, "ig", baselines="mean", n_steps=2)[0]
    torch.testing.assert_close(exp.baselines, x.mean(1, keepdim=True).expand_as(x))


@pytest.mark.parametrize(
    ("shape", "kind", "text"),
    [
        (
            (2, 12, 10),
            "sequence",
            r"\(2, 12, 10\).*'sequence' with time first.*that time is last: InputSpec\('series'\)",
        ),
        ((2, 9, 9), "sequence", "time first"),
        ((2, 7, 24), "series", r"'series' with time last, \(N, C, T\).*time is first: InputSpec\('sequence'\)"),
    ],
)
def test_which_axis_is_time_is_said_where_both_may_be(shape: tuple[int, ...], kind: str, text: str) -> None:
    with pytest.warns(InterpWarning, match=text):
        assert as_spec(None, torch.rand(shape)).kind == kind
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kinds = [as_spec(None, x).kind for x in (torch.rand(2, 3, 40), torch.rand(2, 40, 3))]
        assert kinds == ["series", "sequence"] and as_spec(InputSpec("series"), torch.rand(shape)).kind == "series"
        assert ip.explain(lambda z: z.sum((1, 2)), torch.rand(shape), "saliency")[0].spec.kind == kind
