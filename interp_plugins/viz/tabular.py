"""Table rows: one signed bar per feature, the largest first; what is left out is added up and said."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import colour
from interp_plugins.viz.figure import bare, compact
from interp_plugins.viz.renderer import Renderer, register
from interp_plugins.viz.scale import Scale, finite
from interp_plugins.viz.titles import shorten

MAX_BARS = 12


@register
class TabularRenderer(Renderer):
    """Inputs and attributions (N, F)."""

    name: ClassVar[str] = "tabular"
    kinds: ClassVar[tuple[str, ...]] = ("bar",)

    def accepts_input(self, exp: Explanation) -> bool:
        """Whether the input has rows of features."""
        return exp.input.ndim == 2

    def accepts(self, exp: Explanation) -> bool:
        """Whether each feature has one attribution."""
        return exp.attribution.ndim == 2 and exp.attribution.shape == exp.input.shape

    def size(self, exp: Explanation, kind: str) -> tuple[float, float]:
        """Width and height of a panel in inches: as high as its bars need."""
        return (2.4 if kind == "original" else 3.8), 0.8 + 0.24 * min(exp.input.shape[1], MAX_BARS + 1)

    def original(self, ax: Axes, exp: Explanation, i: int) -> str:
        """The values of the first features as text."""
        names, raw = feature_names(exp), _raw(exp, i)
        lines = [f"{shorten(name, 24)} = {shorten(value, 20)}" for name, value in zip(names, raw, strict=True)]
        bare(ax)
        for row, line in enumerate(lines[:MAX_BARS]):
            y = 1 - (row + 0.5) / (MAX_BARS + 1 if len(lines) > MAX_BARS else len(lines))
            ax.text(0, y, line, va="center", fontsize=8, transform=ax.transAxes, parse_math=False)
        return f"{MAX_BARS} of {len(raw)} features" if len(raw) > MAX_BARS else ""

    def draw(self, ax: Axes, exp: Explanation, i: int, kind: str, scale: Scale) -> ScalarMappable | None:
        """Signed bars, the largest first."""
        values, raw = finite(self.values(exp, i)), _raw(exp, i)
        order = np.argsort(-np.abs(values), kind="stable")
        top, rest = order[:MAX_BARS], order[MAX_BARS:]
        names = feature_names(exp)
        labels = [f"{shorten(names[f], 18)} = {shorten(raw[f], 18)}" for f in top]
        lengths = [float(values[f]) for f in top]
        if len(rest):
            labels.append(f"{len(rest)} others, summed")
            lengths.append(float(values[rest].sum()))
        colours = [colour.POSITIVE_COLOUR if v >= 0 else colour.NEGATIVE_COLOUR for v in lengths]
        bars = ax.barh(range(len(lengths)), lengths, color=colours, height=0.7)
        ax.bar_label(bars, labels=[compact(v) for v in lengths], fontsize=7, padding=2, color=colour.INK)
        ax.set_yticks(range(len(labels)), labels, fontsize=8, color=colour.INK, parse_math=False)
        ax.invert_yaxis()
        ax.margins(x=0.18)
        ax.axvline(0, color=colour.INK, linewidth=0.8)
        ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
        ax.tick_params(axis="both", length=0)
        ax.set_xticks([])
        return None


def _raw(exp: Explanation, i: int) -> list[str]:
    """The features of sample i as people read them: raw values where they are known, else in raw units."""
    if exp.values is not None:
        row = exp.values[i % len(exp)]
        return [f"{v:.5g}" if isinstance(v, float) else str(v) for v in row]
    x = exp.input[i % len(exp)][None].detach().cpu().double()
    return [readable(v) for v in exp.spec.denormalise(x)[0].tolist()]


def readable(value: float) -> str:
    """Four digits, and whole numbers up to a million in full: 2203.0 -> "2203", -121.22 -> "-121.2"."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"


def feature_names(exp: Explanation) -> list[str]:
    """One name per feature, made up where none are known."""
    names, count = exp.feature_names, exp.input.shape[1]
    if names and len(names) == count:
        return [str(name) for name in names]
    return [f"feature {f}" for f in range(count)]
