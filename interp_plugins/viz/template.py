"""The page's frame and style. Placeholders are filled with escaped text or with parts built here."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from string import Template
from typing import Any

from interp_plugins.core.text import legible

_FRAME = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
<p class="lead">$lead</p>
$body
</main>
$scripts</body>
</html>
""")

_LEGEND = Template("""<section class="legend">
<h2>How to read this page</h2>
<dl>
$legend
</dl>
</section>""")

SAMPLE = Template("""<section class="sample">
<h2>$heading</h2>
<div class="pictures">
$pictures
</div>
<div class="scroll" tabindex="0"><table>
<thead><tr>$head</tr></thead>
<tbody>
$rows
</tbody>
</table></div>
</section>
""")

OVERVIEW = Template("""<section class="sample overview">
<h2>$heading</h2>
$content
</section>
""")

FIGURE = Template("""<figure>
<figcaption><strong>$name</strong>$caption</figcaption>
$content
</figure>
""")

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --faint: #59636e; --line: #d1d9e0; --ground: #ffffff;
  --card: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f0f6fc; --faint: #9ea7b3; --line: #3d444d; --ground: #0d1117; --card: #161b22; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 82rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 0 0 .75rem; overflow-wrap: anywhere; }
.lead { color: var(--faint); margin: .25rem 0 1.5rem; overflow-wrap: anywhere; }
.sample, .legend { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1.25rem; margin-bottom: 1.5rem; }
.pictures { display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fit, minmax(min(14rem, 100%), 1fr)); }
figure { margin: 0; min-width: 0; max-width: 28rem; }
figcaption { margin-bottom: .4rem; line-height: 1.35; overflow-wrap: anywhere; }
figcaption span { display: block; color: var(--faint); font-size: .85rem; min-height: 1.35em; }
figure img { display: block; width: 100%; height: auto; background: #ffffff; border-radius: .3rem; }
.overview img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: .3rem; }
figure img.small { image-rendering: pixelated; }
figure img + img { margin-top: .5rem; }
.bar { height: .7rem; margin-top: .5rem; border-radius: .2rem; border: 1px solid var(--line); }
.ends { display: flex; justify-content: space-between; font-size: .8rem;
  font-variant-numeric: tabular-nums; }
.note { color: var(--faint); font-size: .8rem; margin: .1rem 0 0; }
.failed { border: 1px dashed var(--line); border-radius: .3rem; padding: .75rem;
  font-size: .85rem; margin: 0; }
.scroll { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; font-size: .85rem; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th { color: var(--faint); font-weight: 600; white-space: nowrap; }
td:last-child { overflow-wrap: anywhere; min-width: 12rem; }
dl { margin: 0; display: grid; grid-template-columns: fit-content(16rem) 1fr; gap: .5rem 1.25rem; }
dt { font-weight: 600; overflow-wrap: anywhere; }
dd { margin: 0; max-width: 46rem; color: var(--faint); }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; gap: .1rem; } dd { margin-bottom: .6rem; } }
@media print { .sample { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Document:
    """What a page says below its heading, before it has a frame; the viewer shows the same in one of its own.

    Attributes:
        title: heading.
        lead: what stands below it.
        body: HTML.
        style: CSS beside the common one.
        script: JavaScript, the body of a function of `root` (the document, or a part of one: it is searched by
            `getElementById` and `querySelectorAll`), of `facts`, and of `kept`, where `get(key)` and `set(key, remark)`
            find what a person said of something: `{tags: [texts], note: text}`.
        facts: plain values for the script.
    """

    title: str
    lead: str
    body: str
    style: str = ""
    script: str = ""
    facts: Any = None

    def html(self) -> str:
        """One HTML page that loads nothing, and runs nothing but the script."""
        policy, scripts = _POLICY, ""
        if self.script:
            data = 'JSON.parse(document.getElementById("facts")?.textContent ?? "null")'
            script = f"({function_of(self.script)})(document, {data}, new Map());"
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
            policy += f"; script-src 'sha256-{digest}'"
            scripts = f'<script type="module">{script}</script>\n'
        if self.facts is not None:
            data = json.dumps(self.facts).replace("<", "\\u003c")
            scripts = f'<script type="application/json" id="facts">{data}</script>\n{scripts}'
        texts = {"title": escape(self.title), "lead": escape(self.lead), "body": self.body, "scripts": scripts}
        return legible(_FRAME.substitute(policy=policy, style=STYLE + self.style, **texts))


def function_of(script: str) -> str:
    """A document's script as a JavaScript function."""
    return f"(root, facts, kept) => {{\n{script.strip()}\n}}"


def sections(
    title: str, lead: str, parts: Iterable[str], legend: Iterable[tuple[str, str]] = (), style: str = ""
) -> Document:
    """A document of several parts.

    Args:
        title: heading of the page.
        lead: what stands below it.
        parts: HTML, as of `section`.
        legend: (term, explanation), at the end.
        style: CSS beside the common one.
    """
    told = "\n".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in legend)
    return Document(title, lead, "".join(parts) + _LEGEND.substitute(legend=told), style)


def whole_page(
    title: str, lead: str, parts: Iterable[str], legend: Iterable[tuple[str, str]] = (), style: str = ""
) -> str:
    """One HTML page that loads nothing; arguments as for `sections`."""
    return sections(title, lead, parts, legend, style).html()


def section(heading: str, content: str) -> str:
    """A part of a page: a heading, and HTML below it."""
    return OVERVIEW.substitute(heading=escape(heading), content=content)
