"""The page of explained answers: choose an output token, and the prompt takes the colours of what counted for it.

It loads nothing and runs nothing: choosing and hovering are style rules, so the page may be sent and opened anywhere.
What a chat template wrote is grey. Colours have a bar with numbers, and every sentence its sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

import numpy as np
from matplotlib.colors import to_hex

from interp_plugins.core.text import legible
from interp_plugins.llm.facts import TextFacts
from interp_plugins.llm.picture import draw_map
from interp_plugins.viz import colour
from interp_plugins.viz.figure import compact, data_uri, png_of_figure
from interp_plugins.viz.scale import Scale, ScaleRule
from interp_plugins.viz.template import STYLE, Document, sections
from interp_plugins.viz.text import ink_on

_STYLE = """
.say input { position: absolute; opacity: 0; width: 0; height: 0; pointer-events: none; }
.say label { cursor: pointer; border-radius: .25em; padding: .1em 0; white-space: pre-wrap; border-bottom: 2px solid
  var(--line); }
.say label.whole { font-weight: 600; padding: .1em .5em; margin-right: .6em; border: 1px solid var(--line); }
.say label:hover, .say input:checked + label { outline: 2px solid var(--ink); }
.say input:focus-visible + label { outline: 3px dashed var(--ink); }
.answer, .prompt { line-height: 1.9; overflow-wrap: anywhere; }
.answer { margin: 0 0 .8rem; }
.prompt { background: #fff; color: #1f2328; border-radius: .3rem; padding: .8rem; white-space: pre-wrap; }
.prompt span { border-radius: .2em; padding: .1em 0; }
.prompt .template { color: #8b949e; font-size: .85em; }
.m { display: none; }
.hint { color: var(--faint); font-size: .85rem; margin: 0 0 .4rem; }
.facts { columns: 2 22rem; margin: 1rem 0 0; padding-left: 1.2rem; font-size: .9rem; }
.grid img { max-width: 100%; height: auto; background: #fff; border-radius: .3rem; margin-top: 1rem; }
.m .bar { max-width: 26rem; } .m .ends { max-width: 26rem; }
.number { text-align: right; white-space: nowrap; }
@supports not selector(:has(*)) { .m { display: block; } }
"""

_UNITS = {"lrp": "relevance of the logits of", "context_cite": "change of the logit of the probability of"}
_MISSING = {"remove": "its tokens are left out", "baseline": "each of its tokens is replaced by a quiet one"}

_SECTION = Template("""<section class="sample say">
<style>$rules</style>
<h2>$heading</h2>
<p class="hint">$hint</p>
<div class="answer" role="radiogroup" aria-label="Explained output token">$answer</div>
<div class="maps">$maps</div>
$tables
<ul class="facts">$facts</ul>
$grid
</section>
""")

_LEGEND = [
    ("Orange", "makes the chosen token (or the whole answer) more likely; with a contrast, the answer rather than the "
     "other one."),
    ("Blue", "makes it less likely; with a contrast, the other answer more likely."),
    ("Grey", "was written by the chat template or is kept (a system message): it is never taken away."),
    ("Numbers", "are differences of log probability: +0.7 doubles a probability, -2.3 divides it by ten. "
     "Relevance (lrp) is a share of a logit."),
]  # fmt: skip


def page(explanations: Sequence[TextFacts], title: str = "Explained answers") -> Document:
    """One self-contained page of explained answers."""
    methods = ", ".join(dict.fromkeys(_named(one) for one in explanations)) or "nothing explained"
    answers = "".join(_section(one, k) for k, one in enumerate(explanations))
    return sections(title, methods, [answers], _LEGEND, _STYLE)


def fragment(one: TextFacts) -> str:
    """The same of one answer for a notebook."""
    return legible(
        f"<style>{STYLE.replace(':root', '.say').replace('body {', '.say {')}{_STYLE}</style>{_section(one, 0)}"
    )


def _named(one: TextFacts) -> str:
    name = one.method.replace("_", " ").replace("lrp", "LRP")
    return f"{name}, by {one.level}"


def _section(one: TextFacts, k: int) -> str:
    own = ScaleRule("max").fit(one.seq_attr.numpy(), signed=True)
    maps, rules = [_map(one, one.seq_attr.numpy(), own, f"s{k}all", _whole(one))], [_rules(f"s{k}all")]
    labels = [_label(f"s{k}all", f"s{k}", "whole answer", "whole", checked=True)]
    per_token = one.token_attr if one.token_attr is not None and len(one.outputs) > 1 else None
    shared = None if per_token is None else ScaleRule("max").fit(per_token.numpy(), signed=True)
    for t, piece in enumerate(one.outputs):
        if per_token is None or shared is None:
            labels.append(f"<span>{escape(piece)}</span>")
            continue
        name = f"s{k}t{t}"
        sure = f"p = {float(one.output_probs[t]):.3f}" if one.output_probs is not None else ""
        labels.append(_label(name, f"s{k}", piece.replace("\n", "\u23ce\n"), "", title=sure))
        rules.append(_rules(name))
        maps.append(_map(one, per_token[t].numpy(), shared, name, repr(piece.strip() or piece)))
    choice = "" if per_token is None else " The answer: hover over a token, or choose it, to see what it rests on."
    return _SECTION.substitute(
        rules="\n".join(rules),
        heading=escape(f"{one.output.strip()!r}{_rather(one)}"),
        hint=escape(f"{_named(one)[0].upper()}{_named(one)[1:]}.{choice}"),
        answer="".join(labels),
        maps="".join(maps),
        tables=_sentences(one),
        facts="".join(f"<li>{escape(fact)}</li>" for fact in facts(one)),
        grid=_grid(one),
    )


def _rather(one: TextFacts) -> str:
    return "" if one.against is None else f" rather than {one.against.strip()!r}"


def _whole(one: TextFacts) -> str:
    return "the whole answer" if one.against is None else f"{one.output.strip()!r}{_rather(one)}"


def _rules(name: str) -> str:
    """Show a map while its token is chosen, and above that while it is hovered over."""
    return (
        f".say:has(.c-{name}:checked) .m-{name} {{ display: block; }}\n"
        f".say.say:has(.l-{name}:hover) .m {{ display: none; }}\n"
        f".say.say:has(.l-{name}:hover) .maps .m-{name}.m {{ display: block; }}"
    )


def _label(name: str, group: str, text: str, css: str, checked: bool = False, title: str = "") -> str:
    return (
        f'<input type="radio" name="{group}" id="{name}" class="c-{name}"{" checked" if checked else ""}>'
        f'<label for="{name}" class="l-{name} {css}"{f" title={chr(34)}{escape(title)}{chr(34)}" if title else ""}>'
        f"{escape(text)}</label>"
    )


def _map(one: TextFacts, values: np.ndarray, scale: Scale, name: str, of: str) -> str:
    """The prompt on the colours of some values, and their scale."""
    parts, at = [], 0
    for (start, stop), value, rgb in zip(one.spans, values, scale.rgb(values), strict=True):
        if start > at:
            parts.append(f'<span class="template">{escape(one.text[at:start])}</span>')
        text = one.text[start:stop]
        gap = len(text) - len(text.lstrip())
        style = f"background:{to_hex(rgb)};color:{ink_on(rgb)}"
        parts.append(f'{escape(text[:gap])}<span style="{style}" title="{value:+.3g}">{escape(text[gap:])}</span>')
        at = stop
    if at < len(one.text):
        parts.append(f'<span class="template">{escape(one.text[at:])}</span>')
    ends = "".join(f"<span>{compact(v)}</span>" for v in ((-scale.limit, 0.0, scale.limit) if scale.limit else (0.0,)))
    unit = _UNITS.get(one.method, "change of the log probability of")
    return (
        f'<div class="m m-{name}"><div class="prompt" dir="auto">{"".join(parts)}</div>'
        f'<div class="bar" style="background: {colour.css_gradient(scale.cmap)}"></div><div class="ends">{ends}</div>'
        f'<p class="note">{unit} {escape(of)}; sum {compact(float(values.sum()))}</p></div>'
    )


def _sentences(one: TextFacts) -> str:
    """The sums of the sentences, largest first, where there are several."""
    found = sorted(one.by_sentence(), key=lambda pair: -abs(pair[1]))
    if len(found) < 2:
        return ""
    rows = "".join(
        f'<tr><td class="number">{compact(value)}</td><td>{escape(text[:300])}</td></tr>' for text, value in found[:12]
    )
    more = f"<tr><td></td><td>and {len(found) - 12} more</td></tr>" if len(found) > 12 else ""
    head = '<thead><tr><th class="number">Sum</th><th>Sentence, for the whole answer</th></tr></thead>'
    return f'<div class="scroll" tabindex="0"><table>{head}<tbody>{rows}{more}</tbody></table></div>'


def facts(one: TextFacts) -> list[str]:
    """What is known of the numbers, in short sentences."""
    out = []
    if one.against is not None:
        out.append(f"score: log p({one.output.strip()!r}) - log p({one.against.strip()!r}) = {one.score:.3f}")
    else:
        logit = one.method == "context_cite"
        sure = 1 / (1 + np.exp(-one.score)) if logit else np.exp(one.score)
        out.append(
            f"log{'it of the' if logit else ''} probability of the answer {one.score:.3f} (probability {sure:.3g})"
        )
    known = one.completeness
    if "change" in known:
        apart = f"{known['error']:.1%} apart" if known["error"] < 1 else "they need not be the same"
        out.append(
            f"attributions sum to {known['sum']:.3f}; with no {one.level} left the score changes by "
            f"{known['change']:.3f} ({apart})"
        )
    else:
        out.append(f"attributions sum to {known['sum']:.3f}")
    if one.absence in _MISSING:
        out.append(f"a missing {one.level}: {_MISSING[one.absence]}")
    out.append(f"share of the first {one.level} in all |attribution|: {one.first_share:.0%}")
    return [*out, *one.notes]


def _grid(one: TextFacts) -> str:
    """The map of all output tokens and features, where it can be read."""
    if one.token_attr is None or len(one.outputs) < 2 or len(one.inputs) > 60:
        return ""
    uri = data_uri(png_of_figure(draw_map(one).fig))
    return f'<div class="grid"><img src="{uri}" alt="Attribution of each feature to each output token"></div>'
