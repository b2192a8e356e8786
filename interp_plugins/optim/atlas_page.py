"""The atlas as one page: tiles to zoom, and for the chosen tile its items and what the model says of them."""

from __future__ import annotations

from html import escape
from string import Template
from typing import Any

from interp_plugins.optim.page import image
from interp_plugins.optim.picture import board, pixels
from interp_plugins.viz.template import Document

_STYLE = """
.tools { display: flex; gap: 1rem; align-items: center; margin-bottom: .75rem; color: var(--faint); }
.frame { display: grid; grid-template-columns: minmax(0, 1fr) 17rem; gap: 1rem; align-items: start; }
#map { display: grid; overflow: auto; max-height: 85vh; justify-content: start;
  grid-auto-rows: var(--side); }
#map button { padding: 0; border: 0; background: none; cursor: pointer; }
#map button:focus-visible, #map button:hover { outline: 3px solid #c25a00; z-index: 1; }
#map img { width: 100%; height: 100%; display: block; }
#told { position: sticky; top: 1rem; }
#told > div { display: none; }
#told > div.on { display: block; }
#told img { width: 100%; border-radius: .3rem; margin-bottom: .5rem; }
@media (max-width: 50rem) { .frame { grid-template-columns: minmax(0, 1fr); } }
"""
SCRIPT = """
const told = [...root.getElementById('told').children], tiles = [...root.querySelectorAll('#map button')];
const choose = i => told.forEach((t, k) => t.classList.toggle('on', k === i));
tiles.forEach((t, i) => ['click', 'focus', 'mouseenter'].forEach(e => t.addEventListener(e, () => choose(i))));
root.getElementById('zoom').addEventListener('input', e =>
  root.getElementById('map').style.setProperty('--side', e.target.value + 'px'));
if (told.length) choose(0);
"""
_BODY = Template("""<div class="tools">
<label>Zoom <input id="zoom" type="range" min="16" max="320" value="$side"></label></div>
<div class="frame">
<div id="map" style="--side: ${side}px; grid-template-columns: repeat($columns, var(--side))">
$tiles
</div>
<div id="told">
$told
</div>
</div>""")


def atlas_page(found: Any, title: str = "Activation atlas") -> Document:
    """The page of an `Atlas`.

    Args:
        found: `Atlas`.
        title: of the page.
    """
    made, tiles, told = pixels(found.images, found.spec), [], []
    for i, (row, column) in enumerate(found.place.tolist()):
        picture = image(made[i], f"direction of {int(found.count[i])} items")
        tiles.append(f'<button style="grid-row: {row + 1}; grid-column: {column + 1}">{picture}</button>')
        crops = "" if found.crops is None else image(board(found.crops[i], columns=3), "items of this cell")
        said = f"<p>{escape(found.label[i])}</p>" if found.label[i] else ""
        told.append(f"<div>{picture}{crops}<p>{int(found.count[i])} items</p>{said}</div>")
    lead = (
        f"{found.layer}: the directions that {found.seen} items take, laid out by {found.params['embed']} so that "
        "neighbours are alike; of each cell of the map the mean direction as a picture."
    )
    columns = int(found.grid[1])
    side = max(40, min(160, 640 // columns))  # few tiles are larger
    body = _BODY.substitute(columns=str(columns), side=str(side), tiles="\n".join(tiles), told="\n".join(told))
    return Document(title, lead, body, _STYLE, SCRIPT)
