"""One picture in one axis, for every kind of picture and of data."""

from __future__ import annotations

import pickle
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.viz import all_kinds, show

IMAGE_KINDS = ("side", "overlay", "heatmap", "masked", "alpha", "positive", "negative", "contour", "original")


def test_a_notebook_shows_the_picture_and_prints_no_axes(make, monkeypatch) -> None:
    formatters = pytest.importorskip("IPython.core.formatters")
    shown: list[object] = []
    monkeypatch.setattr("interp_plugins.viz.figure.in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", shown.append)
    for axes in (make(1).show(), Explanations([make(2)]).show()):
        assert formatters.DisplayFormatter().format(axes) == ({}, {})
        pickle.loads(pickle.dumps(np.asarray(axes, dtype=object).reshape(-1)[0].figure))
    assert len(shown) == 2
    plain = make(1).show(ctx=Figure().subplots())
    assert "text/plain" in formatters.DisplayFormatter().format(plain)[0]


@pytest.mark.parametrize("kind", IMAGE_KINDS)
@pytest.mark.parametrize("values", ["signed", "unsigned", "zero"])
def test_every_kind_of_picture_is_drawn(make, kind: str, values: str) -> None:
    exp = make(1)
    a = {"signed": exp.attribution, "unsigned": exp.attribution.abs(), "zero": exp.attribution * 0}[values]
    ax = show(make(1, attributions=a), kind=kind)
    ax.figure.draw_without_rendering()
    assert ax.get_title()


def test_ctx_is_drawn_in_and_returned(make) -> None:
    left, right = Figure(figsize=(6, 3)).subplots(1, 2)
    assert make(1).show(ctx=right, kind="overlay") is right
    assert right.images and not left.images and not left.get_title()


def test_ctx_says_its_scale_below_the_picture(make) -> None:
    ax = show(make(1), ctx=Figure().subplots(), kind="heatmap")
    assert "99th percentile" in ax.get_xlabel()


def test_colour_bar_states_units_and_clip_limit(make) -> None:
    exp = make(1, attributions=torch.linspace(-3, 3, 576).view(1, 3, 12, 16))
    ax = show(exp, kind="heatmap", normalize=4.5)
    (bar,) = ax.child_axes
    assert bar.get_ylabel() == "attribution, clipped at ±4.5"
    assert [round(t, 3) for t in bar.get_yticks()] == [-4.5, 0.0, 4.5]


def test_contours_state_their_peak_in_attribution_units(make) -> None:
    ax = show(make(1, attributions=torch.full((1, 1, 12, 16), 0.5)), kind="contour", normalize="max", title=False)
    assert ax.get_title() == "25, 50, 75 % of the smoothed peak, 0.5" and not ax.child_axes


def test_side_holds_three_pictures_and_their_names(make) -> None:
    ax = show(make(1), kind="side")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["original", "heat map", "overlay"]
    assert ax.images[0].get_array().shape[1] >= 3 * 16


def test_index_title_and_figsize(make) -> None:
    exp = make(3)
    ax = show(exp, index=-1, kind="overlay", figsize=(3, 4))
    assert "label 2" in ax.get_title() and tuple(ax.figure.get_size_inches()) == (3, 4)
    assert show(exp, title="mine", kind="overlay").get_title() == "mine"
    assert show(exp, title=False, kind="overlay").get_title() == ""
    with pytest.raises(InputError, match="holds 3 samples"):
        show(exp, index=3)


def test_unknown_kinds_are_answered_with_the_nearest(make) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'heatmap'"):
        show(make(1), kind="heatmp")
    with pytest.raises(UnknownNameError, match="Did you mean 'max'"):
        show(make(1), normalize="maxx")


def test_nan_maps_are_refused(make) -> None:
    with pytest.raises(InputError, match="NaN"):
        show(make(1, attributions=torch.full((1, 3, 12, 16), float("nan"))))


def test_labels_that_look_like_mathematics_are_text(make) -> None:
    ax = show(make(1, target_label=("$\\frac{ a_b $ 100%",)), kind="overlay")
    ax.figure.draw_without_rendering()
    assert "$" in ax.get_title()


def test_the_sign_of_the_method_decides_not_that_of_the_sample(make) -> None:
    a = torch.ones(2, 3, 12, 16)
    a[1] = -1
    ax = show(make(attributions=a), kind="heatmap", index=0)
    assert ax.child_axes[0].get_ylim()[0] < 0


def test_layer_maps_are_enlarged_and_layers_without_axes_are_bars(make) -> None:
    ax = show(make(1, attributions=torch.rand(1, 8, 3, 4)), kind="heatmap")
    assert ax.images[0].get_array().shape[:2] == (12, 16)
    ax = show(make(1, attributions=torch.randn(1, 20)), kind="side")
    ax.figure.draw_without_rendering()
    assert not ax.images and ax.collections


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("tabular", (2, 5)),
        ("tabular", (2, 40)),
        ("sequence", (2, 30)),
        ("sequence", (2, 30, 4)),
        ("generic", (2,)),
        ("generic", (2, 3, 4)),
        ("generic", (2, 3, 4, 5)),
        ("image", (2, 7)),
        ("volume", (2, 3, 4, 5, 6)),
    ],
)
@pytest.mark.parametrize("picture", ["side", "original"])
def test_other_data_are_always_drawn(make, kind: str, shape: tuple[int, ...], picture: str) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ax = show(make(attributions=x, inputs=x + 1, spec=InputSpec(kind=kind)), kind=picture)
    ax.figure.draw_without_rendering()


def test_table_rows_show_raw_values_largest_first_and_what_is_left_out(make) -> None:
    a = torch.zeros(1, 20)
    a[0, 3], a[0, 7], a[0, 8:] = -5.0, 2.0, 0.5
    names = tuple(f"column {f}" for f in range(20))
    spec = InputSpec(kind="tabular", mean=(10.0,) * 20, std=(2.0,) * 20, feature_names=names)
    ax = show(make(1, attributions=a, inputs=torch.ones(1, 20), spec=spec))
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels[:2] == ["column 3 = 12", "column 7 = 12"] and labels[-1] == "8 others, summed"
    bars: list[Any] = list(ax.patches)
    assert [round(bar.get_width(), 6) for bar in bars][:2] == [-5.0, 2.0]
    assert sum(bar.get_width() for bar in bars) == pytest.approx(a.sum().item())


def test_nan_in_a_table_row_is_refused(make) -> None:
    a = torch.tensor([[1.0, float("inf")]])
    with pytest.raises(InputError, match="1 infinite"):
        show(make(1, attributions=a, inputs=a * 0, spec=InputSpec(kind="tabular")))


def test_all_kinds_lists_every_picture() -> None:
    assert set(IMAGE_KINDS) <= set(all_kinds()) and "bar" in all_kinds()


def test_a_notebook_displays_what_has_no_ctx(make, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bytes] = []
    fake: Any = types.ModuleType("IPython")
    display: Any = types.ModuleType("IPython.display")
    fake.version_info = (9, 0, 0)  # matplotlib asks, at the first canvas of a process
    fake.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    display.Image = lambda data, format: data
    display.display = shown.append
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    make(1).show(kind="overlay")
    make(1).show(kind="overlay", ctx=Figure().subplots())
    assert len(shown) == 1 and shown[0].startswith(b"\x89PNG")
