"""The curve and the page of a `Robustness`."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import torch

from interp_plugins.core.errors import InputError
from interp_plugins.robust.binomial import interval
from interp_plugins.robust.measured_rows import MeasuredRows
from interp_plugins.robust.picture import picture

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 6  # samples of a page


def curve(found: MeasuredRows) -> Any:
    """Accuracy over the level, a line per attack or corruption; beside it the likeness of maps."""
    from interp_plugins.viz import colour
    from interp_plugins.viz.figure import Plot, new_figure

    both = bool(found.agreement)
    fig = new_figure(9.6 if both else 5.6, 3.6)
    axes = fig.subplots(1, 2 if both else 1, squeeze=False)
    for name in _kinds(found):
        rows = [0, *(k for k, one in enumerate(found.names) if one == name and k)]
        at = [found.levels[k] for k in rows]
        ends = [interval(int(found.right[k].sum()), len(found)) for k in rows]
        (line,) = axes[0, 0].plot(at, found.accuracy[rows].tolist(), marker="o", ms=3, lw=1.2, label=name)
        if len(_kinds(found)) <= 3:
            low, high = zip(*ends, strict=True)
            axes[0, 0].fill_between(at, low, high, color=line.get_color(), alpha=0.15, lw=0)
    axes[0, 0].set_ylim(0, 1.02)
    what = "right" if found.labelled else "says as for the clean data"
    axes[0, 0].set_ylabel(what + (" (upper bound)" if found.params["attack"] is not None else ""), fontsize=9)
    if both:
        for m, (method, values) in enumerate(found.agreement.items()):
            mean = [(float(found.levels[k]), float(torch.nanmean(values[k]))) for k in range(len(found.names))]
            known = sorted((a, b) for a, b in mean if b == b)
            by_level = {a: [b for c, b in known if c == a] for a, _ in known}
            line_at = list(by_level)
            height = [sum(v) / len(v) for v in by_level.values()]
            tint = colour.CATEGORIES[m % len(colour.CATEGORIES)]
            axes[0, 1].plot(line_at, height, marker="o", ms=3, lw=1.2, color=tint, label=method)
        axes[0, 1].set_ylim(-0.05, 1.02)
        axes[0, 1].set_ylabel("likeness of maps to the clean ones", fontsize=9)
        axes[0, 1].legend(fontsize=7)
    for ax in axes.flat:
        ax.set_xlabel(_axis(found), fontsize=9)
        ax.tick_params(labelsize=8)
    axes[0, 0].legend(fontsize=7, ncols=2 if len(_kinds(found)) > 4 else 1)
    return Plot(fig, axes)


def _kinds(found: MeasuredRows) -> list[str]:
    return [name for name in dict.fromkeys(found.names) if name != "clean"] or ["clean"]


def _axis(found: MeasuredRows) -> str:
    return f"size ({found.params['norm']}, raw units)" if found.params["attack"] is not None else "severity"


def page(found: MeasuredRows, table: pd.DataFrame, title: str) -> str:
    """The text of the page."""
    from interp_plugins.viz.figure import data_uri, png_of_figure
    from interp_plugins.viz.page import cells
    from interp_plugins.viz.template import section, whole_page

    image = f'<img src="{data_uri(png_of_figure(curve(found).fig))}" alt="accuracy">'
    table = table.assign(level=[found.sized(k).removeprefix("at ").strip() or "0" for k in range(len(found.levels))])
    body = "".join(f"<tr>{cells('td', [_cell(v) for v in row])}</tr>" for row in table.itertuples(index=False))
    head = cells("th", [str(c).replace("_", " ") for c in table.columns])
    grid = f'<div class="scroll"><table><thead><tr>{head}</tr></thead>{body}</table></div>'
    notes = "".join(f"<p>{escape(note)}</p>" for note in found.notes)
    parts = [section("Accuracy", notes + image + grid), *_samples(found)]
    legend = [
        ("Accuracy", "with the 95 % interval for other samples like these (Clopper and Pearson)."),
        ("Turned", "of the samples that were right on the clean data, the share that are no longer."),
        ("Likeness", "Spearman's correlation of the sizes of a map with the clean one."),
    ]
    if found.params["attack"] is not None:
        legend.append(("Upper bound", "A better attack may turn more samples: this is no certificate."))
    return whole_page(
        title, f"{len(found)} sample{'s' * (len(found) != 1)}, {len(found.names)} conditions.", parts, legend
    )


def _samples(found: MeasuredRows) -> list[str]:
    """Sections: samples that were turned by the smallest changes, their maps, and pictures of corruptions."""
    from interp_plugins.viz.figure import data_uri, png_of_figure, png_of_pixels
    from interp_plugins.viz.page import figure, map_figure
    from interp_plugins.viz.pixels import photo_of
    from interp_plugins.viz.scale import ScaleRule
    from interp_plugins.viz.template import section

    parts = []
    if found.examples is not None and len(found.examples):
        few = found.examples[: min(_SHOWN, len(found.examples))]
        try:
            drawn = picture(few.inputs, few.perturbed, few.delta, few.spec, few.captions(), _SHOWN)
            content = f'<img src="{data_uri(png_of_figure(drawn.fig))}" alt="samples before and after">'
        except InputError:
            content = few.to_df().to_html(border=0)
        parts.append(section("Turned by the smallest changes", content))
    if found.maps is not None:
        rule, rows = ScaleRule(), []
        for i in range(min(_SHOWN, len(found.maps[0][0]))):
            pair = "".join(map_figure(exps[0], i, ["overlay"], rule, 448) for exps in found.maps)
            rows.append(f'<div class="pictures">{pair}</div>')
        parts.append(section("Their maps, before and after", "".join(rows)))
    if found.pictures:
        shown = []
        for label, x in found.pictures.items():
            png = png_of_pixels(photo_of(x[0], found.spec).rgb, 224)
            shown.append(figure(label, "", f'<img src="{data_uri(png)}" alt="{escape(label)}">'))
        parts.append(section("What they look like", f'<div class="pictures">{"".join(shown)}</div>'))
    return parts


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "–" if value != value else f"{value:.3g}"
