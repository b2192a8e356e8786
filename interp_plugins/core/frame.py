"""Explanations as a table (pandas)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from interp_plugins.core.fields import LISTED, TENSORS, names_of

if TYPE_CHECKING:
    import pandas as pd


def frame(items: Sequence[Any]) -> pd.DataFrame:
    """A row per method and sample of `Explanation`s: a column per feature for tables; for texts a row per token."""
    try:
        import pandas as pd

    except ModuleNotFoundError as err:
        raise ImportError("Tables need pandas: pip install 'interp-plugins[store]'.") from err
    rows = []
    for exp in items:
        a = exp.attribution
        text = exp.spec.kind == "text" and exp.tokens is not None and a.ndim == 2
        wide = a.ndim == 2 and exp.layer is None and not text
        names = exp.feature_names or tuple(f"feature_{j}" for j in range(a.shape[1] if wide else 0))
        for i in range(len(exp)):
            row: dict[str, Any] = {"method": exp.method, "sample": exp.names[i] if exp.names else i}
            for key in names_of(exp, LISTED, column=True):
                value = getattr(exp, key)
                row[key] = None if value is None else value[i]
            for key in names_of(exp, TENSORS, column=True):
                value = getattr(exp, key)
                row[key] = None if value is None else float(value[i])
            known = exp.meta.get("per_sample", {})
            row.update({key: known[key][i] for key in ("label", "loss") if key in known})
            row["relative_delta"] = exp.relative_error(i)
            if text and exp.tokens is not None:
                scores = zip(exp.tokens[i], a[i].tolist())  # padding has no token
                rows += [{**row, "position": j, "token": t, "attribution": v} for j, (t, v) in enumerate(scores)]
                continue
            if wide:
                row.update({str(n): float(v) for n, v in zip(names, a[i], strict=True)})
            else:
                row.update(sum=float(a[i].sum()), mean_abs=float(a[i].abs().mean()))
            rows.append(row)
    return pd.DataFrame(rows)
