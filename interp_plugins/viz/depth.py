"""Layers against tokens: in which layer which word of a text matters (the picture known from BERT).

A method at a layer gives a vector per token; its sum is one cell. Needs an explanation per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.viz.figure import Plot, add_colorbar
from interp_plugins.viz.overview import Explained, asked, axes_for, heading, overview, rows_of_names
from interp_plugins.viz.scale import ScaleRule, finite
from interp_plugins.viz.text import TextRenderer, ink_on, spelled, tokens_of
from interp_plugins.viz.titles import method_title, number, shorten, target_text, with_probability

_LETTERS = 60  # cells up to which numbers are written into them


def _why_not(exps: Sequence[Explanation]) -> str:
    renderer = TextRenderer()
    layers = [exp.layer for exp in exps]
    if len(exps) < 2 or None in layers or len(set(layers)) < len(layers):
        return f"it needs explanations of the same texts at different layers; got layers {layers}."
    bad = [exp.layer for exp in exps if not renderer.accepts(exp)]
    if bad:
        return (
            f"each layer needs attributions (N, T, ...) for N texts of T tokens, and the tokens themselves "
            f"(`annotated(tokens=...)`, kind 'text'); {bad[0]} has not."
        )
    if len({len(exp) for exp in exps}) > 1:
        return "the layers have different numbers of texts."
    return ""


@overview("layers", _why_not, "Which token matters in which layer")
def layers_by_tokens(
    exps: Explained,
    *,
    index: int = 0,
    normalize: str | float = "max",
    percentile: float = 99.0,
    ax: Any = None,
    figsize: tuple[float, float] | None = None,
) -> Plot:
    """A matrix of one text: a row per layer, the first on top, a column per token.

    Args:
        exps: explanations of the same texts by one method at different layers, in order.
        index: which text; negative counts from the end.
        normalize: see `ScaleRule`; one scale for the whole matrix, so layers can be compared.
        percentile: see `ScaleRule`.
        ax: the axis to draw in, or a figure; None makes one.
        figsize: width and height in inches of a new figure.

    Returns:
        (figure, axes), axes being an array (1, 1).

    Raises:
        InputError: for explanations without layers or tokens, a text that is not there, NaN or infinite values.
    """
    many, rule = asked("layers", exps), ScaleRule(normalize, percentile)
    first = many[0]
    if not -len(first) <= index < len(first):
        raise InputError(f"Text {index} asked for, but these explanations hold {len(first)}.")
    index %= len(first)
    renderer, tokens = TextRenderer(), tokens_of(first, index)
    matrix = finite(np.stack([renderer.values(exp, index) for exp in many]))
    size = (max(3.5, 1.7 + 0.42 * len(tokens)), 1.3 + 0.27 * len(many))
    drawn = axes_for(ax, 1, size, figsize)
    panel = drawn.axes[0, 0]
    scale = rule.fit(matrix)
    colours = scale.rgb(matrix)
    panel.imshow(colours, aspect="auto", interpolation="nearest")
    rows_of_names(panel, short_layers([str(exp.layer) for exp in many]))
    words = [shorten(spelled(token)[1].strip() or "␣", 14) for token in tokens]
    panel.set_xticks(
        range(len(words)), words, rotation=45, ha="right", rotation_mode="anchor", fontsize=8, parse_math=False
    )
    if matrix.size <= _LETTERS and scale.limit:
        for (row, column), value in np.ndenumerate(matrix / scale.limit):
            ink = ink_on(colours[row, column])
            panel.text(column, row, f"{value:.1f}".replace("-", "−"), fontsize=6, ha="center", va="center", color=ink)
    target = with_probability(target_text(first, index), number(first.probability, index))
    heading(panel, " — ".join(filter(None, (method_title(replace(first, layer=None)), target))))
    add_colorbar(panel, scale.mappable(), scale)
    return drawn


def short_layers(names: Sequence[str]) -> list[str]:
    """Layers' dotted names without what all of them begin and end with: "encoder.layer.0.output" -> "layer 0"."""
    parts = [name.split(".") for name in names]
    head, tail = _shared(parts), _shared([part[::-1] for part in parts])
    cut = [part[head : len(part) - tail] for part in parts]
    if any(not part for part in cut):
        return [shorten(name, 28, keep_end=True) for name in names]
    return [f"layer {part[0]}" if part[0].isdigit() and len(part) == 1 else ".".join(part) for part in cut]


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """How many entries all begin with."""
    return next((k for k, entries in enumerate(zip(*parts)) if len(set(entries)) > 1), min(map(len, parts)))
