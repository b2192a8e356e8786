"""Maps before and after a change that kept the prediction: a picture and a page."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import Any

from interp_plugins.core.explanation import Explanation
from interp_plugins.robust.explained_rows import ExplainedRows

_LEGEND = [
    (
        "Likeness",
        "1: the same map. Random mean and worst: over random changes; attacked: the worst that was found. Changes that "
        "did not keep the predicted class and the explained score do not count.",
    ),
    (
        "Attacked",
        "An upper bound: a better attack may find less. Methods attacked by search were attacked more weakly than "
        "those by gradient, but each has met the changes that turned the others.",
    ),
    ("Holds", "The attacked likeness is at least a half in nine of ten samples. No certificate."),
]


def picture(found: ExplainedRows, n: int) -> Any:
    """A row per sample and method: input, map, changed input, map."""
    import numpy as np

    from interp_plugins.viz import colour
    from interp_plugins.viz.figure import Plot, new_figure
    from interp_plugins.viz.renderer import is_signed, panel
    from interp_plugins.viz.scale import ScaleRule

    many = len(found.methods)
    fig = new_figure(10.4, 2.75 * n * many)
    axes = np.atleast_2d(fig.subplots(n * many, 4, squeeze=False))
    rule = ScaleRule()
    for line, ax in enumerate(axes):
        i, m = divmod(line, many)
        pair = (found.before[m], _with_inputs(found, m))
        signed = any(is_signed(one) for one in pair)
        for k, one in enumerate(pair):
            panel(ax[2 * k], one, i, "original", rule)
            panel(ax[2 * k + 1], one, i, "overlay", rule, label=False, signed=signed)
            ax[2 * k].set_xlabel(_said(one, i), fontsize=8, color=colour.INK)
        ax[0].set_title("input" if line == 0 else "", fontsize=9, color=colour.INK)
        ax[1].set_title(_titles(found)[m], fontsize=9, color=colour.INK)
        ax[2].set_title(f"changed by {_size(found)}", fontsize=9, color=colour.INK)
        ax[3].set_title(_likeness(found, m, i), fontsize=9, color=colour.INK)
        ax[3].set_xlabel(f"by chance {_number(found.random_worst[m, i])} at worst", fontsize=8, color=colour.FAINT_INK)
    return Plot(fig, axes)


def page(found: ExplainedRows, n: int, title: str) -> str:
    """The text of the page."""
    from interp_plugins.viz.page import cells, map_figure, original_figure
    from interp_plugins.viz.scale import ScaleRule
    from interp_plugins.viz.template import section, whole_page

    p, rule = found.params, ScaleRule()
    table = found.summary()
    drawn = (
        {"wanted_before": "Wanted map before", "wanted_after": "and after"} if found.wanted_after is not None else {}
    )
    named = ["Random mean", "Random worst", "Attacked", *drawn.values()]
    head = cells("th", ["Method", *named, "Samples that hold", "Attacked by"])
    rows = ""
    for r in table.to_dict("records"):
        numbers = [_number(r[c]) for c in (*_COLUMNS, *drawn)]
        rows += f"<tr>{cells('td', [r['method'], *numbers, format(r['held'], '.0%'), r['how']])}</tr>"
    said = f"<p>{escape(_verdict(found))}</p>" + f'<div class="scroll"><table><thead><tr>{head}</tr></thead>{rows}'
    parts = [section("Which maps hold", said + "</table></div>")]
    for i in range(n):
        figures = []
        for m in range(len(found.methods)):
            after = _with_inputs(found, m)
            pair = original_figure(found.before[m], i, 448) + map_figure(found.before[m], i, ["overlay"], rule, 448)
            pair += original_figure(after, i, 448, "Changed input") + map_figure(after, i, ["overlay"], rule, 448)
            note = f"{_titles(found)[m]}: {_likeness(found, m, i)}, by chance {_number(found.random_worst[m, i])}"
            row = f'<div class="pictures" style="grid-template-columns: repeat(4, 1fr)">{pair}</div>'
            figures.append(f"<p>{escape(note)}</p>{row}")
        parts.append(section(f"Sample {i}", "".join(figures)))
    many = "1 sample" if len(found) == 1 else f"{len(found)} samples"
    lead = (
        f"{many}, each changed by at most {_size(found)}; the predicted class stays, and the score within "
        f"{p['keep']:.0%}. Likeness of maps: {p['similarity']}."
    )
    return whole_page(title, lead, parts, _LEGEND)


_COLUMNS = ("random_mean", "random_worst", "attacked")


def _verdict(found: ExplainedRows) -> str:
    holding = found.holding
    if not holding:
        return "None of these maps holds: each can be changed beyond recognition while the prediction stays."
    return f"{', '.join(holding)} held against everything that was tried."


def _with_inputs(found: ExplainedRows, m: int) -> Explanation:
    """The maps of a method at its worst, with the names of the samples."""
    return replace(found.after[m], names=found.before[m].names)


def _titles(found: ExplainedRows) -> list[str]:
    """The methods' names for people; their labels where two have the same."""
    titles = [one.title or label for one, label in zip(found.before, found.methods, strict=True)]
    return titles if len(set(titles)) == len(titles) else list(found.methods)


def _said(exp: Explanation, i: int) -> str:
    from interp_plugins.viz.titles import with_probability

    label = exp.prediction_label[i] if exp.prediction_label is not None else None
    if label is None:
        return "" if exp.score is None else f"score {float(exp.score[i]):.3g}"
    sure = exp.target_label is not None and exp.target_label[i] == label
    probability = float(exp.probability[i]) if sure and exp.probability is not None else None
    return f"says {with_probability(str(label), probability)}"


def _size(found: ExplainedRows) -> str:
    eps = found.params["eps"]
    levels = eps * 255
    whole = found.spec.kind == "image" and abs(levels - round(levels)) < 1e-6 and round(levels) > 0
    return f"{round(levels)}/255 {found.params['norm']}" if whole else f"{eps:.3g} {found.params['norm']}"


def _likeness(found: ExplainedRows, m: int, i: int) -> str:
    value = float(found.attacked[m, i])
    if value != value:
        return "no change was kept"
    if found.wanted_before is not None and found.wanted_after is not None:
        way = f"{_number(found.wanted_before[m, i])} → {_number(found.wanted_after[m, i])}"
        return f"likeness {_number(value)}, wanted {way}"
    return f"likeness {_number(value)} ({'attack' if found.by[m][i] != 'random' else 'at random'})"


def _number(value: Any) -> str:
    return "–" if float(value) != float(value) else f"{float(value):.2f}".replace("-", "−")
