"""Explanations on disk (one safetensors file, JSON metadata, no pickle) and as a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.metadata import from_json, to_json
from interp_plugins.core.spec import InputSpec

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
_TENSORS = (
    "attributions",
    "inputs",
    "baselines",
    "probability",
    "region",
    "score",
    "baseline_score",
    "convergence_delta",
)


def save(items: Sequence[Explanation], path: str | Path) -> Path:
    """Write explanations to one safetensors file, whole or not at all (temporary name, then rename)."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    records = []
    for i, exp in enumerate(items):
        layout: dict[str, int | None] = {}
        record: dict[str, Any] = {}
        for f in dataclasses.fields(exp):
            value = getattr(exp, f.name)
            if f.name in _TENSORS:
                if value is None:
                    continue
                many = value if isinstance(value, tuple) else (value,)
                layout[f.name] = len(many) if isinstance(value, tuple) else None
                for j, t in enumerate(many):
                    tensors[f"{i}/{f.name}/{j}"] = t.detach().clone().contiguous()
            elif f.name == "spec":
                record["spec"] = to_json(dataclasses.asdict(value))
            else:
                record[f.name] = to_json(dict(value) if f.name in ("params", "meta") else value)
        records.append({"fields": record, "layout": layout})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        save_file(tensors, part, metadata={"interp_plugins": json.dumps({"format": FORMAT, "items": records})})
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def load(path: str | Path) -> list[Explanation]:
    """Read what `save` wrote. Raises FileNotFoundError, or InputError for another kind of file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No saved explanations at {path}. Write some with Explanation.save(path).")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("interp_plugins", "null"))
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, json.JSONDecodeError) as err:
        raise InputError(f"{path} is not a file written by Explanation.save ({err}).") from err
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path} is a safetensors file, but not one written by this version's Explanation.save.")
    out = []
    for i, record in enumerate(header["items"]):
        fields = {k: from_json(v) for k, v in record["fields"].items()}
        fields["spec"] = InputSpec(**fields["spec"])
        for name, count in record["layout"].items():
            many = tuple(tensors[f"{i}/{name}/{j}"] for j in range(count or 1))
            fields[name] = many[0] if count is None else many
        out.append(Explanation(**fields))
    return out


def to_df(items: Sequence[Explanation]) -> pd.DataFrame:
    """A row per method and sample, for (N, F) attributions with a column per feature; for texts a row per token."""
    try:
        import pandas as pd
    except ModuleNotFoundError as err:
        raise ImportError("Tables need pandas: pip install pandas.") from err
    rows = []
    for exp in items:
        a = exp.attribution
        text = exp.spec.kind == "text" and exp.tokens is not None and a.ndim == 2
        wide = a.ndim == 2 and exp.layer is None and not text
        names = exp.feature_names or tuple(f"feature_{j}" for j in range(a.shape[1] if wide else 0))
        for i in range(len(exp)):
            row: dict[str, Any] = {"method": exp.method, "sample": exp.names[i] if exp.names else i}
            for key in ("target", "target_label", "prediction", "prediction_label"):
                value = getattr(exp, key)
                row[key] = None if value is None else value[i]
            for key in ("probability", "score", "baseline_score", "convergence_delta", "relative_delta"):
                value = getattr(exp, key)
                row[key] = None if value is None else float(value[i])
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
