"""The page of suspects: a card per item, tagged by a key; the tags are saved as CSV. It loads nothing."""

from __future__ import annotations

from html import escape
from string import Template
from typing import Any

import numpy as np

from interp_plugins.influence.suspect_picture import heading
from interp_plugins.influence.suspect_rows import SuspectRows
from interp_plugins.influence.tags import read_tags
from interp_plugins.viz.template import Document

SCRIPT = """
const cards = [...root.querySelectorAll("article")];
const KEYS = { k: "keep", f: "fix", d: "drop", u: "" };
const TAGS = ["keep", "fix", "drop"];
const field = (i) => cards[i].querySelector("input");
const tagOf = (i) => kept.get(facts[i].item)?.tags.find((tag) => TAGS.includes(tag)) ?? "";
let at = 0;
function select(i) {
  at = Math.max(0, Math.min(cards.length - 1, i));
  cards.forEach((card, j) => card.classList.toggle("at", j === at));
  cards[at]?.scrollIntoView({ block: "nearest" });
}
function count(more = "") {
  const counts = {};
  for (const i of facts.keys()) if (tagOf(i)) counts[tagOf(i)] = (counts[tagOf(i)] ?? 0) + 1;
  const said = Object.entries(counts).map(([tag, n]) => n + " " + tag).join(", ");
  root.getElementById("count").textContent = (said || "no tags yet") + more;
}
function show(i) {
  cards[i].dataset.tag = tagOf(i);
  for (const button of cards[i].querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.dataset.tag === tagOf(i)));
}
function tag(i, value) {
  const label = value === "fix" ? field(i).value : value === "keep" ? facts[i].given : "";
  kept.set(facts[i].item, { tags: value ? [value] : [], note: label });
  show(i);
  count();
}
function tagged() {
  return [...facts.keys()].filter(tagOf).map((i) =>
    ({ ...facts[i], tag: tagOf(i), label: kept.get(facts[i].item).note }));
}
function cell(value) {
  const text = String(value ?? "");
  return /[",\\n\\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}
function offer(text, type, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
}
function saveTable() {
  const columns = ["item", "name", "given", "suggested", "score", "tag", "label"];
  const rows = [columns, ...tagged().map((one) => columns.map((column) => one[column]))];
  offer(rows.map((row) => row.map(cell).join(",")).join("\\n") + "\\n", "text/csv", "tags.csv");
}
async function load(file) {
  try {
    const rows = JSON.parse(await file.text());
    const place = new Map(facts.map((one, i) => [one.item, i]));
    let taken = 0;
    for (const { item, tag: value, label } of rows) {
      if (!TAGS.includes(value)) throw new Error("no tag");
      const i = place.get(item);
      if (i === undefined) continue;
      kept.set(item, { tags: [value], note: String(label ?? "") });
      if (value === "fix") field(i).value = label;
      show(i);
      taken++;
    }
    const left = rows.length - taken;
    count(left ? "; " + left + " of the file are of items that are not on this page" : "");
  } catch {
    count("; " + file.name + " holds no tags as \\"Save tags (JSON)\\" writes them");
  }
}
cards.forEach((card, i) => {
  const known = kept.get(facts[i].item);
  if (!known && facts[i].tag) kept.set(facts[i].item, { tags: [facts[i].tag], note: facts[i].label });
  if (tagOf(i) === "fix") field(i).value = kept.get(facts[i].item).note;
  show(i);
  card.addEventListener("pointerdown", () => select(i));
  card.addEventListener("focusin", () => select(i));
  field(i).addEventListener("input", () => tag(i, "fix"));
  for (const button of card.querySelectorAll("button"))
    button.addEventListener("click", () => tag(i, tagOf(i) === button.dataset.tag ? "" : button.dataset.tag));
});
root.getElementById("csv").addEventListener("click", saveTable);
root.getElementById("json").addEventListener("click",
  () => offer(JSON.stringify(tagged(), null, 1), "application/json", "tags.json"));
root.getElementById("load").addEventListener("change", (event) => event.target.files[0] && load(event.target.files[0]));
root.addEventListener("keydown", (event) => {
  if (event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key in KEYS) { tag(at, KEYS[key]); select(at + 1); }
  else if (key === "arrowright" || key === "j") select(at + 1);
  else if (key === "arrowleft" || key === "p") select(at - 1);
  else return;
  cards[at].focus({ preventScroll: true });
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
article.at, article:focus-visible { outline: 3px solid #0969da; }
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
<div class="tools"><button id="csv">Save tags (CSV)</button><button id="json">Save tags (JSON)</button>
<label>Load tags (JSON) <input id="load" type="file" accept=".json,application/json"></label><span id="count"></span>
<span class="note">k keep, f fix, d drop, u undo, arrows move. Your data are not changed by this page.</span></div>
<div class="cards$wide">
$cards
</div>""")


def page(found: SuspectRows, n: int = 100, neighbours: int = 3, title: str = "Suspects", tags: Any = None) -> Document:
    """The page of the n most suspicious items.

    Args:
        found: the items.
        n: how many are shown.
        neighbours: of each.
        title: heading.
        tags: what a person said before, as for `read_tags`.
    """
    said = {} if tags is None else read_tags(tags, found)
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
    facts = [_facts(found, r, said.get(int(found.items[r]))) for r in rows]
    return Document(title, lead, body, _STYLE, SCRIPT, facts)


def _facts(found: SuspectRows, r: int, said: tuple[str, str] | None) -> dict[str, Any]:
    known = {} if said is None else {"tag": said[0], "label": said[1]}
    return {
        "item": int(found.items[r]),
        "name": found.names[r] if found.names is not None else "",
        "given": found.label(found.given[r]),
        "suggested": found.label(found.suggested[r]),
        "score": round(float(found.score[r]), 6),
        **known,
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
