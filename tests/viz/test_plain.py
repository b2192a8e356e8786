"""Captum's visualization functions over plain arrays: what is drawn, from what is given, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from interp_plugins.attr.compat import visualization as viz
from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.viz.captum_image import normalised


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


MAP = np.zeros((8, 6, 3))
MAP[2, 3], MAP[5, 1] = 1.0, -2.0
PICTURE = np.linspace(0, 1, 8 * 6 * 3).reshape(8, 6, 3)


def drawn(axis: plt.Axes, k: int = -1) -> np.ndarray:
    return np.asarray(axis.images[k].get_array())


@pytest.mark.parametrize(
    ("sign", "high", "low"), [("all", 0.5, -1), ("positive", 1, 0), ("negative", 0, 1), ("absolute_value", 0.5, 1)]
)
def test_heat_map_shows_the_values_of_its_sign(sign: str, high: float, low: float) -> None:
    _, axis = viz.visualize_image_attr(MAP, sign=sign, outlier_perc=0)
    values = drawn(axis)
    assert values.shape == (8, 6) and values[2, 3] == high and values[5, 1] == low and values[0, 0] == 0


def test_outliers_are_cut_off_by_their_share_of_the_sum() -> None:
    values = np.array([[1.0, 1, 1, 1, 96]])
    assert np.array_equal(normalised(values, "all", 97), [[1, 1, 1, 1, 1]])
    assert normalised(values, "all", 0)[0, 0] == pytest.approx(1 / 96)
    with pytest.raises(AssertionError, match="outlier_perc must be between 0 and 100 inclusive, got 101"):
        normalised(values, "all", 101)


@pytest.mark.parametrize("method", ["blended_heat_map", "original_image", "masked_image", "alpha_scaling"])
def test_methods_draw_the_picture(method: str) -> None:
    figure, axis = viz.visualize_image_attr(MAP, PICTURE, method, "positive", show_colorbar=True, title="a title")
    assert axis.get_title() == "a title" and axis.images
    if method == "original_image":
        assert np.array_equal(drawn(axis), (PICTURE * 255).astype(np.uint8))
        viz.visualize_image_attr(None, PICTURE, method)  # needs no map
    if method == "masked_image":
        assert not drawn(axis)[5, 1].any() and drawn(axis)[2, 3].all()
    if method == "alpha_scaling":
        assert drawn(axis)[2, 3, 3] == 255 and drawn(axis)[5, 1, 3] == 0
    if method == "blended_heat_map":
        assert len(axis.images) == 2 and axis.images[1].get_alpha() == 0.5 and len(figure.axes) == 2


def test_tensors_with_channels_first_and_maps_of_zeros() -> None:
    chw = torch.tensor(MAP.transpose(2, 0, 1))[None].requires_grad_()
    _, axis = viz.visualize_image_attr(chw, torch.tensor(PICTURE.transpose(2, 0, 1)), use_pyplot=False, outlier_perc=0)
    assert drawn(axis)[5, 1] == 1
    _, axis = viz.visualize_image_attr(MAP * 0, outlier_perc=2)
    assert not drawn(axis).any()
    _, axis = viz.visualize_image_attr(MAP, PICTURE[..., :1], "masked_image", "positive")
    assert drawn(axis).shape == (8, 6)


def test_several_side_by_side() -> None:
    figure, axes = viz.visualize_image_attr_multiple(
        MAP, PICTURE, ["original_image", "heat_map"], ["all", "positive"], ["one", "two"], outlier_perc=1
    )
    assert [a.get_title() for a in axes] == ["one", "two"] and len(figure.axes) == 2
    _, single = viz.visualize_image_attr_multiple(MAP, None, ["heat_map"], ["all"], use_pyplot=False)
    assert single.images
    with pytest.raises(AssertionError, match="Methods and signs array lengths must match: got 2 and 1"):
        viz.visualize_image_attr_multiple(MAP, PICTURE, ["heat_map", "heat_map"], ["all"])
    with pytest.raises(AssertionError, match="titles list is given, length must match"):
        viz.visualize_image_attr_multiple(MAP, PICTURE, ["heat_map"], ["all"], ["a", "b"])


SERIES = np.stack([np.sin(np.arange(20) / 3), np.cos(np.arange(20) / 3)], 1)


@pytest.mark.parametrize("method", ["overlay_individual", "overlay_combined", "colored_graph"])
def test_time_series(method: str) -> None:
    values = np.zeros((20, 2))
    values[4, 0] = 3
    figure, axes = viz.visualize_timeseries_attr(
        values, SERIES, np.linspace(0, 1, 20), method, "all", ["up", "down"], show_colorbar=True, title="waves"
    )
    panels = list(np.atleast_1d(axes))
    assert len(panels) == (1 if method == "overlay_combined" else 2) and panels[0].get_title() == "waves"
    assert len(figure.axes) == len(panels) + 1
    if method == "colored_graph":
        assert float(panels[0].collections[0].get_array().max()) == 1
    else:
        assert len(panels[0].patches) == 20 and len(panels[0].lines) == (2 if method == "overlay_combined" else 1)
    again, _ = viz.visualize_timeseries_attr(values.T, SERIES.T, method=method, channels_last=False, use_pyplot=False)
    assert len(again.axes) == len(panels)


def test_time_series_that_cannot_be() -> None:
    with pytest.raises(AssertionError, match=r"Expected attr of shape \(T, C\), got \(20,\)"):
        viz.visualize_timeseries_attr(SERIES[:, 0], SERIES)
    with pytest.raises(AssertionError, match="x_values must have same length as data: got 3 for 20"):
        viz.visualize_timeseries_attr(SERIES, SERIES, np.arange(3))
    with pytest.raises(InputError, match=r"Unknown visualization method 'overlay'\. Did you mean"):
        viz.visualize_timeseries_attr(SERIES, SERIES, method="overlay")
    with pytest.warns(InterpWarning, match=r"Number of channels \(20\) greater than time series length \(2\)"):
        viz.visualize_timeseries_attr(SERIES, SERIES, channels_last=False, use_pyplot=False)


def test_pictures_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="Original Image must be provided for any visualization other than heatmap"):
        viz.visualize_image_attr(MAP, method="masked_image")
    with pytest.raises(AssertionError, match="Cannot display masked image with both positive and negative"):
        viz.visualize_image_attr(MAP, PICTURE, "masked_image", "all")
    with pytest.raises(InputError, match=r"Unknown method 'heatmap'\. Did you mean 'heat_map'"):
        viz.visualize_image_attr(MAP, method="heatmap")
    with pytest.raises(InputError, match="Unknown sign 'plus'"):
        viz.visualize_image_attr(MAP, sign="plus")
    with pytest.raises(InputError, match=r"attr has size \(8, 6\), original_image \(4, 6\)"):
        viz.visualize_image_attr(MAP, PICTURE[:4], "blended_heat_map")
    with pytest.raises(InputError, match=r"attr must be \(H, W\)"):
        viz.visualize_image_attr(np.zeros(3))


def test_words_are_coloured_and_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    record = viz.VisualizationDataRecord(
        torch.tensor([0.9, -0.5, 0.0]),
        0.8,
        "pos",
        "<b>neg</b>",
        "pos",
        1.25,
        ["<s>", "<script>", "plain & simple"],
        0.1,
    )
    html = viz.visualize_text([record]).data
    assert "<script>" not in html and "#script" in html and "plain &amp; simple" in html
    assert "&lt;b&gt;neg&lt;/b&gt;" in html and "pos (0.80)" in html and "1.25" in html and "Legend" in html
    assert html.count("<tr>") == html.count("</tr>") == 2
    assert "Legend" not in viz.visualize_text([record], legend=False).data
    assert viz.format_word_importances(["a"], []) == "<td></td>"
    with pytest.raises(AssertionError, match="2 words came with 1 importances"):
        viz.format_word_importances(["a", "b"], [0.1])
    with pytest.raises(AssertionError, match=r"Expected 1D array, got \(1, 2\)"):
        viz.format_word_importances(["a"], torch.zeros(1, 2))
    assert 'title="a &quot;tip&quot;"' in viz.format_tooltip("item", 'a "tip"')
