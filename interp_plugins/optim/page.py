"""One page of many units that opens without a network: pictures, examples, values; sortable, dead units listed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from string import Template
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.optim.picture import STATES, as_columns, board, features_figure, pixels
from interp_plugins.viz.template import Document

_SIDE = 208
_STYLE = """
.tools { display: flex; gap: 1rem; flex-wrap: wrap; align-items: center; margin-bottom: 1rem; }
.tools label { color: var(--faint); }
#units { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(27rem, 100%), 1fr)); }
.unit { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem; min-width: 0; }
.unit h2 { font-size: 1rem; margin: 0 0 .4rem; }
.unit p { color: var(--faint); font-size: .82rem; margin: .4rem 0 0; overflow-wrap: anywhere; }
.unit .pair { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem; align-items: start; }
.unit img { width: 100%; display: block; border-radius: .3rem; background: #fff; }
.unit .gone { aspect-ratio: 1; display: grid; place-items: center; border: 1px dashed var(--line);
  border-radius: .3rem; text-align: center; }
.unit svg { width: 100%; height: 3rem; display: block; margin-top: .4rem; }
.unit ol { font-size: .8rem; margin: 0; padding-left: 1.4rem; overflow-wrap: anywhere; }
.warning { border-left: 3px solid #c25a00; padding-left: .6rem; }
"""
SCRIPT = """
const box = root.getElementById('units'), sort = root.getElementById('sort'),
  find = root.getElementById('find'), cards = [...box.children];
function arrange() {
  const [key, way] = sort.value.split(' '), sign = way === 'down' ? -1 : 1;
  const of = c => { const v = parseFloat(c.dataset[key]); return Number.isNaN(v) ? -Infinity * sign : v; };
  cards.sort((a, b) => sign * (of(a) - of(b)) || a.dataset.order - b.dataset.order);
  const text = find.value.toLowerCase();
  for (const c of cards) { c.hidden = text && !c.textContent.toLowerCase().includes(text); box.append(c); }
}
sort.addEventListener('change', arrange); find.addEventListener('input', arrange);
"""
_BODY = Template("""$notes
<div class="tools"><label>Sort by <select id="sort">$sorts</select></label>
<label>Find <input id="find" type="search"></label></div>
<div id="units">
$cards
</div>""")
SORTS = {
    "order up": "number",
    "largest down": "largest value of the data",
    "silent down": "share of items where it is silent",
    "activation down": "activation of the picture",
    "ratio down": "ratio of picture to data",
    "path down": "path",
}


def cards_page(title: str, lead: str, notes: Sequence[str], cards: Sequence[str], sorts: Sequence[str]) -> Document:
    """A page of cards.

    Args:
        title: of the page.
        lead: what is on it.
        notes: warnings.
        cards: one per unit.
        sorts: by what they can be sorted, of `SORTS`.
    """
    options = "".join(f'<option value="{key}">{escape(SORTS[key])}</option>' for key in sorts)
    body = _BODY.substitute(
        notes="".join(f'<p class="warning">{escape(note)}</p>' for note in notes),
        sorts=options,
        cards="\n".join(cards),
    )
    return Document(title, lead, body, _STYLE, SCRIPT)


def features_page(found: Any, title: str = "What these units look for") -> Document:
    """The page of a `Visualization`."""
    examples = found.examples
    dead = [found.names[i] for i, s in enumerate(found.state) if s == "dead"]
    notes = [f"Dead, no gradient and never active: {', '.join(dead)}."] if dead else []
    if examples is None:
        notes.append("Without data: a picture alone may mislead. Give data= to see what the units are active for.")
    beside = "" if examples is None else f", beside the items that excite them most of {examples.seen}"
    lead = f"{len(found)} pictures, made by climbing ({found.params.get('param')}){beside}."
    sorts = [*("order up", "activation down")]
    if examples is not None:
        sorts += ["largest down", "silent down", "ratio down", "path down"]
    return cards_page(title, lead, notes, [_feature_card(found, i) for i in range(len(found))], sorts)


def _feature_card(found: Any, i: int) -> str:
    examples, u = found.examples, found.unit[i]
    data = {"order": i, "activation": float(found.activation[i])}
    data |= {k: float(v[i]) for k, v in found.scores.items()}
    parts = [_picture(found, i)]
    graph = ""
    if examples is not None:
        data |= {"largest": float(examples.largest[u]), "silent": float(examples.silent[u])}
        parts.append(_of_data(examples, u))
        graph = histogram(
            examples.level_counts[u],
            float(examples.level[u, 0]),
            float(examples.largest[u]),
            float(found.activation[i]),
        )
    said = [STATES[found.state[i]], f"activation {float(found.activation[i]):.3g}"]
    said += [f"{k} {float(v[i]):.2f}" for k, v in found.scores.items() if not bool(v[i].isnan())]
    if examples is not None:
        said.append(_labels(examples, u))
    return card(found.names[i], data, parts, graph, " · ".join(s for s in said if s))


def _picture(found: Any, i: int) -> str:
    if found.state[i] == "dead":
        return '<div class="gone">dead<br>no gradient: never active</div>'
    if found.images.ndim != 4:
        return f"<ol><li>{escape(', '.join(f'{v:.3g}' for v in found.images[i].flatten()[:64].tolist()))}</li></ol>"
    alpha = None if found.alpha is None else found.alpha[i : i + 1]
    return image(pixels(found.images[i : i + 1], found.spec, alpha)[0], f"picture of {found.names[i]}")


def _of_data(examples: Any, u: int) -> str:
    have = [r for r in range(examples.index.shape[1]) if examples.index[u, r] >= 0]
    if examples.crops is not None:
        return image(board(examples.crops[u][have]), f"examples of {examples.names[u]}")
    texts = [", ".join(str(v) for v in as_columns(examples.words[u][r]).values()) for r in have]
    return "<ol>" + "".join(f"<li>{escape(t[:200])}</li>" for t in texts) + "</ol>"


def _labels(examples: Any, u: int) -> str:
    return ", ".join(dict.fromkeys(label for label in examples.label[u] if label))


def examples_page(found: Any, title: str = "What these units are active for") -> Document:
    """The page of `Examples`: of a layer all channels."""
    quiet = [found.names[u] for u in range(len(found)) if found.silent[u] >= 1]
    notes = [f"The same value for every item, so nothing to see: {', '.join(quiet)}."] if quiet else []
    cards = []
    for u, name in enumerate(found.names):
        data = {"order": u, "largest": float(found.quantiles[u, -1]), "silent": float(found.silent[u])}
        graph = histogram(found.counts[u], float(found.quantiles[u, 0]), float(found.quantiles[u, -1]), None)
        said = f"largest {float(found.quantiles[u, -1]):.3g} · silent for {float(found.silent[u]):.0%}"
        labels = _labels(found, u)
        cards.append(card(name, data, [_of_data(found, u)], graph, f"{said} · {labels}" if labels else said))
    lead = f"{len(found)} units of {found.layer}: the {found.index.shape[1]} most active of {found.seen} items each."
    return cards_page(title, lead, notes, cards, ["order up", "largest down", "silent down"])


def card(name: str, data: dict[str, float], parts: Sequence[str], graph: str, said: str) -> str:
    """The card of one unit."""
    facts = " ".join(f'data-{k}="{v:.6g}"' for k, v in data.items())
    inside = f'<div class="pair">{"".join(parts)}</div>' if len(parts) > 1 else "".join(parts)
    return f'<article class="unit" {facts}><h2>{escape(name)}</h2>{inside}{graph}<p>{escape(said)}</p></article>'


def histogram(counts: Tensor, low: float, high: float, mark: float | None) -> str:
    """Items by value as a small drawing, with a line at the picture's."""
    span = max(high, mark if mark is not None else high) - min(low, mark if mark is not None else low) or 1.0
    start = min(low, mark if mark is not None else low)
    heights = torch.log1p(counts.double())
    heights = heights / heights.max().clamp(min=1e-12)
    width = (high - low) / span / len(counts)
    bars = "".join(
        f'<rect x="{100 * ((low - start) / span + i * width):.2f}" y="{30 * (1 - float(h)):.2f}" '
        f'width="{max(100 * width, 0.2):.2f}" height="{30 * float(h):.2f}" fill="#1f5fbf"/>'
        for i, h in enumerate(heights)
        if h > 0
    )
    line = ""
    if mark is not None:
        at = 100 * (mark - start) / span
        line = f'<line x1="{at:.2f}" x2="{at:.2f}" y1="0" y2="30" stroke="#c25a00" stroke-width="1"/>'
    return (
        '<svg viewBox="0 0 100 30" preserveAspectRatio="none" role="img" aria-label="values of all items">'
        f"{bars}{line}</svg>"
    )


def image(rgb: np.ndarray, words: str) -> str:
    """An `img` with its pixels inside, as JPEG."""
    return f'<img src="{jpeg(rgb)}" alt="{escape(words, quote=True)}">'


def jpeg(rgb: np.ndarray, longest: int = _SIDE) -> str:
    """Pixels (H, W, 3) in [0, 1] as a `data:` URI, no side longer than asked."""
    from matplotlib.image import imsave

    height, width = rgb.shape[:2]
    x = torch.from_numpy(np.ascontiguousarray(rgb)).float().movedim(-1, 0)[None]
    if max(height, width) > longest:
        size = [max(1, round(s * longest / max(height, width))) for s in (height, width)]
        x = torch.nn.functional.interpolate(x, size=size, mode="bilinear", antialias=True)
    out = io.BytesIO()
    made = (x[0].movedim(0, -1).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    imsave(out, made, format="jpg", pil_kwargs={"quality": 88})
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def in_cell(found: Any) -> str:
    """A result as a notebook's cell shows it: its figure, or a table."""
    from interp_plugins.viz.figure import data_uri, png_of_figure

    shown: Any = features_figure(found, 8) if hasattr(found, "images") else found.show()
    if hasattr(shown, "to_html"):
        html: str = shown.to_html()
        return html
    return f'<img src="{data_uri(png_of_figure(shown.fig))}" alt="{escape(repr(found), quote=True)}">'
