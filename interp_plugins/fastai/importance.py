"""`learn.attribution_importance`: which columns of a table, or variables and steps of a series, matter on many rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner
from fastcore.basics import patch
from fastcore.meta import delegates

from interp_plugins.api.explain import DEFAULT_METHOD
from interp_plugins.attr.shared.names import Methods
from interp_plugins.core.errors import InputError, concise, unknown
from interp_plugins.core.explanation import Explanation
from interp_plugins.fastai import learner as _learner  # noqa: F401 - Learner.explain, whose arguments are passed on

AGGREGATES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean_abs": lambda a: np.abs(a).mean(0),
    "median_abs": lambda a: np.median(np.abs(a), 0),
    "max_abs": lambda a: np.abs(a).max(0),
    "mean": lambda a: a.mean(0),
}


@patch
@delegates(Learner.explain, keep=True, but=["item", "dl", "ds_idx", "methods", "self", "params"])
def attribution_importance(
    self: Learner,
    df_or_dl: Any = None,  # a DataFrame of raw rows, or a loader; None: the validation set
    methods: Methods = DEFAULT_METHOD,  # one method or several
    agg: Any = "mean_abs",  # "mean_abs", "median_abs", "max_abs", "mean" (signed), or a function (N, F) -> (F,)
    **kwargs: Any,
) -> pd.DataFrame:
    """The importance of each column: its attributions summed up over rows, the largest first.

    Of series it is that of each variable at each step: `importance.pivot(index="feature", columns="step",
    values="importance")` is the matrix of variables and steps, `importance.groupby("feature")["importance"].sum()` what
    each variable counts in all.

    It says what this model's scores rest on, not what causes the outcome, and two columns that say the same share
    their importance. By default each row's own predicted class is explained; give `target=` to ask for one class, and
    `agg="mean"` with it to see in which direction a column works on average.

    Returns:
        Columns `feature` (and `step` for series), `importance` (in units of the model's score), `share` (of the sum of
        all |importance|), and with several explanations `method` and `target` in front.

    Raises:
        InputError: attributions that are not one value per row and column, or per variable and step.
        UnknownNameError: an unknown `agg`.
    """
    with concise():
        if not callable(agg) and agg not in AGGREGATES:
            raise unknown("agg", agg, AGGREGATES, "A function of the attributions (N, F) works as well.")
        reduce = agg if callable(agg) else AGGREGATES[agg]
        if df_or_dl is None:
            source: dict[str, Any] = {"ds_idx": 1}
        else:
            source = {"item" if isinstance(df_or_dl, pd.DataFrame) else "dl": df_or_dl}
        exps = self.explain(methods=methods, **source, **kwargs)
        tables = [_table(exp, reduce) for exp in exps]
        if len(tables) > 1:
            for table, exp in zip(tables, exps):
                table.insert(0, "method", exp.method)
                table.insert(1, "target", _target(exp))
        return pd.concat(tables, ignore_index=True)


def _table(exp: Explanation, reduce: Callable[[np.ndarray], Any]) -> pd.DataFrame:
    parts = exp.attributions if isinstance(exp.attributions, tuple) else (exp.attributions,)  # categories, numbers
    a = torch.cat(parts, 1) if all(part.ndim == 2 for part in parts) else parts[0]
    series = a.ndim == 3 and len(parts) == 1 and a.shape == exp.input.shape and bool(exp.spec.places(3))
    if (a.ndim != 2 and not series) or exp.layer is not None:
        raise InputError(
            f"attribution_importance() needs one attribution per row and column (N, F), or per variable and step of "
            f"series, got {tuple(a.shape)}{f' at {exp.layer}' if exp.layer else ''}. Other data: "
            "learn.explain(...).to_df()."
        )
    if series and exp.spec.channel_axis(3) == 2:
        a = a.transpose(1, 2)  # variables, then steps
    names = [str(n) for n in exp.feature_names or ()]
    if len(names) != a.shape[1]:
        names = [f"{'channel' if series else 'feature'}_{j}" for j in range(a.shape[1])]
    flat = a.reshape(len(a), -1)
    importance = np.asarray(reduce(flat.double().numpy()), dtype=float)
    if importance.shape != (flat.shape[1],):
        raise InputError(
            f"agg gave an array of shape {importance.shape} for {flat.shape[1]} columns; expected one each."
        )
    steps = a.shape[2] if series else 1
    columns: dict[str, Any] = {"feature": np.repeat(np.array(names, dtype=object), steps)}
    if series:
        columns["step"] = np.tile(np.arange(steps), a.shape[1])
    total = np.abs(importance).sum()
    table = pd.DataFrame({**columns, "importance": importance, "share": np.abs(importance) / (total or 1.0)})
    return table.sort_values("importance", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def _target(exp: Explanation) -> str:
    labels = dict.fromkeys(str(label) for label in exp.target_label or ())
    return next(iter(labels)) if len(labels) == 1 else "predicted"
