"""The page and the notebook fragment: self-contained, escaped, complete."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from interp_plugins.core.errors import UnknownNameError
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.viz import captions, notebook_html, to_html

EVIL = '<script>alert("x")</script>&\'" onerror=1'


class Tags(HTMLParser):
    """Collects the tags of a page and checks that they are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.found if tag == name]


def evil(make) -> Explanation:
    texts = dict.fromkeys(("target_label", "prediction_label", "names"), (EVIL,))
    return make(1, **texts, title=EVIL, layer=EVIL, params={EVIL: EVIL})


@pytest.mark.parametrize("write", [to_html, notebook_html])
def test_text_is_escaped(make, write) -> None:
    html = write([evil(make)])
    tags = Tags(html)
    assert not tags.named("script") and "<script" not in html and "&lt;script&gt;" in html
    assert all("onerror" not in attrs for _, attrs in tags.found)


def test_the_page_forbids_and_needs_no_network(make) -> None:
    html = to_html([make(2)])
    policy = next(m["content"] for m in Tags(html).named("meta") if m.get("http-equiv"))
    assert "default-src 'none'" in policy and "img-src data:" in policy
    assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r"base64,[^\"]*", "", html))


def test_pictures_are_png_in_the_page(make) -> None:
    images = Tags(to_html([make(2)])).named("img")
    assert len(images) == 2 * (1 + 2)
    for image in images:
        head, data = str(image["src"]).split(",", 1)
        assert head == "data:image/png;base64" and image["alt"]
        assert imread(io.BytesIO(base64.b64decode(data)), format="png").shape[:2] == (12, 16)


def test_large_pictures_are_reduced(make) -> None:
    image = Tags(to_html([make(1, size=(40, 80))], longest=20)).named("img")[0]
    data = base64.b64decode(str(image["src"]).split(",", 1)[1])
    assert imread(io.BytesIO(data), format="png").shape[:2] == (10, 20)


def test_the_table_holds_the_facts(make) -> None:
    exp = make(1, params={"n_steps": 50, "mask": torch.zeros(2, 3)}, seconds=1.25, baselines=torch.zeros(1, 3, 12, 16))
    html = to_html([exp])
    for text in (
        *captions.COLUMNS,
        "label 0",
        "0.391",
        "n_steps=50, mask=Tensor(2, 3)",
        "1.2",
        "0.4 %",
        "0 (model units)",
    ):
        assert text in html


def test_columns_nobody_fills_are_left_out(make) -> None:
    html = to_html([make(1, convergence_delta=None, seconds=None)])
    assert "<th>Completeness error</th>" not in html and "<th>Seconds</th>" not in html


def test_the_legend_speaks_of_what_is_there(make) -> None:
    a = make(1).attribution
    signed, squared = to_html([make(1)]), to_html([make(1, attributions=a**2, convergence_delta=None)])
    assert "Orange and blue" in signed and "smoothgrad_sq" not in signed and "Near 0 %" in signed
    assert "smoothgrad_sq" in squared and "Orange and blue" not in squared and "Near 0 %" not in squared
    assert "scale of its own" in signed


def test_many_samples_are_limited_and_counted(make) -> None:
    html = to_html([make(40)], max_n=3)
    assert html.count('<section class="sample">') == 3 and "3 of 40 samples" in html


def test_a_map_that_cannot_be_drawn_says_why_and_spares_the_rest(make) -> None:
    a = make(2).attribution.clone()
    a[0, 0, 0, 0] = float("nan")
    exp = make(2, attributions=a)
    for html in (to_html([exp]), notebook_html([exp])):
        assert html.count("has 1 NaN") == 1 and "label 1" in html


def test_small_pictures_stay_sharp_and_the_same_input_gives_the_same_page(make) -> None:
    assert 'class="small"' in to_html([make(1)]) and to_html([make(1)]) == to_html([make(1)])


def test_unknown_kinds_are_refused(make) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'contour'"):
        to_html([make(1)], kinds=["contuor"])


def test_other_data_and_no_data(make) -> None:
    x = torch.randn(2, 5)
    table = Explanation(attributions=x, inputs=x, method="ablation", spec=InputSpec(kind="tabular"))
    for html in (to_html([table, make(1)]), to_html([]), notebook_html([]), notebook_html([table])):
        Tags(html)


def test_explanations_write_and_represent_themselves(make, tmp_path) -> None:
    exps = Explanations([make(6)])
    path = tmp_path / "page.html"
    page = exps.to_html(path)
    assert "Content-Security-Policy" in path.read_text("utf-8") == exps.to_html()
    assert repr(page) == str(path) and Path(page) == path and len(page._repr_html_()) < 500
    odd = exps.to_html(tmp_path / "a <b>&'c'.html")
    assert "<b>" not in odd._repr_html_() and "&lt;b&gt;" in odd._repr_html_()
    fragment = exps._repr_html_()
    assert "4 of 6 samples" in fragment and "<style" not in fragment and len(Tags(fragment).named("img")) == 8


def test_parameters_are_short() -> None:
    params = {"stdevs": (0.14996059834957123, 1), "n": 50, "mode": None, "mask": torch.zeros(2, 3)}
    assert captions.params_text(params) == "stdevs=(0.15, 1), n=50, mode=None, mask=Tensor(2, 3)"


@pytest.mark.parametrize(
    ("baselines", "text"),
    [(None, ""), (torch.zeros(2, 3, 2, 2), "0 (model units)"), (torch.full((1, 3, 2, 2), 0.5), "0.5 (model units)")],
)
def test_baselines_in_words(make, baselines, text: str) -> None:
    assert captions.baseline_text(make(size=(2, 2), baselines=baselines), 1) == text


def test_black_is_recognised_through_the_normalisation(make) -> None:
    spec = InputSpec(kind="image", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    exp = make(size=(2, 2), baselines=spec.normalise(torch.zeros(2, 3, 2, 2)), spec=spec)
    assert captions.baseline_text(exp, 0) == "black"
    grey = make(size=(2, 2), baselines=spec.normalise(torch.full((2, 3, 2, 2), 0.5)), spec=spec)
    assert captions.baseline_text(grey, 0) == "0.5 (raw units)"
    noise = make(size=(2, 2), baselines=torch.tensor([-1.0, 2.0]).repeat(2, 3, 2, 1), spec=spec)
    assert captions.baseline_text(noise, 0) == "-1 to 2 (model units)"
