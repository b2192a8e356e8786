"""What Captum's visualization functions draw, and what ours draw of the same arrays: the same values, the same places.

Colours differ on purpose (docs/differences.md), so a colour map is given where colours are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from captum.attr import visualization as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import LineCollection

from interp_plugins.attr.compat import visualization as ours

RNG = np.random.default_rng(3)
MAP, PICTURE = RNG.normal(size=(9, 7, 3)), RNG.random((9, 7, 3))
ATTR, SERIES = RNG.normal(size=(15, 3)), RNG.normal(size=(15, 3)).cumsum(0)
SIGNS = ("all", "positive", "negative", "absolute_value")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def images(axis: Any) -> list[tuple[np.ndarray, Any, Any]]:
    """Every picture of an axis: its values, the ends of its scale where it has one, its opacity."""
    found = []
    for image in axis.images:
        values = np.asarray(image.get_array(), dtype=float)
        found.append((values, image.get_clim() if values.ndim == 2 else None, image.get_alpha()))
    return found


def assert_same_pictures(mine: Any, captums: Any) -> None:
    """Both axes hold the same pictures."""
    one, two = images(mine), images(captums)
    assert len(one) == len(two)
    for (values, ends, alpha), (captum_values, captum_ends, captum_alpha) in zip(one, two, strict=True):
        assert np.allclose(values, captum_values, rtol=0, atol=1e-12)
        assert ends == captum_ends and alpha == captum_alpha


@pytest.mark.parametrize(
    ("method", "outlier_perc"),
    [*((method, 2) for method in ours.ImageVisualizationMethod.__members__), ("heat_map", 0), ("heat_map", 30.5)],
)
@pytest.mark.parametrize("sign", SIGNS)
def test_images(method: str, sign: str, outlier_perc: float) -> None:
    known: dict[str, Any] = {"method": method, "sign": sign, "outlier_perc": outlier_perc, "use_pyplot": False}
    known |= {"title": "title", "show_colorbar": True, "cmap": "viridis", "alpha_overlay": 0.3, "fig_size": (4, 3)}
    for picture in (PICTURE, (255 * PICTURE).astype(np.uint8))[: 1 + (method == "masked_image")]:
        if sign == "all" and method in ("masked_image", "alpha_scaling"):
            for lib in (ours, theirs):
                with pytest.raises(AssertionError, match="with both positive and negative attributions"):
                    lib.visualize_image_attr(MAP, picture, **known)
            continue
        (figure, axis), (captums, captum_axis) = (
            lib.visualize_image_attr(MAP, picture, **known) for lib in (ours, theirs)
        )
        assert_same_pictures(axis, captum_axis)
        assert len(figure.axes) == len(captums.axes) == 2  # the second is the colour bar, or its room
        assert axis.get_title() == captum_axis.get_title() == "title"
        assert (figure.get_size_inches() == captums.get_size_inches()).all()


def test_grey_maps_and_pictures() -> None:
    known: dict[str, Any] = {"sign": "all", "use_pyplot": False}
    assert_same_pictures(*(lib.visualize_image_attr(MAP[..., 0], **known)[1] for lib in (ours, theirs)))
    known |= {"method": "original_image"}
    one = (lib.visualize_image_attr(MAP, PICTURE[..., :1], **known)[1] for lib in (ours, theirs))
    assert np.array_equal(*(np.asarray(axis.images[0].get_array()) for axis in one))


def test_a_given_axis_is_drawn_in_and_pyplot_is_used_when_asked() -> None:
    for lib in (ours, theirs):
        figure, axes = plt.subplots(1, 2)
        assert lib.visualize_image_attr(MAP, plt_fig_axis=(figure, axes[1]), use_pyplot=False) == (figure, axes[1])
        before = len(plt.get_fignums())
        lib.visualize_image_attr(MAP, use_pyplot=True)
        assert len(plt.get_fignums()) == before + 1


def test_several_images() -> None:
    methods, signs = ["original_image", "heat_map", "masked_image"], ["all", "all", "positive"]
    drawn = [
        lib.visualize_image_attr_multiple(
            MAP, PICTURE, methods, signs, ["a", "b", "c"], (9, 3), False, show_colorbar=True, outlier_perc=5
        )
        for lib in (ours, theirs)
    ]
    for mine, captums in zip(drawn[0][1], drawn[1][1], strict=True):
        assert_same_pictures(mine, captums)
        assert mine.get_title() == captums.get_title()
        assert np.allclose(mine.get_position().bounds, captums.get_position().bounds, atol=0.02)


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("method", list(ours.TimeseriesVisualizationMethod.__members__))
def test_time_series(method: str, sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Captum asks for a function that matplotlib 3.9 removed.
    monkeypatch.setattr(matplotlib.cm, "get_cmap", lambda name: matplotlib.colormaps[name], raising=False)
    known: dict[str, Any] = {"method": method, "sign": sign, "channel_labels": ["a", "b", "c"], "cmap": "viridis"}
    known |= {"x_values": np.linspace(0, 7, 15), "title": "title", "show_colorbar": True, "linewidth": 2.5}
    (figure, axes), (captums, captum_axes) = (
        lib.visualize_timeseries_attr(ATTR, SERIES, **known, use_pyplot=True) for lib in (ours, theirs)
    )
    assert len(figure.axes) == len(captums.axes)
    for mine, theirs_ in zip(np.atleast_1d(axes), np.atleast_1d(captum_axes), strict=True):
        for one, two in zip(mine.lines, theirs_.lines, strict=True):
            assert np.array_equal(one.get_xydata(), two.get_xydata()) and one.get_linewidth() == two.get_linewidth()
        for one, two in zip(mine.patches, theirs_.patches, strict=True):
            assert np.allclose(one.get_bbox().bounds, two.get_bbox().bounds)
            assert one.get_facecolor() == two.get_facecolor()
        lines = [[c for c in ax.collections if isinstance(c, LineCollection)] for ax in (mine, theirs_)]
        for one, two in zip(*lines, strict=True):
            assert np.array_equal(np.array(one.get_segments()), np.array(two.get_segments()))
            assert np.allclose(one.get_array(), two.get_array(), rtol=0, atol=1e-12)
        assert mine.get_ylabel() == theirs_.get_ylabel() and mine.get_title() == theirs_.get_title()
        assert mine.get_xlim() == theirs_.get_xlim()
        legends = [ax.get_legend() for ax in (mine, theirs_)]
        names = [legend and [text.get_text() for text in legend.get_texts()] for legend in legends]
        assert names[0] == names[1]


def test_a_coloured_graph_shows_the_whole_line_where_captum_cuts_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matplotlib.cm, "get_cmap", lambda name: matplotlib.colormaps[name], raising=False)
    high = np.stack([np.linspace(10, 11, 15)] * 2, 1)
    for lib, whole in ((ours, True), (theirs, False)):
        _, axes = lib.visualize_timeseries_attr(ATTR[:, :2], high, method="colored_graph", cmap="viridis")
        low, top = axes[0].get_ylim()
        assert (low <= 10 and top >= 11) == whole


def visible(html: str) -> list[str]:
    """The words of HTML that a reader sees."""
    return unescape(re.sub(r"<[^>]*>", " ", html)).split()


def record(lib: Any, words: list[str]) -> Any:
    values = torch.linspace(-1, 1, len(words))
    return lib.VisualizationDataRecord(values, 0.75, "positive", "negative", 1, 1.257, words, 0.01)


def test_texts() -> None:
    words = ["<s>", "a", "fine", "film", "</s>"]
    tables = [lib.visualize_text([record(lib, words), record(lib, words[::-1])]).data for lib in (ours, theirs)]
    assert visible(tables[0]) == visible(tables[1])
    assert visible(ours.visualize_text([record(ours, words)], legend=False).data) == visible(
        theirs.visualize_text([record(theirs, words)], legend=False).data
    )
    assert record(ours, words).__slots__ == tuple(sorted(theirs.VisualizationDataRecord.__slots__))
    for values in ([0.1, 0.2], np.array([0.1, 0.2]), torch.tensor([0.1, 0.2, 0.3])):
        one, two = (lib.format_word_importances(["a", "b"], values) for lib in (ours, theirs))
        assert visible(one) == visible(two) and one.count("<mark") == two.count("<mark") == 2
    for lib in (ours, theirs):
        assert lib.format_word_importances(["a"], []) == lib.format_word_importances([], None) == "<td></td>"
        assert visible(lib.format_classname("a class")) == ["a", "class"]
        for words, values in ((["a", "b"], [0.1]), (["a"], np.zeros((1, 1)))):
            with pytest.raises(AssertionError):
                lib.format_word_importances(words, values)
    assert "item" in ours.format_tooltip("item", "tip") and "tip" in ours.format_tooltip("item", "tip")


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="<>#/s a", max_size=8))
def test_special_tokens(token: str) -> None:
    assert ours.format_special_tokens(token) == theirs.format_special_tokens(token)


@pytest.mark.parametrize("width", [1, 2])
def test_borders_and_labels_of_masks(width: int) -> None:
    mask = np.zeros((9, 9), dtype=bool)
    mask[0:6, 3:8] = True
    drawn = []
    for lib in (ours, theirs):
        _, axis = plt.subplots()
        lib.draw_mask_border(axis, mask, border_width=width, border_color="red")
        lib.draw_mask_border(axis, mask & False)
        lib.draw_mask_legend(axis, mask, "7", fontsize=8)
        lib.draw_mask_legend(axis, mask & False, "none")
        drawn.append(axis)
    assert_same_pictures(*drawn)
    (one,), (two,) = (axis.texts for axis in drawn)
    assert one.get_text() == two.get_text() and one.get_position() == two.get_position()
    assert one.get_fontsize() == two.get_fontsize() and one.get_color() == two.get_color()
