"""Maps of a layer are judged at the input's places, whatever the axes: along time, in pictures, volumes and clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import interp_plugins as ip
from interp_plugins import metrics as im
from interp_plugins.core.enlarged import over_input
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.layout import drawn
from interp_plugins.core.spec import InputSpec
from interp_plugins.insights.curves import maps_on
from interp_plugins.viz.renderer import attribution_renderer

N, T = 16, 40


def bumps() -> tuple[Tensor, Tensor, Tensor]:
    """Series with a bump up or down, its classes and its places."""
    g = torch.Generator().manual_seed(0)
    x, y = 0.3 * torch.randn(N, 2, T, generator=g), torch.arange(N) % 2
    where = torch.zeros(N, T, dtype=torch.bool)
    for i, start in enumerate(torch.randint(3, T - 9, (N,), generator=g).tolist()):
        where[i, start : start + 6] = True
        x[i, 1, start : start + 6] += 4.0 * y[i] - 2
    return x, y, where


def trained(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> nn.Module:
    optimiser = torch.optim.Adam(net.parameters(), 2e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        cross_entropy(net(x), y).backward()
        optimiser.step()
    assert bool((net(x).argmax(1) == y).all())
    return net.eval()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    x, y, _ = bumps()
    layers = (nn.Conv1d(2, 6, 5), nn.ReLU(), nn.Conv1d(6, 6, 5), nn.ReLU())
    return trained(nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 2)), x, y, 80)


class TimeFirst(nn.Module):
    """The same net of sequences (N, T, C)."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x.transpose(1, 2))
        return found


def test_maps_along_time_are_judged(net: nn.Module) -> None:
    x, _, where = bumps()
    exp = ip.explain(net, x, "grad_cam")[0]
    by_hand = interpolate(exp.attribution, T, mode="linear")
    expected = im.mask_auc(by_hand, where)
    assert exp.attribution.shape == (N, 1, T - 8) and expected.mean() > 0.8
    assert torch.equal(im.mask_auc(exp, where), expected)
    whole = by_hand.expand(x.shape)
    torch.testing.assert_close(im.srg(net, exp), im.srg(net, x, whole, target=list(exp.target or ())))
    assert torch.equal(maps_on(exp, (x,))[0], by_hand)
    series = ip.evaluate(net, x, "grad_cam", ("srg", "mask_auc"), masks=where)
    torch.testing.assert_close(series["grad_cam", "mask_auc"].values, expected.double())
    late = x.transpose(1, 2).contiguous()
    sequences = ip.evaluate(TimeFirst(net), late, "grad_cam", ("srg", "mask_auc"), masks=where)
    for metric in ("srg", "mask_auc"):
        torch.testing.assert_close(series["grad_cam", metric].values, sequences["grad_cam", metric].values)


def test_methods_for_series_are_compared(net: nn.Module) -> None:
    x, _, where = bumps()
    seen = ip.compare_methods(net, x[:6], masks=where[:6], budget="fast")
    assert {"grad_cam", "integrated_gradients"} <= set(seen.checks) and not seen.left_out
    assert seen.scores["grad_cam", "srg"].mean > seen.scores["control.random", "srg"].mean


def test_maps_of_volumes_are_judged() -> None:
    torch.manual_seed(0)
    x, y = 0.2 * torch.rand(8, 1, 8, 8, 8), torch.arange(8) % 2
    where = torch.zeros(8, 8, 8, 8, dtype=torch.bool)
    where[:4, 1:4, 1:4, 1:4] = where[4:, 4:7, 4:7, 4:7] = True
    x += where[:, None] * (0.3 + 0.5 * y.reshape(-1, 1, 1, 1, 1))
    layers = (nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))
    volumes = trained(nn.Sequential(*layers), x, y, 150)
    exp = ip.explain(volumes, x, "grad_cam")[0]
    by_hand = interpolate(exp.attribution, (8, 8, 8), mode="trilinear")
    assert torch.equal(im.mask_auc(exp, where), im.mask_auc(by_hand, where))
    seen = ip.compare_methods(volumes, x, ("saliency", "grad_cam"), masks=where, budget="fast")
    torch.testing.assert_close(seen.scores["grad_cam", "mask_auc"].values, im.mask_auc(by_hand, where).double())


SHAPES: list[tuple[Any, ...]] = [  # kind, layout, input, map, axis of the map's channel, axis of the input's
    ("series", None, (2, 3, 12), (2, 4, 5), 1, 1),
    ("sequence", None, (2, 12, 3), (2, 1, 5), 1, 2),
    ("sequence", None, (2, 12, 3), (2, 5, 4), 2, 2),
    ("image", None, (2, 3, 6, 8), (2, 4, 3, 5), 1, 1),
    ("image", "last", (2, 6, 8, 3), (2, 4, 3, 5), 1, 3),
    ("volume", None, (2, 1, 6, 8, 7), (2, 4, 3, 5, 2), 1, 1),
    ("clip", None, (2, 6, 3, 8, 7), (2, 4, 3, 5, 2), 1, 2),
]


@pytest.mark.parametrize(("kind", "layout", "input_shape", "map_shape", "channel", "axis"), SHAPES)
def test_enlarged_as_pictures_show_them(
    kind: str, layout: str | None, input_shape: Any, map_shape: Any, channel: int, axis: int
) -> None:
    coarse, x = torch.rand(map_shape), torch.rand(input_shape)
    exp = Explanation(coarse, x, "m", layer="body", spec=InputSpec(kind, layout=layout))
    [found] = over_input(exp)
    places = [n for i, n in enumerate(input_shape) if i not in (0, axis)]
    mode = ("linear", "bilinear", "trilinear")[len(places) - 1]
    by_hand = interpolate(coarse.movedim(channel, 1).sum(1, keepdim=True), tuple(places), mode=mode)
    torch.testing.assert_close(found, by_hand.movedim(1, axis))
    shown = attribution_renderer(drawn(exp)).values(drawn(exp), 1) if kind != "image" else exp.heatmap(1)
    np.testing.assert_allclose(np.squeeze(shown), by_hand[1, 0].numpy(), rtol=1e-5)


def test_frames_of_a_clip_and_what_has_no_places() -> None:
    frames, x = torch.rand(2, 6, 1, 4, 4), torch.rand(2, 6, 3, 8, 8)
    clip = Explanation(frames, x, "m", layer="body", spec=InputSpec("clip"), meta={"entries_per_sample": 6})
    each = torch.stack([interpolate(frames[:, t], (8, 8), mode="bilinear") for t in range(6)], 1)
    torch.testing.assert_close(over_input(clip)[0], each)
    for kind, one, given in (
        ("text", (2, 9, 4), (2, 9, 8)),
        ("tabular", (2, 4), (2, 9)),
        ("generic", (2, 4, 3), (2, 9, 5)),
    ):
        exp = Explanation(torch.rand(one), torch.rand(given), "m", layer="body", spec=InputSpec(kind))
        assert over_input(exp)[0] is exp.attribution


def test_channels_become_one_number_where_the_input_has_them() -> None:
    late = torch.zeros(1, 8, 3)
    late[0, 5] = 1.0
    for kind, one in (("sequence", late), ("series", late.mT), ("text", late)):
        exp = Explanation(one, torch.ones_like(one), "m", spec=InputSpec(kind))
        assert float(im.gini_index(exp, reduce="sum")) == pytest.approx(7 / 8)  # one of eight steps has it all
    picture = torch.zeros(1, 4, 5, 3)
    picture[0, 1, 2] = 1.0
    last = InputSpec("image", layout="last")
    whole = Explanation(picture, torch.ones_like(picture), "m", spec=last)
    grey = Explanation(picture.movedim(3, 1).mean(1, keepdim=True), torch.ones_like(picture), "m", spec=last)
    assert float(im.gini_index(whole, reduce="sum")) == pytest.approx(19 / 20)
    assert float(im.gini_index(grey, reduce="sum")) == pytest.approx(19 / 20)
