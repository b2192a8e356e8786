"""Rows and texts on the page of influences: what an item shares with the query stands out."""

from __future__ import annotations

from html import escape
from typing import Any

from interp_plugins.influence.readable import Readable, key
from interp_plugins.viz.figure import compact
from interp_plugins.viz.template import section
from interp_plugins.viz.text import runs_left

_MOST = 8  # items of each kind
_WORDS = 300  # of a text

STYLE = """
.beside th[scope] { color: inherit; } .beside td, .beside th { white-space: nowrap; }
.beside td:last-child { min-width: 0; }
.beside th:first-child { position: sticky; left: 0; background: var(--card); min-width: 8rem; }
.beside .query > * { border-bottom: 2px solid var(--ink); }
.beside .query > th, .beside .query > td { font-weight: 400; }
.beside b { font-weight: 750; }
.beside td { color: var(--faint); } .beside td b, .beside .query td { color: var(--ink); }
.beside .who { font-weight: 400; } .beside .who span { display: block; color: var(--faint); font-size: .75rem; }
.beside .kind th { border: 0; padding-top: 1rem; color: var(--ink); }
.beside .score { height: .3rem; border-radius: .15rem; background: var(--ink-of); min-width: 1px; margin-top: .2rem; }
.texts { display: grid; gap: .75rem; } .texts h3 { font-size: .9rem; margin: .5rem 0 0; }
.texts article { display: grid; grid-template-columns: 9rem minmax(0, 1fr); gap: .2rem 1rem; font-size: .9rem; }
.texts article.query { border-bottom: 2px solid var(--ink); padding-bottom: .75rem; }
.texts p { margin: 0; overflow-wrap: anywhere; } .texts .who span { display: block; color: var(--faint);
  font-size: .8rem; }
.texts .score { height: .3rem; border-radius: .15rem; background: var(--ink-of); min-width: 1px; margin-top: .2rem; }
.texts mark { color: inherit; background: color-mix(in srgb, var(--ink-of, var(--faint)) 30%, transparent);
  border-radius: .2em; padding: 0 .1em; font-weight: 600; }
@media (max-width: 40rem) { .beside th.who { white-space: normal; min-width: 7rem; max-width: 7.5rem; }
  .texts article { grid-template-columns: minmax(0, 1fr); } }
"""

LEGENDS = {
    "tabular": (
        "Bold",
        "columns in which the item is close to the query: the same category, or a number less than a quarter of a "
        "standard deviation of the training items away.",
    ),
    "text": (
        "Marked words",
        "those that the item shares with the query; not words that more than a fifth of the training texts have, nor "
        "punctuation.",
    ),
}


def items_of(found: Any, q: int) -> tuple[str, list[tuple[str, str, list[tuple[int, float]]]], float]:
    """A query's name, its items (number, score) by what they did, in words, and the size of the largest score."""
    name = str(found.query_names[q]) if found.query_names and found.query_names[q] else f"query {q}"
    both = (
        ("for", "Speak for it", found.indices, found.scores),
        ("against", "Speak against it", found.opponent_indices, found.opponent_scores),
    )
    groups = [
        (kind, title, list(zip(numbers[q].tolist(), scores[q].tolist(), strict=True))[:_MOST])
        for kind, title, numbers, scores in both
    ]
    largest = max([abs(s) for *_, shown in groups for _, s in shown] or [1.0]) or 1.0
    return name, [group for group in groups if group[2]], largest


def caption_of(found: Any, number: int, score: float) -> str:
    """An item's score, its label, what the model says where that is something else, and its name."""
    label, said = found.labels.get(number, ""), found.predictions.get(number, "")
    wrong = f", says {said}" if said and said != label else ""
    name = found.names.get(number, "") or f"item {number}"
    return f"{compact(score)} <b>{escape(label)}</b>{escape(wrong)}<span>{escape(name)}</span>"


def bar_of(score: float, largest: float) -> str:
    """A bar as long as a score is beside the largest."""
    return f'<div class="score" style="width: {abs(score) / largest:.1%}"></div>'


def readable_queries(found: Any) -> list[str]:
    """A section per query: itself, then its proponents and opponents."""
    draw = _table if found.readable.kind == "tabular" else _texts
    parts = []
    for q in range(len(found)):
        name, groups, largest = items_of(found, q)
        hint = f'<p class="hint">{LEGENDS[found.readable.kind][0]}: {LEGENDS[found.readable.kind][1]}</p>'
        parts.append(section(name, hint + draw(found, q, groups, largest)))
    return parts


def _who(found: Any, number: int, score: float, largest: float) -> str:
    return caption_of(found, number, score) + bar_of(score, largest)


def _table(found: Any, q: int, groups: list[Any], largest: float) -> str:
    held: Readable = found.readable
    head = "".join(f"<th>{escape(name)}</th>" for name in held.names)
    asked = "".join(f"<td>{escape(value)}</td>" for value in held.queries[q])
    who = f'<th scope="row" class="who"><b>query</b><span>{escape(found.asked[q])}</span></th>'
    rows = f'<tr class="query">{who}{asked}</tr>'
    for kind, title, shown in groups:
        rows += f'<tr class="kind"><th>{title}</th></tr>'
        for number, score in shown:
            values = "".join(
                f"<td>{f'<b>{escape(value)}</b>' if near else escape(value)}</td>"
                for value, near in zip(held.items[number], held.close(q, number), strict=True)
            )
            who = _who(found, number, score, largest)
            rows += f'<tr class="{kind}"><th scope="row" class="who">{who}</th>{values}</tr>'
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="scroll beside" tabindex="0">{table}</div>'


def _texts(found: Any, q: int, groups: list[Any], largest: float) -> str:
    held: Readable = found.readable
    shared = {
        key(word)
        for *_, shown in groups
        for number, _ in shown
        for word, near in zip(held.items[number], held.close(q, number), strict=True)
        if near
    }
    own = held.queries[q]
    marked = [key(word) in shared for word in own]
    parts = (
        f'<article class="query"><div class="who"><b>query</b><span>{escape(found.asked[q])}</span></div>'
        f"{_text(own, marked)}</article>"
    )
    for kind, title, shown in groups:
        parts += f"<h3>{title}</h3>"
        for number, score in shown:
            who = f'<div class="who">{_who(found, number, score, largest)}</div>'
            parts += f'<article class="{kind}">{who}{_text(held.items[number], held.close(q, number))}</article>'
    return f'<div class="texts">{parts}</div>'


def _text(words: tuple[str, ...], marked: list[bool]) -> str:
    """A text with its shared words marked; everything escaped."""
    shown = " ".join(
        f"<mark>{escape(word)}</mark>" if mark else escape(word) for word, mark in zip(words[:_WORDS], marked)
    )
    more = f" <span>… {len(words) - _WORDS} more words</span>" if len(words) > _WORDS else ""
    return f'<p dir="{"rtl" if runs_left(words) else "auto"}">{shown}{more}</p>'
