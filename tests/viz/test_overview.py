"""Pictures of whole explanations: beeswarm, importance, layers against tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.viz import beeswarm, colour, importance, layers_by_tokens
from interp_plugins.viz.depth import short_layers
from interp_plugins.viz.summary import spread


def table(n: int = 30, features: int = 3) -> Explanation:
    """Features of growing weight; attribution = weight * x."""
    x = torch.linspace(-1, 1, n)[:, None] * torch.ones(features)
    weights = torch.arange(1.0, features + 1)
    names = tuple(f"column {f}" for f in range(features))
    spec = InputSpec("tabular", feature_names=names)
    return Explanation(x * weights, x, "ig", title="IG", target_label=("price",) * n, spec=spec)


def dots(ax) -> list:
    return [c for c in ax.collections if len(c.get_offsets()) > 1]


def test_a_beeswarm_has_a_dot_per_row_at_its_attribution() -> None:
    fig, axes = table().plot(kind="beeswarm")
    (ax,) = axes.ravel()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["column 2", "column 1", "column 0"]
    clouds = dots(ax)
    assert len(clouds) == 3 and np.allclose(np.sort(clouds[0].get_offsets()[:, 0]), np.linspace(-3, 3, 30))
    assert all(abs(cloud.get_offsets()[:, 1] - row).max() <= 0.41 for row, cloud in enumerate(clouds))
    colours = np.asarray(clouds[0].get_array())
    assert colours.min() == 0 and colours.max() == 1 and (np.diff(colours) >= 0).all()  # low values first
    assert ax.get_xlabel() == "attribution to price, 30 rows" and isinstance(fig, Figure)
    fig.draw_without_rendering()


def test_frequent_categories_have_colours_with_names_and_rarer_ones_are_grey() -> None:
    kinds = ["red"] * 12 + ["blue"] * 10 + ["white"] * 7 + ["rare"]
    exp = table().annotated(values=[(kind, "one", 1.0) for kind in kinds])
    fig, axes = beeswarm(exp)
    numbers, constant, words = dots(axes[0, 0])
    assert numbers.get_array() is not None and constant.get_array() is None and words.get_array() is None
    shades = [to_hex(c) for c in words.get_facecolors()]
    assert shades == [colour.CATEGORIES[0]] * 12 + [colour.CATEGORIES[1]] * 10 + [colour.CATEGORIES[2]] * 7 + [
        colour.GREY
    ]
    texts = {t.get_text(): to_hex(t.get_color()) for t in axes[0, 0].texts}
    assert texts == {f"\u25cf {k}": c for k, c in zip(["red", "blue", "white"], colour.CATEGORIES)} | {
        "\u25cf one": colour.CATEGORIES[0]
    }
    assert "grey: rarer categories" in fig.axes[1].get_ylabel()


def test_a_long_table_is_drawn_as_a_beeswarm_unless_rows_are_asked_for() -> None:
    assert table(9).plot().axes.shape == (1, 1) and len(dots(table(9).plot().axes[0, 0])) == 3
    assert table(8).plot().axes.shape == (8, 2)
    assert table(9).plot(max_n=2).axes.shape == (2, 2)
    assert table(9).plot(kind="bar").axes.shape == (9, 2)


def test_importance_is_the_mean_size_with_its_error() -> None:
    (ax,) = importance(table(), max_features=2).axes.ravel()
    sizes = np.abs(np.linspace(-3, 3, 30))
    assert ax.patches[0].get_width() == pytest.approx(sizes.mean()) and len(ax.patches) == 2
    errors = next(c for c in ax.containers if isinstance(c, ErrorbarContainer))
    (segment,) = errors.lines[2][0].get_segments()[:1]
    assert segment[1, 0] - sizes.mean() == pytest.approx(2 * sizes.std(ddof=1) / np.sqrt(30))
    assert "1 further features are weaker" in ax.get_xlabel()


def test_several_explanations_get_a_panel_each_and_axes_can_be_given() -> None:
    exps = Explanations([table(), replace(table(), title="Other")])
    assert [ax.get_title() for ax in exps.plot(kind="importance").axes[0]] == ["IG", "Other"]
    axes = Figure(figsize=(8, 3)).subplots(1, 2)
    assert (beeswarm(exps, ax=axes).axes[0] == axes).all()
    one = Figure().subplots()
    assert importance(table(), ax=one).axes[0, 0] is one
    with pytest.raises(InputError, match="ax holds 1 axes, but 2 are needed"):
        beeswarm(exps, ax=one)


def test_what_cannot_be_summarised_says_why() -> None:
    with pytest.raises(InputError, match=r"'beeswarm' cannot be drawn: .*got \(1, 3, 4, 4\) of kind 'image'"):
        Explanation(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4), "ig", spec=InputSpec("image")).plot(kind="beeswarm")
    with pytest.raises(InputError, match="two rows at least"):
        table(1).plot(kind="importance")
    with pytest.raises(UnknownNameError, match="Did you mean 'beeswarm'"):
        table().plot(kind="beeswram")
    with pytest.raises(InputError, match="NaN"):
        replace(table(), attributions=table().attribution * float("nan")).plot(kind="beeswarm")
    with pytest.raises(InputError, match="max_features must be at least 1"):
        beeswarm(table(), max_features=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80))
def test_spread_keeps_every_dot_in_its_row(values: list[float]) -> None:
    offsets = spread(np.array(values))
    assert offsets.shape == (len(values),) and (np.abs(offsets) <= 0.4 + 1e-12).all()
    assert np.array_equal(offsets, spread(np.array(values)))  # no random draws


# -- layers against tokens -----------------------------------------------------------------------------------------

TOKENS = [["[CLS]", "un", "##kind", "$x_1$"], ["short"]]


def at_layers(n: int = 3) -> Explanations:
    ids = torch.zeros(2, 4, dtype=torch.long)
    found = [
        Explanation(torch.full((2, 4, 5), float(k - 1)), ids, "lig", title="LIG", layer=f"bert.layer.{k}.output")
        for k in range(n)
    ]
    return Explanations(found).annotated(tokens=TOKENS)


def test_layers_by_tokens_adds_up_features_on_one_scale() -> None:
    fig, axes = at_layers().plot(kind="layers")
    (ax,) = axes.ravel()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["layer 0", "layer 1", "layer 2"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["[CLS]", "un", "kind", "$x_1$"]
    assert [t.get_text() for t in ax.texts] == ["−1.0"] * 4 + ["0.0"] * 4 + ["1.0"] * 4
    shown = np.asarray(ax.images[0].get_array())
    assert shown.shape == (3, 4, 3) and np.allclose(shown[1], 1, atol=0.01) and shown[0, 0, 2] > shown[0, 0, 0]
    assert "largest value" in ax.child_axes[0].get_ylabel()
    fig.draw_without_rendering()
    assert len(layers_by_tokens(at_layers(), index=-1).axes[0, 0].get_xticklabels()) == 1
    with pytest.raises(InputError, match="Text 2 asked for"):
        layers_by_tokens(at_layers(), index=2)


def test_layers_need_layers_and_tokens() -> None:
    with pytest.raises(InputError, match=r"different layers; got layers \[None, None\]"):
        Explanations([table(), table()]).plot(kind="layers")
    bare = [replace(exp, tokens=None) for exp in at_layers()]
    with pytest.raises(InputError, match=r"bert.layer.0.output has not"):
        Explanations(bare).plot(kind="layers")


def test_names_of_layers_lose_what_they_share() -> None:
    assert short_layers(["a.layer.0.out", "a.layer.10.out"]) == ["layer 0", "layer 10"]
    assert short_layers(["net.up.conv", "net.down.conv"]) == ["up", "down"]
    assert short_layers(["net", "net.0"]) == ["net", "net.0"]


def test_pages_begin_with_the_overviews_their_data_allow() -> None:
    page = table().to_html(max_n=1)
    assert page.count('class="sample overview"') == 2 and "Every row: which features moved its score" in page
    assert "Which token matters in which layer" in at_layers().to_html()
    assert 'class="sample overview"' not in table(1).to_html()
    assert "http" not in page.replace("http-equiv", "") and "default-src 'none'" in page
