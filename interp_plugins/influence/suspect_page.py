"""The page of suspects: a card per item, tagged by a key; the tags are saved as CSV. It loads nothing."""

from __future__ import annotations

from html import escape
from string import Template
from typing import Any

import numpy as np

from interp_plugins.influence.suspect_picture import heading
from interp_plugins.influence.suspect_rows import SuspectRows

_SCRIPT = """
"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const cards = [...document.querySelectorAll("article")];
const KEYS = { k: "keep", f: "fix", d: "drop", u: "" };
const tags = new Map();
let at = 0;
function select(i) {
  at = Math.max(0, Math.min(cards.length - 1, i));
  cards.forEach((card, j) => card.classList.toggle("at", j === at));
  cards[at]?.scrollIntoView({ block: "nearest" });
}
function count() {
  const counts = {};
  for (const tag of tags.values()) counts[tag] = (counts[tag] ?? 0) + 1;
  const said = Object.entries(counts).map(([tag, n]) => n + " " + tag).join(", ");
  document.getElementById("count").textContent = said || "no tags yet";
}
function tag(i, value) {
  if (value) tags.set(i, value); else tags.delete(i);
  cards[i].dataset.tag = value;
  for (const button of cards[i].querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.dataset.tag === value));
  count();
}
function cell(value) {
  const text = String(value ?? "");
  return /[",\\n\\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}
function save() {
  const rows = [["item", "name", "given", "suggested", "score", "tag", "label"]];
  for (const [i, value] of [...tags].sort((a, b) => a[0] - b[0])) {
    const one = facts[i];
    const label = value === "fix" ? cards[i].querySelector("input").value : value === "keep" ? one.given : "";
    rows.push([one.item, one.name, one.given, one.suggested, one.score, value, label]);
  }
  const text = rows.map((row) => row.map(cell).join(",")).join("\\n") + "\\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "tags.csv";
  link.click();
}
cards.forEach((card, i) => {
  card.addEventListener("pointerdown", () => select(i));
  card.addEventListener("focusin", () => select(i));
  for (const button of card.querySelectorAll("button"))
    button.addEventListener("click", () => tag(i, tags.get(i) === button.dataset.tag ? "" : button.dataset.tag));
});
document.getElementById("save").addEventListener("click", save);
addEventListener("keydown", (event) => {
  if (event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key in KEYS) { tag(at, KEYS[key]); select(at + 1); }
  else if (key === "arrowright" || key === "j") select(at + 1);
  else if (key === "arrowleft" || key === "p") select(at - 1);
  else return;
  event.preventDefault();
});
select(0);
count();
"""

_STYLE = """
main { max-width: 96rem; }
.tools { position: sticky; top: 0; background: var(--ground); padding: .6rem 0; z-index: 1; display: flex; gap: 1rem;
  align-items: center; flex-wrap: wrap; border-bottom: 1px solid var(--line); margin-bottom: 1rem; }
.warning { border-left: 4px solid #b35900; padding: .4rem .8rem; background: var(--card); }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
.wide { grid-template-columns: 1fr; }
article { border: 1px solid var(--line); border-radius: .6rem; padding: .8rem; background: var(--card);
  scroll-margin-top: 4rem; }
article.at { outline: 3px solid #0969da; }
article h2 { font-size: 1rem; margin: 0 0 .2rem; }
article img { width: 100%; image-rendering: pixelated; display: block; background: #fff; }
.near { display: grid; grid-template-columns: repeat(3, 1fr); gap: .4rem; margin: .4rem 0; }
.near figcaption { font-size: .75rem; margin: 0; }
.keys { display: flex; gap: .3rem; flex-wrap: wrap; }
.keys input { width: 6rem; font: inherit; }
button { font: inherit; padding: .15rem .6rem; cursor: pointer; }
button[aria-pressed="true"] { background: #0969da; color: #fff; }
article[data-tag="drop"] { opacity: .55; }
"""

_CARD = Template("""<article data-tag="" tabindex="0">
<h2>$place. $heading</h2>
<p class="note">$about</p>
$content
<div class="near">$near</div>
<p class="note">$reasons</p>
<div class="keys"><button data-tag="keep">keep (k)</button><button data-tag="fix">fix (f)</button>
<input aria-label="label" value="$better"><button data-tag="drop">drop (d)</button></div>
</article>
""")

_BODY = Template("""$notes
<div class="tools"><button id="save">Save tags (CSV)</button><span id="count"></span>
<span class="note">k keep, f fix, d drop, u undo, arrows move. Your data are not changed by this page.</span></div>
<div class="cards$wide">
$cards
</div>""")


def page(found: SuspectRows, n: int, neighbours: int, title: str) -> str:
    """The text of the page."""
    from interp_plugins.viz.template import scripted_page

    shown = found.shown(n, neighbours)
    rows = found.order[:n].tolist()
    lead = (
        f"{len(rows)} of {len(found)} items, {int(found.likely.sum())} of all likely wrong; ranked by "
        f"{' and '.join(found.votes)} on the features before {found.layer}."
    )
    pictures = all(isinstance(v, np.ndarray) for v in shown.values())
    body = _BODY.substitute(
        notes="".join(f'<p class="warning">{escape(note)}</p>' for note in found.notes),
        wide="" if pictures else " wide",
        cards="".join(_card(found, r, place, shown, neighbours) for place, r in enumerate(rows, 1)),
    )
    return scripted_page(title, lead, body, _STYLE, _SCRIPT, [_facts(found, r) for r in rows])


def _facts(found: SuspectRows, r: int) -> dict[str, Any]:
    return {
        "item": int(found.items[r]),
        "name": found.names[r] if found.names is not None else "",
        "given": found.label(found.given[r]),
        "suggested": found.label(found.suggested[r]),
        "score": round(float(found.score[r]), 6),
    }


def _card(found: SuspectRows, r: int, place: int, shown: dict[int, Any], neighbours: int) -> str:
    entry = {int(i): k for k, i in enumerate(found.items.tolist())}
    near = [
        f"<figure>{_content(shown[i])}<figcaption>{escape(found.label(found.given[entry[i]]))}</figcaption></figure>"
        for i in found.near(r, neighbours)
    ]
    name = found.names[r] if found.names is not None and found.names[r] else f"item {int(found.items[r])}"
    likely = ", likely wrong" if found.likely[r] else ""
    reasons = " · ".join(f"{key} {float(values[r]):.3g}" for key, values in found.reasons.items())
    return _CARD.substitute(
        place=place,
        heading=escape(heading(found, r)),
        about=escape(f"{name}, score {float(found.score[r]):.3f}{likely}"),
        content=_content(shown[int(found.items[r])]),
        near="".join(near),
        reasons=escape(reasons),
        better=escape(found.label(found.suggested[r]), quote=True),
    )


def _content(value: Any) -> str:
    """One item: a picture, a table of one row, or a text."""
    if isinstance(value, np.ndarray):
        from interp_plugins.viz.figure import data_uri, png_of_pixels

        return f'<img src="{data_uri(png_of_pixels(value, 256))}" alt="">'
    if isinstance(value, dict):
        cells = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in value.items())
        return f'<div class="scroll"><table>{cells}</table></div>'
    return f"<p>{escape(str(value))}</p>"
