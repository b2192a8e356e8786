"""Several pictures stand side by side, and the region of a segmentation is outlined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.viz import pixels
from interp_plugins.viz.renderer import attribution_renderer, is_signed

SPEC = InputSpec(kind="image")
A, B = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 6, 10)
PAIR = Explanation((A + 0.1, B * -0.2), (A, B), "saliency", target_label=("same", "other"), spec=SPEC)


def test_two_pictures_stand_side_by_side_with_their_maps() -> None:
    photo, heat = pixels.photo(PAIR).rgb, pixels.heat(PAIR)
    assert photo.shape == (8, 8 + 1 + 10, 3) and heat.shape == (8, 19)
    assert not photo[:, :8].any() and (photo[:, 8] == 1).all() and (photo[:6, 9:] == 1).all()
    assert np.allclose(heat[:, :8], 0.3) and not heat[:, 8].any() and np.allclose(heat[:6, 9:], -0.6)
    assert not heat[6:, 9:].any() and is_signed(PAIR)
    for kind in ("overlay", "side", "contour", "heatmap", "masked"):
        assert PAIR.plot(kind=kind).axes.shape == (2, 2)
    assert attribution_renderer(PAIR).size(PAIR, "overlay")[0] > attribution_renderer(PAIR).size(PAIR, "overlay")[1]
    assert PAIR.to_html().count("<img") >= 6


def test_one_map_for_two_pictures_lies_over_neither() -> None:
    at_a_layer = replace(PAIR, attributions=torch.rand(2, 1, 4, 4), layer="body")
    assert attribution_renderer(at_a_layer).name == "generic"
    assert pixels.photo(at_a_layer).rgb.shape == (8, 19, 3)
    at_a_layer.plot()
    with_numbers = replace(at_a_layer, inputs=(A, torch.rand(2, 5)))
    assert attribution_renderer(with_numbers).name == "image"


def test_the_region_is_outlined() -> None:
    region = torch.zeros(2, 8, 8, dtype=torch.bool)
    region[0, 2:6, 2:6] = True
    exp = Explanation(A + 0.1, A + 0.5, "saliency", target_label=("disc", "disc"), region=region, spec=SPEC)
    rgb = pixels.photo(exp).rgb
    drawn = pixels.outlined(rgb, exp, 0)
    black, white = (drawn == 0).all(2), (drawn == 1).all(2)
    assert drawn.shape == (192, 192, 3)
    assert black.sum() == 96**2 - 94**2 and black[48, 48] and not black[49, 49]  # rows 2 to 5, each 24 times
    assert white.sum() == 98**2 - 96**2 and white[47, 47]
    assert (pixels.outlined(rgb, exp, 1)[::24, ::24] == rgb).all() and (
        pixels.outlined(rgb, replace(exp, region=None), 0) == rgb
    ).all()
    plot = Explanations([exp]).plot()
    assert "outline is the region" in plot.fig._supxlabel.get_text()
