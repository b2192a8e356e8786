"""Tables of numbers as text, CSV and HTML, without scripts."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any


def short(value: float) -> str:
    """A number with three digits; "" for NaN."""
    return "" if math.isnan(value) else f"{value:.3g}"


def with_interval(mean: float, low: float, high: float) -> str:
    """A mean with its interval, as one cell: "0.41 [0.36, 0.46]"; the mean alone where there is no interval."""
    return short(mean) if math.isnan(low) else f"{short(mean)} [{short(low)},\u00a0{short(high)}]"


def grid(rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """The heads and the rows of records that all have the same keys."""
    return [list(rows[0]), *(list(row.values()) for row in rows)] if rows else [[]]


def as_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """Records as an HTML table; names may break behind an underscore."""
    shown = [[_cell(v) for v in row] for row in grid(rows)]
    cells = [
        "".join(f"<{tag}>{_breakable(v)}</{tag}>" for v in row) for row, tag in zip(shown, ["th"] + ["td"] * len(shown))
    ]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _breakable(text: str) -> str:
    return html.escape(text).replace("_", "_<wbr>")


def escaped(text: str) -> str:
    """A text as it may stand in HTML."""
    return html.escape(text)


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Records as aligned columns, numbers to the right."""
    table = grid(rows)
    shown = [[_cell(v) for v in row] for row in table]
    columns = range(len(table[0]))
    widths = [max(len(row[j]) for row in shown) for j in columns]
    right = [len(table) > 1 and all(_is_number(row[j]) for row in table[1:]) for j in columns]
    lines = (
        "  ".join(row[j].rjust(widths[j]) if right[j] else row[j].ljust(widths[j]) for j in columns) for row in shown
    )
    return "\n".join(line.rstrip() for line in lines)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV, numbers in full."""
    return "\n".join(",".join(_quoted(v) for v in row) for row in grid(rows)) + "\n"


def _cell(value: Any) -> str:
    return short(value) if isinstance(value, float) else "" if value is None else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, type(None)))


def _quoted(value: Any) -> str:
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text
