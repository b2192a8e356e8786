"""Rows of tables as bars, in figures and in pages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from matplotlib.colors import to_hex

from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.viz import colour

NAMES = ("age", "a <b>name</b> that goes on and on and on", "sex")


def rows(signed: bool) -> Explanation:
    a = torch.tensor([[3.0, -1.0 if signed else 1.0, 0.5]])
    return Explanation(
        a, torch.ones(1, 3), "saliency", title="Saliency", spec=InputSpec("tabular", feature_names=NAMES)
    )


@pytest.mark.parametrize("signed", [True, False])
def test_bars_without_a_sign_are_purple_everywhere(signed: bool) -> None:
    exp = rows(signed)
    up, down = (colour.POSITIVE_COLOUR, colour.NEGATIVE_COLOUR) if signed else (colour.PLAIN_COLOUR,) * 2
    fig, axes = exp.plot()
    assert [to_hex(bar.get_facecolor()) for bar in axes[0, 1].patches] == [up, down, up]
    words = fig.get_supxlabel()
    assert ("orange" in words.lower(), "purple" in words.lower()) == (signed, not signed)
    page, cell = exp.to_html(), exp._repr_html_() or ""
    for html in (page, cell):
        assert [html.count(f"background:{shade}") for shade in (colour.PLAIN_COLOUR, colour.POSITIVE_COLOUR)] == (
            [0, 2] if signed else [3, 0]
        )
    line = replace(exp, spec=InputSpec("generic")).show()
    shades = {to_hex(area.get_facecolor()[0]) for area in line.collections}
    assert shades == ({up, down} if signed else {up})


def test_numbers_stand_in_a_column_beside_the_bars() -> None:
    fig, axes = Explanations([rows(True), rows(False)]).plot()
    fig.draw_without_rendering()
    for ax in axes[0, 1:]:
        names = [label.get_window_extent() for label in ax.get_yticklabels()]
        numbers = [text.get_window_extent() for text in ax.texts]
        assert not any(name.overlaps(number) for name in names for number in numbers)
        assert all(number.x0 >= ax.get_window_extent().x1 for number in numbers)


def test_a_page_has_rows_of_one_line_and_escapes_names() -> None:
    html = rows(True).to_html()
    assert "<b>name</b>" not in html and "a &lt;b&gt;name&lt;/b&gt;" in html
    assert html.count("text-overflow:ellipsis") == 6 and 'title="a &lt;b&gt;name&lt;/b&gt; that goes' in html
    assert "margin-left:33.3%" in html and "margin-left:50.0%" in html  # below zero to the left of the middle
