"""Texts: every token on the colour of its attribution, in reading order; pieces of a word stand together.

Pictures are set in a fixed-width face, line by line, from the right where the text begins with a letter of a script
that runs so. Pages and notebooks get text instead of pictures: it can be searched, wraps with the window, and runs from
right to left where its language does.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from html import escape
from typing import Any, ClassVar, NamedTuple

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import colour
from interp_plugins.viz.figure import bare
from interp_plugins.viz.renderer import Renderer, register
from interp_plugins.viz.scale import Scale, finite

_COLUMNS, _FONT = 52, 8.0  # characters per line and points of a picture
_WIDTH = _COLUMNS * 0.602 * _FONT / 72 + 0.15  # a character of the fixed-width face is 0.602 of its size wide
# DejaVu comes with matplotlib; letters it lacks (CJK) are taken from what the machine has.
_FACES = ("DejaVu Sans Mono", "DejaVu Sans")
_WIDE_FACES = ("Noto Sans Mono CJK SC", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei")
_LINE = 1.75 * _FONT / 72
_MOST_LINES = 40


class _Placed(NamedTuple):
    """A token's place in the picture: line, first column, what is written."""

    number: int
    line: int
    column: int
    text: str


@register
class TextRenderer(Renderer):
    """Token ids (N, T) or embeddings (N, T, D) with their tokens; attributions are added up over a token's features."""

    name: ClassVar[str] = "text"
    kinds: ClassVar[tuple[str, ...]] = ("text",)

    def accepts_input(self, exp: Explanation) -> bool:
        """Whether the tokens are known."""
        return exp.tokens is not None and exp.input.ndim in (2, 3) and max(map(len, exp.tokens)) <= exp.input.shape[1]

    def accepts(self, exp: Explanation) -> bool:
        """Whether each token has attributions, at the input or at a layer."""
        return self.accepts_input(exp) and exp.attribution.ndim > 1 and exp.attribution.shape[:2] == exp.input.shape[:2]

    def size(self, exp: Explanation, kind: str) -> tuple[float, float]:
        """Width and height of a panel in inches: as high as the longest text needs."""
        lines = max(max((p.line for p in _placed(tokens)), default=0) + 1 for tokens in exp.tokens or ([],))
        return _WIDTH, 0.2 + _LINE * min(lines, _MOST_LINES)

    def values(self, exp: Explanation, i: int) -> np.ndarray:
        """One value per token of sample i, without padding."""
        values = super().values(exp, i)[: len(tokens_of(exp, i))]
        return values.reshape(len(values), -1).sum(1) if values.ndim > 1 else values

    def original(self, ax: Axes, exp: Explanation, i: int) -> str:
        """Write the tokens of sample i without any colour."""
        return _write(ax, exp, i, None)

    def draw(self, ax: Axes, exp: Explanation, i: int, kind: str, scale: Scale) -> ScalarMappable | None:
        """The tokens on their colours."""
        ax.set_title(_write(ax, exp, i, scale.rgb(finite(self.values(exp, i)))), fontsize=8, color=colour.FAINT_INK)
        return scale.mappable()

    def markup(self, exp: Explanation, i: int, scale: Scale | None) -> str:
        """The tokens as HTML, on their colours if a scale is given; everything escaped."""
        tokens = tokens_of(exp, i)
        values = finite(self.values(exp, i))
        colours = scale.rgb(values) if scale is not None else np.ones((len(tokens), 3))
        parts = []
        for k, (token, rgb) in enumerate(zip(tokens, colours, strict=True)):
            gap, text = spelled(token)
            style = f"background:{to_hex(rgb)};color:{ink_on(rgb)};border-radius:.2em;padding:.05em 0"
            title = f' title="{values[k]:.3g}"' if scale is not None else ""
            parts.append(f'{" " if gap and k else ""}<span style="{style}"{title}>{escape(text)}</span>')
        frame = "background:#fff;color:#1f2328;border-radius:.3rem;padding:.6rem;line-height:1.7;overflow-wrap:anywhere"
        direction = "rtl" if runs_left(tokens) else "auto"
        return f'<div dir="{direction}" style="{frame}">{"".join(parts)}</div>'


@lru_cache
def _faces() -> list[str]:
    """The faces that letters are looked for in, in this order."""
    return [*_FACES, *(face for face in _WIDE_FACES if face in font_manager.get_font_names())]


def tokens_of(exp: Explanation, i: int) -> list[str]:
    """The tokens of sample i; none where they are not known."""
    return exp.tokens[i % len(exp)] if exp.tokens is not None else []


def spelled(token: str) -> tuple[bool, str]:
    """Whether a space stands before a token, and how it is written: marks of word pieces are left out."""
    if token.startswith("##") and len(token) > 2:  # WordPiece: goes on
        return False, token[2:]
    for mark in ("\u0120", "\u2581"):  # byte-level BPE and SentencePiece: begins a word
        if token.startswith(mark):
            return True, token[1:] or " "
    return True, token.replace("\n", "\u23ce") or " "


def runs_left(tokens: Sequence[str]) -> bool:
    """Whether the first letter with a direction is of a script written from right to left (Hebrew, Arabic, ...)."""
    directions = (unicodedata.bidirectional(letter) for token in tokens for letter in spelled(token)[1])
    return next((d for d in directions if d in ("L", "R", "AL")), "L") != "L"


def columns_of(text: str) -> int:
    """Columns of a fixed-width face that a text takes: two for wide letters (CJK), none for marks on others."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def _cut(text: str) -> str:
    """The text, or as much of it as a line holds and an ellipsis."""
    if columns_of(text) <= _COLUMNS:
        return text
    kept = next(k for k in range(len(text), 0, -1) if columns_of(text[:k]) < _COLUMNS)
    return text[:kept] + "…"


def _placed(tokens: Sequence[str]) -> Iterator[_Placed]:
    """The tokens in lines; one that is longer than a line is cut."""
    line = column = 0
    for number, token in enumerate(tokens):
        gap, text = spelled(token)
        text = _cut(text)
        start = column + (1 if gap and column else 0)
        if start + columns_of(text) > _COLUMNS:
            line, start = line + 1, 0
        yield _Placed(number, line, start, text)
        column = start + columns_of(text)


def _write(ax: Axes, exp: Explanation, i: int, colours: np.ndarray | None) -> str:
    """Write the tokens of sample i; returns a note on what was left out, or ""."""
    tokens = tokens_of(exp, i)
    places = [p for p in _placed(tokens) if p.line < _MOST_LINES]
    lines = places[-1].line + 1 if places else 1
    bare(ax)
    leftwards = runs_left(tokens)
    ax.set_xlim(0, _COLUMNS)
    ax.set_ylim(max(lines, 2), 0)
    for p in places:
        width, y = columns_of(p.text), p.line + 0.5
        x = _COLUMNS - p.column - width if leftwards else p.column
        rgb = np.ones(3) if colours is None else colours[p.number]
        if colours is not None:
            ax.add_patch(_box(x, y, width, rgb))
        style: dict[str, Any] = {"family": _faces(), "fontsize": _FONT, "color": ink_on(rgb), "parse_math": False}
        ax.text(x, y, p.text, va="center_baseline", ha="left", clip_on=False, **style)
    left = len(tokens) - len(places)
    return f"{left} more tokens" if left else ""


def _box(x: float, y: float, width: int, rgb: np.ndarray) -> Rectangle:
    return Rectangle((x - 0.1, y - 0.45), width + 0.2, 0.9, facecolor=rgb, edgecolor="none")


def ink_on(rgb: np.ndarray) -> str:
    """Dark letters on light ground, light ones on dark (relative luminance)."""
    return "#ffffff" if float(np.dot(rgb, (0.2126, 0.7152, 0.0722))) < 0.45 else colour.INK
