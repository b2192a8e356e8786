"""Asking a run's table: conditions on columns, and the summary of a run or of groups of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interp_plugins.core.errors import unknown
from interp_plugins.store import table_parts
from interp_plugins.store.errors import need
from interp_plugins.store.layout import Layout

if TYPE_CHECKING:
    import pandas as pd


def condition(layout: Layout, name: str, wanted: Any) -> Any:
    """A column and what is wanted of it, as a pyarrow expression; see `ExplanationStore.where`.

    Raises:
        UnknownNameError: no such column, with the nearest names.
    """
    field = need("pyarrow.compute").field
    known = table_parts.columns(layout)
    if name == "correct":
        equal = field("prediction") == field("label")
        return equal if wanted else ~equal
    if name not in known:
        raise unknown("column", name, [*known, "correct"])
    if name in ("label", "prediction") or name.startswith("target"):
        name, wanted = _class_column(name, wanted)
    if isinstance(wanted, tuple) and len(wanted) == 2 and known[name] != "string":
        low, high = wanted
        if low is None and high is None:
            return field(name).is_valid()
        above = field(name) >= low if low is not None else None
        below = field(name) <= high if high is not None else None
        return above & below if above is not None and below is not None else (below if above is None else above)
    if isinstance(wanted, (list, set, frozenset, tuple, np.ndarray, range)):
        return field(name).isin(list(wanted))
    return field(name).is_null() if wanted is None else field(name) == wanted


def _class_column(name: str, wanted: Any) -> tuple[str, Any]:
    """The column of names where classes are asked for by name."""
    many = wanted if isinstance(wanted, (list, set, frozenset, tuple, np.ndarray)) else [wanted]
    names = {"label": "label_name", "prediction": "prediction_label"}
    if name.startswith("target") and not name.startswith("target_label"):
        names[name] = name.replace("target", "target_label", 1)
    return (names.get(name, name) if len(many) and all(isinstance(v, str) for v in many) else name), wanted


def summary(frame: pd.DataFrame, methods: Sequence[str], by: str | None) -> pd.DataFrame:
    """A row per group; see `ExplanationStore.summary`.

    Args:
        frame: the table; columns are added to it.
        methods: the names of the maps.
        by: the column that makes the groups, or None.

    Raises:
        UnknownNameError: no such column, with the nearest names.
    """
    known = [*frame.columns, "correct"]
    if by is not None and by not in known:
        raise unknown("column", by, known)
    frame["correct"] = (frame["prediction"] == frame["label"]).astype(float)
    frame.loc[frame["prediction"].isna() | frame["label"].isna(), "correct"] = np.nan
    frame["failed"] = (frame["status"] != table_parts.OK).astype(int)
    named = {"label": "label_name", "prediction": "prediction_label", "target": "target_label"}.get(by or "", by)
    key = named if named in frame.columns and frame[named].notna().any() else by
    made = {
        "samples": ("sample", "count"),
        "failed": ("failed", "sum"),
        "accuracy": ("correct", "mean"),
        "probability": ("probability", "mean"),
        "score": ("score", "mean"),
    }
    for method in methods:
        made[f"{method}.completeness_error"] = (f"{method}.relative_delta", "median")
        for name in ("mean_abs", "seconds", "forward_passes"):
            made[f"{method}.{name}"] = (f"{method}.{name}", "mean")
    if key is None:
        whole = frame.assign(all="all").groupby("all").agg(**made)
        return whole.reset_index(drop=True)
    return frame.groupby(key, dropna=False).agg(**made)
