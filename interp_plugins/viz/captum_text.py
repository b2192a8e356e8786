"""Words coloured by their attributions, as an HTML table (Captum's `visualize_text`); all text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from matplotlib.colors import to_hex

from interp_plugins.core.errors import InputError
from interp_plugins.viz import colour


class VisualizationDataRecord:
    """What `visualize_text` shows of one text.

    Args:
        word_attributions: one number per word, full colour at -1 and 1.
        pred_prob: probability of the predicted class.
        pred_class: predicted class.
        true_class: true class.
        attr_class: class that is explained.
        attr_score: sum of the attributions.
        raw_input_ids: the words.
        convergence_score: the convergence delta.
    """

    __slots__ = (
        "attr_class",
        "attr_score",
        "convergence_score",
        "pred_class",
        "pred_prob",
        "raw_input_ids",
        "true_class",
        "word_attributions",
    )

    def __init__(
        self,
        word_attributions: Any,
        pred_prob: float,
        pred_class: Any,
        true_class: Any,
        attr_class: Any,
        attr_score: float,
        raw_input_ids: list[str],
        convergence_score: float,
    ):
        self.word_attributions, self.raw_input_ids = word_attributions, raw_input_ids
        self.pred_prob, self.pred_class, self.true_class = pred_prob, pred_class, true_class
        self.attr_class, self.attr_score, self.convergence_score = attr_class, attr_score, convergence_score


def _background(value: float) -> str:
    return to_hex(colour.DIVERGING((max(-1.0, min(1.0, value)) + 1) / 2))


def format_classname(classname: Any) -> str:
    """A table cell with a class name."""
    return f'<td style="padding-right:2em"><b>{escape(str(classname))}</b></td>'


def format_special_tokens(token: str) -> str:
    """Special tokens, `<s>`, as `#s`."""
    return "#" + token.strip("<>") if token.startswith("<") and token.endswith(">") else token


def format_tooltip(item: str, text: str) -> str:
    """An item that shows a text under the pointer."""
    return f'<span title="{escape(text)}">{escape(item)}</span>'


def format_word_importances(words: Sequence[str], importances: Any) -> str:
    """A table cell with coloured words.

    Args:
        words: the words.
        importances: at least as many numbers, full colour at -1 and 1.

    Raises:
        InputError: fewer numbers than words, or more than one dimension.
    """
    if importances is None or len(importances) == 0:
        return "<td></td>"
    if len(getattr(importances, "shape", (0,))) != 1:
        raise InputError(f"Expected 1D array, got {tuple(importances.shape)}.")
    if len(words) > len(importances):
        raise InputError(f"{len(words)} words came with {len(importances)} importances; give one per word.")
    marks = []
    for word, value in zip(words, importances):
        number = float(value)
        ink = "#ffffff" if abs(number) > 0.75 else colour.INK
        marks.append(
            f'<mark style="background-color:{_background(number)};color:{ink};line-height:1.75" '
            f'title="{number:.4g}"> {escape(format_special_tokens(str(word)))} </mark>'
        )
    return "<td>" + "".join(marks) + "</td>"


def visualize_text(datarecords: Iterable[VisualizationDataRecord], legend: bool = True) -> Any:
    """Show a table of texts in a notebook; returns IPython's HTML object.

    Args:
        datarecords: one per text.
        legend: say what the colours mean.

    Raises:
        ImportError: IPython is missing.
    """
    try:
        from IPython.display import HTML, display
    except ModuleNotFoundError as err:
        raise ImportError("IPython must be available to visualize text: pip install ipython.") from err
    titles = ("True Label", "Predicted Label", "Attribution Label", "Attribution Score", "Word Importance")
    rows = ["<tr>" + "".join(f"<th>{t}</th>" for t in titles) + "</tr>"]
    for r in datarecords:
        cells = (r.true_class, f"{r.pred_class} ({r.pred_prob:.2f})", r.attr_class, f"{r.attr_score:.2f}")
        words = format_word_importances(r.raw_input_ids, r.word_attributions)
        rows.append("<tr>" + "".join(map(format_classname, cells)) + words + "</tr>")
    keys = "".join(
        f'<span style="display:inline-block;width:10px;height:10px;border:1px solid;background-color:{_background(v)}">'
        f"</span> {name} "
        for v, name in ((-1, "Negative"), (0, "Neutral"), (1, "Positive"))
    )
    head = f"<div><b>Legend:</b> {keys}</div>" if legend else ""
    html = HTML(f'{head}<table style="width:100%">{"".join(rows)}</table>')
    display(html)
    return html
