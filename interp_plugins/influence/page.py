"""The page of influences: each query with its proponents and opponents; a pointer over an item shows both maps."""

from __future__ import annotations

from html import escape
from string import Template
from typing import Any

import numpy as np

from interp_plugins.influence.picture import AGAINST, FOR, LEGEND, drawable, glow, heat, pixels
from interp_plugins.influence.readable_page import STYLE, bar_of, caption_of, items_of, readable_queries
from interp_plugins.viz.figure import data_uri, png_of_pixels
from interp_plugins.viz.page import cells
from interp_plugins.viz.template import Document, section, sections

_SIDE = 224

_STYLE = f"""
.asked {{ display: grid; grid-template-columns: minmax(8rem, 13rem) minmax(0, 1fr); gap: 1.25rem; }}
.strip {{ display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); }}
.asked h3 {{ font-size: .9rem; margin: 0 0 .4rem; }}
.asked .strip + h3 {{ margin-top: 1rem; }}
.asked figcaption {{ font-size: .8rem; margin: .3rem 0 0; }}
.asked .score {{ height: .3rem; border-radius: .15rem; margin-top: .3rem; min-width: 1px; }}
.for {{ --ink-of: {FOR}; }} .against {{ --ink-of: {AGAINST}; }}
.asked .score {{ background: var(--ink-of); }}
.asked .layers {{ position: relative; display: block; }}
.asked .layers img {{ width: 100%; margin: 0; image-rendering: pixelated; }}
.asked .layers .map {{ position: absolute; inset: 0; height: 100%; opacity: 0; background: none;
  image-rendering: auto; }}
.asked figure:focus-visible {{ outline: 2px solid var(--ink); outline-offset: 2px; }}
.asked figure:is(:hover, :focus) .map, .asked:has(figure:is(:hover, :focus)) .query .map,
.sample:has(.all:checked) .map {{ opacity: 1; }}
.hint {{ color: var(--faint); font-size: .85rem; margin: 0 0 .75rem; }}
@media (max-width: 40rem) {{ .asked {{ grid-template-columns: minmax(0, 1fr); }} }}
"""

_QUERY = Template("""$hint<div class="asked">
<figure class="query" tabindex="0">$picture<figcaption>$told</figcaption></figure>
<div>$rows</div>
</div>""")
_HINT = """<p class="hint">Point at an item, or choose it with Tab, to see what $method finds in it and in the query:
which part do they share? <label><input type="checkbox" class="all"> all maps</label></p>"""


def page(found: Any, maps: Any = None) -> Document:
    """Where the inputs are pictures, rows or texts, each query beside its items; and a table of all scores.

    Args:
        found: `Influences`.
        maps: (of the queries, of the items), explanations that are shown below the pointer, or None.
    """
    parts = _queries(found, maps) if drawable(found) else readable_queries(found) if found.readable else []
    table = found.to_df()
    head, rows = cells("th", list(table)), (cells("td", [_text(v) for v in row]) for row in table.to_numpy())
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    parts.append(section("Scores", f'<div class="scroll" tabindex="0">{grid}</div>'))
    told = () if maps is None else (("Glow", f"how strong the map of {_of(maps)} is there."),)
    return sections("Which training items made it say so?", _lead(found), parts, (*LEGEND, *told), _STYLE + STYLE)


def _lead(found: Any) -> str:
    """What was asked of how many items, how much of the answer is shown, and what to know of it."""
    n, checkpoints = len(found), len(found.params.get("checkpoints", ()))
    weights = found.params.get("weights", "")
    over = [f"{checkpoints} checkpoints of the training"] * (checkpoints > 1) + [weights] * bool(weights)
    by = f"by {found.method}" + (f" ({', '.join(over)})" if over else "")
    shares = found.share.tolist()
    share = f"{min(shares):.0%}" if max(shares) - min(shares) < 0.005 else f"{min(shares):.0%} to {max(shares):.0%}"
    told = [
        f"For {'one query' if n == 1 else f'{n} queries'}: which of {found.n:,} training items count most, {by}",
        f"Those shown carry {share} of all absolute scores; the rest is spread over the others",
    ]
    if found.lds is not None:
        told.append(f"Sums of scores foretell a refitted head with a rank correlation of {found.lds:.2f} (LDS)")
    told += [note[:1].upper() + note[1:].rstrip(".") for note in found.notes]
    return " ".join(f"{one}." for one in told)


def _of(maps: Any) -> str:
    return str(maps[0].title or maps[0].method)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _queries(found: Any, maps: Any) -> list[str]:
    own, theirs = pixels(found.inputs, found.spec), pixels(found.item_inputs, found.spec)
    over = (None, None) if maps is None else (heat(maps[0]), heat(maps[1]))
    place = {number: i for i, number in enumerate(found.numbers)}
    hint = "" if maps is None else Template(_HINT).substitute(method=escape(_of(maps)))
    parts = []
    for q in range(len(found)):
        name, groups, largest = items_of(found, q)
        rows = ""
        for kind, title, shown in groups:
            items = [
                _item(found, number, score, largest, _layers(theirs, over[1], place[number])) for number, score in shown
            ]
            rows += f'<h3>{title}</h3><div class="strip {kind}">{"".join(items)}</div>'
        told = f"asked: {found.asked[q]}"
        content = _QUERY.substitute(hint=hint, picture=_layers(own, over[0], q), told=escape(told), rows=rows)
        parts.append(section(name, content))
    return parts


def _item(found: Any, number: int, score: float, largest: float, picture: str) -> str:
    caption, bar = caption_of(found, number, score), bar_of(score, largest)
    return f'<figure tabindex="0">{picture}{bar}<figcaption>{caption}</figcaption></figure>'


def _layers(pictures: np.ndarray, maps: np.ndarray | None, i: int) -> str:
    """A picture, and its map on top, which is seen when it is asked for."""
    shown = f'<img alt="" src="{data_uri(png_of_pixels(pictures[i], _SIDE))}">'
    if maps is not None:
        shown += f'<img class="map" alt="" src="{data_uri(png_of_pixels(glow(maps[i]), _SIDE))}">'
    return f'<span class="layers">{shown}</span>'
