"""Table rows: one signed bar per feature, the largest first; what is left out is added up and said."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import ClassVar, NamedTuple

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


class _Bar(NamedTuple):
    """A feature's attribution; `raw` is its value as people read it, "" where there is none."""

    name: str
    raw: str
    value: float

    def label(self, width: int) -> str:
        """Name and value, each of at most `width` characters."""
        return f"{shorten(self.name, width)} = {shorten(self.raw, width)}" if self.raw else self.name


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
        """Bars, the largest first, with their numbers in a column at the right."""
        bars = self._bars(exp, i)
        lengths = [bar.value for bar in bars]
        ax.barh(range(len(bars)), lengths, color=scale.length_colours(lengths), height=0.7)
        labels = [bar.label(18) for bar in bars]
        ax.set_yticks(range(len(bars)), labels, fontsize=8, color=colour.INK, parse_math=False)
        right = ax.get_yaxis_transform()
        for row, value in enumerate(lengths):
            ax.text(1.02, row, compact(value), fontsize=7, va="center", color=colour.INK, transform=right)
        ax.invert_yaxis()
        ax.margins(x=0.02)
        ax.axvline(0, color=colour.INK, linewidth=0.8)
        ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
        ax.tick_params(axis="both", length=0)
        ax.set_xticks([])
        return None

    def markup(self, exp: Explanation, i: int, scale: Scale | None) -> str:
        """The values, or the bars with their numbers, as an HTML table; everything escaped."""
        if scale is None:
            pairs = list(zip(feature_names(exp), _raw(exp, i), strict=True))
            left = len(pairs) - MAX_BARS
            rows = [(_html_label(f"{name} = {value}"),) for name, value in pairs[:MAX_BARS]]
            return _html_table(rows + ([(_html_label(f"and {left} more"),)] if left > 0 else []))
        bars = self._bars(exp, i)
        longest = max((abs(bar.value) for bar in bars), default=0.0) or 1.0
        colours = scale.length_colours(bar.value for bar in bars)
        return _html_table(
            [
                (_html_label(bar.label(40)), _html_bar(bar.value / longest, shade, scale.signed), compact(bar.value))
                for bar, shade in zip(bars, colours, strict=True)
            ]
        )

    def _bars(self, exp: Explanation, i: int) -> list[_Bar]:
        """The features of sample i, the largest first; those beyond `MAX_BARS` added up in a last one."""
        values, raw, names = finite(self.values(exp, i)), _raw(exp, i), feature_names(exp)
        order = np.argsort(-np.abs(values), kind="stable")
        bars = [_Bar(names[f], raw[f], float(values[f])) for f in order[:MAX_BARS]]
        rest = order[MAX_BARS:]
        return bars + ([_Bar(f"{len(rest)} others, summed", "", float(values[rest].sum()))] if len(rest) else [])


def _html_label(text: str) -> str:
    """One line, shortened with an ellipsis by the browser; the whole text when pointed at."""
    style = "max-width:12em;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
    return f'<div style="{style}" title="{escape(text)}">{escape(text)}</div>'


def _html_bar(share: float, shade: str, signed: bool) -> str:
    """A bar as long as its share of the longest, from the middle of its cell to either side, or from the left."""
    width = abs(share) * (50 if signed else 100)
    left = 50 - (width if share < 0 else 0) if signed else 0
    style = f"width:{width:.1f}%;margin-left:{left:.1f}%;height:.8em;background:{shade};border-radius:.1em"
    return f'<div style="width:6em"><div style="{style}"></div></div>'


def _html_table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of cells whose content is HTML; the first is named as the row's head."""
    cell = "padding:.1rem .5rem .1rem 0;text-align:left;border:0;font-weight:400;color:inherit;white-space:nowrap"
    lines = [
        f'<tr><th scope="row" style="{cell}">{first}</th>'
        + "".join(f'<td style="{cell};min-width:0;font-variant-numeric:tabular-nums">{one}</td>' for one in rest)
        + "</tr>"
        for first, *rest in rows
    ]
    style = "border-collapse:collapse;font-size:13px;width:auto;background:#fff;color:#1f2328"
    return f'<div style="overflow-x:auto"><table style="{style}">{"".join(lines)}</table></div>'


def _raw(exp: Explanation, i: int) -> list[str]:
    """The features of sample i as people read them: raw values where they are known, else in raw units."""
    if exp.values is not None:
        row = exp.values[i % len(exp)]
        return [f"{v:.5g}" if isinstance(v, float) else str(v) for v in row]
    x = exp.input[i % len(exp)][None].detach().cpu()
    if x.is_complex():
        return [f"{v:.3g}" for v in x[0].tolist()]
    x = x.double()
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
