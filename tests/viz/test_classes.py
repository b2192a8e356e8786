"""Several classes in one picture: hues, opacity, ties, the legend, and what is refused with the way out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.viz import classes_in_one, colour, pixels
from interp_plugins.viz.classes import blend


def one(label: Any, value: np.ndarray, n: int = 1, **fields: Any) -> Explanation:
    """A map (H, W) over n grey pictures."""
    height, width = value.shape
    maps = torch.tensor(value)[None, None].expand(n, 1, height, width)
    known: dict[str, Any] = {
        "attributions": maps,
        "inputs": torch.full((n, 1, height, width), 0.5),
        "method": "gradcam",
        "title": "Grad-CAM",
        "target_label": label if isinstance(label, tuple) else (label,) * n,
        "probability": torch.full((n,), 0.25),
        "spec": InputSpec("image"),
    }
    return Explanation(**{**known, **fields})


def half(left: bool) -> np.ndarray:
    made = np.zeros((8, 10))
    made[:, : 5 if left else 0] = 1.0
    if not left:
        made[:, 5:] = 2.0
    return made


def two(**fields: Any) -> Explanations:
    return Explanations([one("cat", half(True), **fields), one("cup", half(False), **fields)])


def legend(ax: Any) -> dict[str, str]:
    box = ax.get_legend()
    return {t.get_text(): to_hex(p.get_facecolor()) for t, p in zip(box.get_texts(), box.get_patches(), strict=True)}


def test_each_pixel_has_the_hue_of_the_strongest_class() -> None:
    fig, axes = two().plot(kind="classes")
    (ax,) = axes.ravel()
    picture = np.asarray(ax.images[0].get_array())
    ground = pixels.faint(np.full((1, 1, 3), 0.5))[0, 0]
    for column, hue in ((2, colour.CATEGORIES[0]), (7, colour.CATEGORIES[1])):
        assert np.allclose(picture[:, column], 0.15 * ground + 0.85 * np.array(to_rgb(hue)))
    assert legend(ax) == {"cat (p = 0.25)": colour.CATEGORIES[0], "cup (p = 0.25)": colour.CATEGORIES[1]}
    assert isinstance(fig, Figure) and "each class on a scale of its own" in fig.get_supxlabel()
    fig.draw_without_rendering()


def test_opacity_is_the_strength_and_nothing_is_the_photograph() -> None:
    rgb = np.random.default_rng(0).random((6, 6, 3))
    assert np.array_equal(blend(rgb, np.zeros((2, 6, 6)), ["#ff0000", "#00ff00"])[0], pixels.faint(rgb))
    steps = np.zeros((2, 1, 5))
    steps[0, 0] = np.linspace(0, 1, 5)
    picture, ties = blend(np.full((1, 5, 3), 0.5), steps, ["#ff0000", "#00ff00"])
    assert (np.diff(picture[0, :, 1]) < 0).all() and np.allclose(np.diff(picture[0, :, 1], 2), 0) and ties == 0


def slow(rgb: np.ndarray, strengths: np.ndarray, hues: list[str]) -> tuple[np.ndarray, float]:
    out, tied, marked = np.zeros_like(rgb), 0, 0
    for y in range(rgb.shape[0]):
        for x in range(rgb.shape[1]):
            best, *rest = sorted(range(len(hues)), key=lambda k: -strengths[k, y, x])
            first, second = strengths[best, y, x], strengths[rest[0], y, x]
            tie = first > 0 and second >= 0.9 * first
            marked += first >= 0.25
            tied += tie and first >= 0.25
            ink = np.array(to_rgb("#4d4d4d" if tie else hues[best]))
            out[y, x] = (1 - 0.85 * first) * pixels.faint(rgb[y, x][None, None])[0, 0] + 0.85 * first * ink
    return out, tied / marked


def test_it_is_what_a_loop_over_pixels_says() -> None:
    rng = np.random.default_rng(1)
    rgb, strengths, hues = rng.random((9, 7, 3)), rng.random((4, 9, 7)), list(colour.CATEGORIES[:4])
    picture, ties = blend(rgb, strengths, hues)
    expected, share = slow(rgb, strengths, hues)
    assert np.allclose(picture, expected) and ties == pytest.approx(share) and 0 < ties < 1


def test_ties_are_grey_and_said() -> None:
    same = Explanations([one("cat", half(True)), one("cup", 0.95 * half(True))])
    (ax,) = classes_in_one(same, normalize=1.0).axes.ravel()
    assert legend(ax)["two classes alike: 100 % of the marked area"] == "#4d4d4d"
    apart = [one("cat", half(True)), one("cup", 0.8 * half(True))]
    (ax,) = classes_in_one(apart, normalize=1.0).axes.ravel()
    assert len(legend(ax)) == 2


def test_only_what_speaks_for_a_class_is_drawn() -> None:
    exps = Explanations([one("cat", half(True)), one("cup", -half(False))])
    (ax,) = exps.plot(kind="classes").axes.ravel()
    assert "cup (p = 0.25): nothing speaks for it" in legend(ax)
    picture = np.asarray(ax.images[0].get_array())
    assert np.allclose(picture[:, 7], pixels.faint(np.full((1, 1, 3), 0.5))[0, 0])


def test_a_class_keeps_its_hue_in_every_panel_and_is_drawn_once() -> None:
    predicted = one(("cat", "cup"), half(True), n=2)
    true = one(("cat", "dog"), half(False), n=2)
    first, second = Explanations([predicted, true]).plot(kind="classes").axes.ravel()
    assert list(legend(first).values()) == [colour.CATEGORIES[0]]
    assert list(legend(second).values()) == [colour.CATEGORIES[1], colour.CATEGORIES[2]]
    assert "sample 2 of 2" in second.get_title()


def test_samples_beyond_the_most_are_counted_and_one_can_be_chosen() -> None:
    many = two(n=6)
    drawn = many.plot(kind="classes", max_n=2)
    assert drawn.axes.shape == (1, 2) and "2 of 6 samples are shown" in drawn.fig.get_supxlabel()
    (ax,) = classes_in_one(many, index=-1).axes.ravel()
    assert "sample 6 of 6" in ax.get_title()
    given = Figure().subplots()
    assert classes_in_one(many, index=0, ax=given).axes[0, 0] is given
    with pytest.raises(InputError, match="Sample 6 asked for"):
        classes_in_one(many, index=6)


def test_layers_and_signed_maps_of_colour_pictures_are_drawn(make: Any) -> None:
    first = make()
    coarse = make(attributions=torch.rand(2, 1, 3, 4), target_label=("a", "b"))
    other = make(attributions=torch.rand(2, 1, 3, 4), target_label=("c", "d"))
    assert classes_in_one([coarse, other]).axes.shape == (1, 2)
    assert classes_in_one([first, make(target_label=("x", "y"))]).axes.shape == (1, 2)


def test_a_page_begins_with_it() -> None:
    assert "Which class looks where" in two().to_html()
    assert "Which class looks where" not in two()[:1].to_html()


WRONG: dict[str, tuple[list[Explanation], str]] = {
    "one": ([one("cat", half(True))], r'explain\(\.\.\., target=\["cat", "dog"\]\); got one'),
    "none": ([], "there is no explanation"),
    "methods": ([one("a", half(True)), one("b", half(True), method="ig", title="IG")], r"\(Grad-CAM, IG\)"),
    "pictures": ([one("a", half(True)), one("b", half(True)[:4])], "of different pictures"),
    "table": (
        [
            Explanation(torch.ones(2, 3), torch.ones(2, 3), "ig", target_label=(t,) * 2, spec=InputSpec("tabular"))
            for t in "ab"
        ],
        r"needs maps over pictures; got \(2, 3\) of kind 'tabular'. .plot\(\) draws a column per class",
    ),
    "too many": ([one(f"class {k}", half(True)) for k in range(8)], r"8 classes, and 7 hues.*exps\[:7\]"),
    "one class": ([one("a", half(True)), one("a", half(False))], "all explanations are of one class"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_drawn_says_why(name: str) -> None:
    exps, text = WRONG[name]
    with pytest.raises(InputError, match=rf"The picture 'classes' cannot be drawn: .*{text}"):
        classes_in_one(exps)


def test_nan_is_refused() -> None:
    bad = half(True)
    bad[0, 0] = np.nan
    with pytest.raises(InputError, match="1 NaN"):
        Explanations([one("a", bad), one("b", half(False))]).plot(kind="classes")
