"""One self-contained page: pictures, their scales, a table of facts, and how to read them.

The page loads nothing: pictures are `data:` URIs, and its Content-Security-Policy forbids every request. All
text that comes from labels, names and parameters is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import captions, colour
from interp_plugins.viz.figure import compact, data_uri, png_of_figure
from interp_plugins.viz.inputs import InputPart, by_input, part_text
from interp_plugins.viz.overview import Overview, fitting
from interp_plugins.viz.renderer import (
    attribution_renderer,
    fit_scale,
    in_own_size,
    input_renderer,
    is_signed,
    resolve_kind,
)
from interp_plugins.viz.scale import Scale, ScaleRule
from interp_plugins.viz.template import FIGURE, OVERVIEW, SAMPLE, whole_page
from interp_plugins.viz.titles import method_title, original_caption, panel_caption

_SMALL = 96  # pixels below which a picture is enlarged without smoothing
_WIDE = 200  # characters of a label that are shown at most
_BARE = ("image", "text")  # renderers whose pictures in a page are without a colour bar of their own


def to_html(
    exps: Sequence[Explanation],
    *,
    kinds: Sequence[str] = ("overlay", "heatmap"),
    normalize: str | float = "percentile",
    percentile: float = 99.0,
    max_n: int = 32,
    longest: int = 448,
    title: str = "Explanations",
) -> str:
    """A page with all samples and methods, and what they say together where data allow an overview.

    Args:
        exps: the explanations (one per method and target) of the same samples.
        kinds: the pictures of each map, above each other; see `show`.
        normalize: see `ScaleRule`.
        percentile: see `ScaleRule`.
        max_n: the number of samples shown at most; the page says how many there are.
        longest: pictures are reduced to this many pixels on their longer side.
        title: heading of the page.

    Returns:
        The HTML text. A map with NaN or infinite values is replaced by the reason why it cannot be drawn.

    Raises:
        UnknownNameError: for an unknown kind or `normalize`.
    """
    rule = ScaleRule(normalize, percentile)
    total = max((len(exp) for exp in exps), default=0)
    shown = min(total, max_n)
    for kind in kinds:
        for exp in exps:
            resolve_kind(attribution_renderer(exp), kind)
    overviews = "".join(_overview(one, exps) for one in fitting(exps)) if total else ""
    samples = "".join(_sample(exps, i, total, kinds, rule, longest) for i in range(shown))
    return whole_page(title, _lead(exps, shown, total), [overviews, samples], _legend(exps))


def _overview(one: Overview, exps: Sequence[Explanation]) -> str:
    """The section of one picture of all samples."""
    try:
        content = f'<img src="{data_uri(png_of_figure(one.draw(exps).fig))}" alt="{escape(one.heading)}">'
    except InputError as error:
        content = failed(error)
    return OVERVIEW.substitute(heading=escape(one.heading), content=content)


def _lead(exps: Sequence[Explanation], shown: int, total: int) -> str:
    """What the page holds, in one line."""
    methods = ", ".join(dict.fromkeys(method_title(exp) for exp in exps)) or "no explanation"
    count = f"{shown} of {total} samples" if shown < total else f"{total} sample{'' if total == 1 else 's'}"
    return f"{count} · {methods}"


def _legend(exps: Sequence[Explanation]) -> list[tuple[str, str]]:
    signed = [is_signed(exp) for exp in exps]
    return captions.legend(
        signed=any(signed),
        unsigned=not all(signed),
        image=any(attribution_renderer(exp).name == "image" for exp in exps),
        complete=any(exp.relative_delta is not None for exp in exps),
        baseline=any(exp.baselines is not None for exp in exps),
    )


def _sample(
    exps: Sequence[Explanation], i: int, total: int, kinds: Sequence[str], rule: ScaleRule, longest: int
) -> str:
    """The section of sample i: its pictures and its table."""
    here = [exp for exp in exps if i < len(exp)]
    pictures = [original_figure(here[0], i, longest)]
    pictures += [map_figure(exp, i, kinds, rule, longest) for exp in here]
    rows = [captions.row(exp, i) for exp in here]
    used = [name for name in captions.COLUMNS if any(row[name] != captions.NONE for row in rows)]
    return SAMPLE.substitute(
        heading=escape(captions.sample_heading(here[0], i, total)),
        pictures="".join(pictures),
        head=cells("th", used),
        rows="\n".join(f"<tr>{cells('td', [row[name] for name in used])}</tr>" for row in rows),
    )


def cells(tag: str, texts: Sequence[str]) -> str:
    """Table cells of escaped text."""
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)


def original_figure(exp: Explanation, i: int, longest: int, title: str = "Input") -> str:
    """The inputs of sample i as a figure."""
    contents = [_original(part, i, longest) for part in by_input(exp)]
    return figure(title, original_caption(exp, i, _WIDE), "\n".join(contents))


def _original(part: InputPart, i: int, longest: int) -> str:
    exp, i = in_own_size(part.exp, i)
    renderer = input_renderer(exp)
    try:
        scale = Scale(0.0, False, False, "")
        content = renderer.markup(exp, i, None)
        if content is None:
            content = _image(exp, renderer.picture(exp, i, "original", scale, longest), part.name or "The input")
    except InputError as error:
        content = failed(error)
    return (f'<p class="note">{escape(part.name)}</p>' if part.name else "") + content


def map_figure(exp: Explanation, i: int, kinds: Sequence[str], rule: ScaleRule, longest: int) -> str:
    """The pictures of one method for sample i, those of each input above their common scale."""
    signed = is_signed(exp)
    contents = [_map(part, i, kinds, rule, longest, signed) for part in by_input(exp)]
    return figure(method_title(exp), panel_caption(exp, i, _WIDE), "\n".join(contents))


def _map(part: InputPart, i: int, kinds: Sequence[str], rule: ScaleRule, longest: int, signed: bool) -> str:
    note = part_text(part, i)
    exp, i = in_own_size(part.exp, i)
    renderer = attribution_renderer(exp)
    name = ", ".join(filter(None, (method_title(exp), part.name)))
    try:
        scale = fit_scale(exp, i, rule, signed)
        markup = renderer.markup(exp, i, scale)
        found = dict.fromkeys(resolve_kind(renderer, kind) for kind in kinds) if markup is None else {}
        images = [markup] if markup is not None else []
        images += [_image(exp, renderer.picture(exp, i, k, scale, longest), f"{name}, {k}") for k in found]
        content = "\n".join(images) + (_bar(scale) if renderer.name in _BARE else "")
    except InputError as error:
        content = failed(error)
    return (f'<p class="note">{escape(note)}</p>' if part.name else "") + content


def figure(name: str, caption: str, content: str) -> str:
    """Pictures below their name and caption (two lines, so that neighbours stand level); content is HTML."""
    lines = [*caption.split("\n"), "", ""][: max(2, caption.count("\n") + 1)]
    spans = "".join(f"<span>{escape(line)}</span>" for line in lines)
    return FIGURE.substitute(name=escape(name), caption=spans, content=content)


def failed(error: InputError) -> str:
    """The reason why a picture is missing, in its place."""
    return f'<p class="failed">{escape(str(error))}</p>'


def _image(exp: Explanation, png: bytes, alt: str) -> str:
    small = exp.input.ndim == 4 and max(exp.input.shape[2:]) <= _SMALL
    css = ' class="small"' if small else ""
    return f'<img{css} src="{data_uri(png)}" alt="{escape(alt)}">'


def _bar(scale: Scale) -> str:
    """The colour bar: the colours, their ends in attribution units, and the scale in words."""
    ends = [-scale.limit, 0.0, scale.limit] if scale.signed else [0.0, scale.limit]
    texts = [compact(value) for value in ends] if scale.limit else ["0"]
    return (
        f'<div class="bar" style="background: {colour.css_gradient(scale.cmap)}"></div>'
        f'<div class="ends">{"".join(f"<span>{text}</span>" for text in texts)}</div>'
        f'<p class="note">{escape(scale.label)}</p>'
    )
