"""The map of an explained answer: a row per output token, a column per feature of the prompt."""

from __future__ import annotations

from typing import Any

import numpy as np

from interp_plugins.llm.facts import TextFacts
from interp_plugins.viz import colour
from interp_plugins.viz.figure import Plot, add_colorbar, new_figure
from interp_plugins.viz.scale import ScaleRule

_CELL, _LINE = 0.26, 0.24  # inches
_LONGEST = 24  # characters of a label
_WORDED = 6  # rows beside which a colour bar's words stand


def _short(text: str) -> str:
    text = text.strip().replace("\n", "\u23ce") or text.replace("\n", "\u23ce").replace(" ", "\u2423")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "\u2026"


def draw_map(one: TextFacts) -> Plot:
    """Draw it; of methods that explain the whole answer alone, one row."""
    values = one.seq_attr[None] if one.token_attr is None else one.token_attr
    rows = [one.output] if one.token_attr is None else list(one.outputs)
    data = values.numpy()
    scale = ScaleRule("max").fit(data, signed=True)
    longest = max(len(_short(word)) for word in one.inputs)
    size = (2.6 + _CELL * data.shape[1], 0.8 + 0.07 * longest + _LINE * len(rows))
    figure = new_figure(max(5.0, size[0]), max(2.2, size[1]))  # room for title and colour bar
    ax: Any = figure.add_subplot()
    ax.imshow(scale.unit(data), cmap=colour.DIVERGING, vmin=-1, vmax=1, aspect="auto")
    style: dict[str, Any] = {"fontsize": 8, "parse_math": False}
    ax.set_xticks(range(data.shape[1]), [_short(w) for w in one.inputs], rotation=90, **style)
    ax.set_yticks(range(len(rows)), [_short(w) for w in rows], **style)
    ax.tick_params(length=0)
    ax.set_xticks(np.arange(data.shape[1] + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1)
    ax.tick_params(which="minor", length=0)
    rather = f" rather than {one.against.strip()!r}" if one.against is not None else ""
    ax.set_title(f"{one.method.replace('_', ' ')}{rather}: answer (rows) by {one.level} of the prompt", fontsize=9)
    add_colorbar(ax, scale.mappable(), scale, label=len(rows) >= _WORDED)
    return Plot(figure, np.array([[ax]]))
