"""Several classes of one photograph in one picture: a hue per class, where that class has the strongest map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import colour, pixels
from interp_plugins.viz.figure import Plot, bare
from interp_plugins.viz.image import ImageRenderer
from interp_plugins.viz.overview import Explained, asked, axes_for, heading, overview
from interp_plugins.viz.renderer import in_own_size
from interp_plugins.viz.scale import ScaleRule, finite
from interp_plugins.viz.titles import method_title, number, percent, sample_text, shorten, target_text, with_probability

_CLOSE = 0.9  # of the strongest: from here on two classes count as equal in a pixel
_MARKED = 0.25  # strength from which a pixel counts as marked, for shares of the area
_TIE = "#4d4d4d"
_COVER = 0.85
_READING = "Hue: the class whose map is strongest there.\nOpacity: how strong, each class on a scale of its own."


def _why_not(exps: Sequence[Explanation]) -> str:
    renderer = ImageRenderer()
    if len(exps) < 2:
        return (
            'it needs several classes of the same pictures, explain(..., target=["cat", "dog"]); got one explanation.'
        )
    for exp in exps:
        if exp.spec.kind != "image" or not renderer.accepts(exp):
            return (
                f"it needs maps over pictures; got {tuple(exp.attribution.shape)} of kind {exp.spec.kind!r}. .plot() "
                "draws a column per class."
            )
    if len({(exp.method, exp.layer) for exp in exps}) > 1:
        methods = ", ".join(dict.fromkeys(method_title(exp) for exp in exps))
        return f"the maps of different methods ({methods}) cannot be compared in a pixel; give those of one method."
    shapes = {tuple(exp.input.shape) for exp in exps}
    if len(shapes) > 1:
        return f"the explanations are of different pictures, {sorted(shapes)}."
    if len(_hues(exps)) > len(colour.CATEGORIES):
        return (
            f"there are {len(_hues(exps))} classes, and {len(colour.CATEGORIES)} hues that everybody can tell apart; "
            "give fewer explanations, exps[:7]."
        )
    if len(_hues(exps)) < 2:
        return "all explanations are of one class."
    return ""


@overview("classes", _why_not, "Which class looks where")
def classes_in_one(
    exps: Explained,
    *,
    index: int | None = None,
    max_n: int = 4,
    normalize: str | float = "percentile",
    percentile: float = 99.0,
    ax: Any = None,
    figsize: tuple[float, float] | None = None,
) -> Plot:
    """A panel per sample with all classes: the hue says which class has the strongest map, the opacity how strong.

    Only what speaks for a class is drawn, each class on a scale of its own. Where the second class is within 10 % of
    the first the pixel is dark grey: neither wins. Below stand the classes with their probabilities, and how much of
    the marked area is such a tie.

    Args:
        exps: explanations of the same pictures by one method, one per class, seven classes at most.
        index: which sample; None: all.
        max_n: samples drawn at most; how many were left out is said.
        normalize: see `ScaleRule`; a number is the same limit for all classes, so that they can be compared.
        percentile: see `ScaleRule`.
        ax: an axis per sample, or a figure; None makes one.
        figsize: width and height in inches of a new figure.

    Returns:
        (figure, axes), axes being an array (1, number of samples).

    Raises:
        InputError: for other data than pictures, several methods, too many classes, NaN or infinite maps.
    """
    many, rule = asked("classes", exps), ScaleRule(normalize, percentile)
    total = len(many[0])
    if index is not None and not -total <= index < total:
        raise InputError(f"Sample {index} asked for, but these explanations hold {total} samples.")
    if max_n < 1:
        raise InputError(f"max_n must be at least 1, got {max_n}.")
    rows = [index % total] if index is not None else list(range(min(total, max_n)))
    hues = _hues(many)
    width, height = ImageRenderer().size(many[0], "overlay")
    most = max(len(_layers(many, i, rule, hues)) for i in rows)
    drawn = axes_for(ax, len(rows), (1.5 * width + 0.2, 1.5 * height + 1.2 + 0.2 * most), figsize)
    for panel, i in zip(drawn.axes[0], rows, strict=True):
        _draw(panel, many[0], i, _layers(many, i, rule, hues), total)
    if drawn.fig.get_layout_engine() is not None:
        left_out = index is None and len(rows) < total
        note = _READING + (f"\n{len(rows)} of {total} samples are shown." if left_out else "")
        drawn.fig.supxlabel(note, fontsize=7.5, color=colour.FAINT_INK)
    return drawn


class _Layer(NamedTuple):
    """One class: its hue, its name with the probability, and what speaks for it, (H, W) in [0, 1]."""

    hue: str
    text: str
    strength: np.ndarray


def _hues(exps: Sequence[Explanation]) -> dict[str, str]:
    """A hue for each class, in the order of the explanations; the same in every panel. Beyond the palette: none."""
    names = dict.fromkeys(target_text(exp, i) for exp in exps for i in range(len(exp)))
    palette = [*colour.CATEGORIES, *[""] * len(names)]
    return dict(zip(names, palette))


def _layers(exps: Sequence[Explanation], i: int, rule: ScaleRule, hues: dict[str, str]) -> list[_Layer]:
    """The classes of sample i; one that several explanations have (predicted and true, say) is drawn once."""
    found: dict[str, _Layer] = {}
    for exp in exps:
        name = target_text(exp, i)
        if name in found:
            continue
        values = np.maximum(finite(pixels.heat(*in_own_size(exp, i))), 0)
        text = with_probability(shorten(name or "output", 30), number(exp.probability, i))
        text += "" if values.any() else ": nothing speaks for it"
        found[name] = _Layer(hues[name], text, rule.fit(values, signed=False).strength(values))
    return list(found.values())


def blend(rgb: np.ndarray, strengths: np.ndarray, hues: Sequence[str]) -> tuple[np.ndarray, float]:
    """The photograph under the hues of the strongest classes, and the share of the marked area that is a tie.

    Args:
        rgb: the photograph (H, W, 3).
        strengths: of each class (K, H, W), in [0, 1].
        hues: K colours.
    """
    order = np.sort(strengths, axis=0)
    first, second = order[-1], order[-2] if len(order) > 1 else np.zeros_like(order[-1])
    tie = (second >= _CLOSE * first) & (first > 0)
    paint = np.array([to_rgb(hue) for hue in hues])[strengths.argmax(0)]
    paint[tie] = to_rgb(_TIE)
    cover = _COVER * first[..., None]
    marked = first >= _MARKED
    share = float(tie[marked].mean()) if marked.any() else 0.0
    return (1 - cover) * pixels.faint(rgb) + cover * paint, share


def _draw(ax: Axes, exp: Explanation, i: int, layers: list[_Layer], total: int) -> None:
    own, row = in_own_size(exp, i)
    picture, ties = blend(
        pixels.photo(own, row).rgb, np.stack([one.strength for one in layers]), [one.hue for one in layers]
    )
    ax.imshow(pixels.outlined(picture, own, row))
    bare(ax)
    patches = [Patch(color=one.hue, label=one.text) for one in layers]
    if ties > 0:
        patches.append(Patch(color=_TIE, label=f"two classes alike: {percent(ties)} of the marked area"))
    ax.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, -0.01), fontsize=8, frameon=False)
    for text in ax.get_legend().get_texts():  # type: ignore[union-attr]
        text.set_parse_math(False)
    name = sample_text(exp, i) or (f"sample {i + 1} of {total}" if total > 1 else "")
    heading(ax, "\n".join(filter(None, (method_title(exp), shorten(name, 40, keep_end=True)))))
