"""The compact fragment a notebook shows for explanations: small pictures and a short table.

Styles are inline and colours inherited, so that it reads in light and dark notebooks that strip style sheets.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import captions
from interp_plugins.viz.figure import data_uri
from interp_plugins.viz.inputs import InputPart, by_input, part_text
from interp_plugins.viz.renderer import (
    attribution_renderer,
    fit_scale,
    in_own_size,
    input_renderer,
    is_signed,
    resolve_kind,
)
from interp_plugins.viz.scale import Scale, ScaleRule
from interp_plugins.viz.titles import method_title, original_caption, panel_caption, shorten

MAX_SAMPLES = 4
_WIDE = 60  # characters of a caption that are shown at most
_COLUMNS = ("Method", "Target", "Probability", "Score", "Completeness error", "Seconds")
_CELL = "text-align:left;vertical-align:top;padding:2px 14px 2px 0"


def notebook_html(exps: Sequence[Explanation], *, kind: str = "overlay", longest: int = 224) -> str:
    """An HTML fragment: a row of pictures per sample (the first few), then a row per method with its facts.

    Args:
        exps: the explanations of the same samples.
        kind: the kind of picture, see `show`.
        longest: pictures are reduced to this many pixels on their longer side.
    """
    total = max((len(exp) for exp in exps), default=0)
    if total == 0:
        return "<div>No explanations.</div>"
    shown = min(total, MAX_SAMPLES)
    strips = "".join(_strip(exps, i, kind, longest) for i in range(shown))
    more = f"{shown} of {total} samples. " if shown < total else ""
    note = f"{more}Each map has its own scale. .plot() draws all, .to_html(path) writes a page with a legend."
    return (
        f'<div style="font-size:13px">{strips}{_table(exps, shown)}'
        f'<div style="opacity:.7;margin-top:4px">{escape(note)}</div></div>'
    )


def _strip(exps: Sequence[Explanation], i: int, kind: str, longest: int) -> str:
    """The pictures of sample i."""
    here = [exp for exp in exps if i < len(exp)]
    first = here[0]
    blocks: list[str] = []
    for part in by_input(first):
        caption = part.name if blocks else original_caption(first, i, _WIDE, part.name)
        blocks.append(_block(_original(part, i, longest), "Input", caption))
    for exp in here:
        signed, caption = is_signed(exp), panel_caption(exp, i, _WIDE)
        for part in by_input(exp):
            words = "\n".join(filter(None, (part_text(part, i), caption)))
            blocks.append(_block(_map(part, i, kind, longest, signed), method_title(exp), words))
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px;margin-bottom:10px">{"".join(blocks)}</div>'


def _original(part: InputPart, i: int, longest: int) -> str:
    exp, i = in_own_size(part.exp, i)
    renderer = input_renderer(exp)
    try:
        markup = renderer.markup(exp, i, None)
        if markup is not None:
            return markup
        png = renderer.picture(exp, i, "original", Scale(0.0, False, False, ""), longest)
    except InputError as error:
        return f"<div>{escape(str(error))}</div>"
    return _image(png, part.name or "The input")


def _map(part: InputPart, i: int, kind: str, longest: int, signed: bool) -> str:
    exp, i = in_own_size(part.exp, i)
    renderer = attribution_renderer(exp)
    kind = resolve_kind(renderer, kind)
    try:
        scale = fit_scale(exp, i, ScaleRule(), signed)
        markup = renderer.markup(exp, i, scale)
        if markup is not None:
            return markup
        png = renderer.picture(exp, i, kind, scale, longest)
    except InputError as error:
        return f"<div>{escape(str(error))}</div>"
    return _image(png, f"{method_title(part.exp)}, {kind}")


def _image(png: bytes, alt: str) -> str:
    style = "width:180px;height:auto;background:#fff;border-radius:3px"
    return f'<img style="{style}" src="{data_uri(png)}" alt="{escape(alt)}">'


def _block(picture: str, name: str, caption: str) -> str:
    lines = "<br>".join(escape(line) for line in caption.split("\n"))
    width = "180px" if picture.startswith("<img") else "26em"  # a column's name, its bar and its number
    return f'<div style="width:{width}"><b>{escape(shorten(name, 40))}</b><br>{picture}<div>{lines}</div></div>'


def _table(exps: Sequence[Explanation], shown: int) -> str:
    """A row per method and sample."""
    rows = [(i, captions.row(exp, i)) for i in range(shown) for exp in exps if i < len(exp)]
    used = [name for name in _COLUMNS if any(row[name] != captions.NONE for _, row in rows)]
    numbered = shown > 1
    head = (["Sample"] if numbered else []) + used
    lines = [_cells("th", head)]
    for i, row in rows:
        lines.append(_cells("td", ([str(i + 1)] if numbered else []) + [shorten(row[name], 60) for name in used]))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table style="border-collapse:collapse;font-size:inherit">{body}</table>'


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f'<{tag} style="{_CELL}">{escape(text)}</{tag}>' for text in texts)
