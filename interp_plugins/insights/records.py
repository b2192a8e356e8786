"""What the page gets: plain JSON, with maps as int8 numbers.

A map travels as one byte per element beside its limit: the root of |value| / limit with the value's sign, so that
maps whose largest values are rare (most gradient maps) keep their small ones: value = sign(b) * (b / 127)^2 * limit,
off by at most 0.8 % of the limit. Colour map, clipping and blending are the page's work.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.spec import InputSpec
from interp_plugins.viz import colour
from interp_plugins.viz.facts import baseline_text, params_text
from interp_plugins.viz.figure import data_uri
from interp_plugins.viz.medium import attribution_medium, input_medium, is_signed
from interp_plugins.viz.scale import Scale, finite
from interp_plugins.viz.titles import method_title, sample_text

SCHEMA = 1
_LONGEST = 448  # pixels of a picture's longer side
_MOST_BARS = 200  # columns or units drawn one by one
_NO_SCALE = Scale(0.0, False, False, "")


def json_number(value: Any) -> float | None:
    """A finite float, or None: JSON has no NaN."""
    if value is None:
        return None
    value = float(value)
    return value if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """A class name or target as JSON: text, number, bool or None."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return json_number(value) if isinstance(value, float) else str(value)


def quantised(values: np.ndarray) -> dict[str, Any]:
    """Numbers as int8 text beside their limit: value = sign(byte) * (byte / 127)^2 * limit.

    Raises:
        InputError: NaN or infinity among the values.
    """
    values = finite(values)
    limit = float(np.abs(values).max(initial=0.0))
    unit = np.sqrt(np.abs(values) / limit) if limit else np.zeros(values.shape)
    bytes_ = np.rint(127 * np.copysign(unit, values)).astype(np.int8)
    return {
        "shape": list(values.shape),
        "limit": limit,
        "data": base64.b64encode(np.ascontiguousarray(bytes_).tobytes()).decode("ascii"),
    }


def _at(values: Any, i: int) -> Any:
    return None if values is None else values[i]


def _number_at(values: Tensor | None, i: int) -> float | None:
    return None if values is None or values.ndim != 1 else json_number(values[i])


def input_record(exp: Explanation, i: int) -> dict[str, Any]:
    """The input of sample i: a picture, or nothing where the map's own record shows it (tokens, columns)."""
    if exp.spec.kind != "image" or exp.input.ndim != 4:
        return {"view": "none"}
    try:
        png = input_medium(exp).picture(exp, i, "original", _NO_SCALE, _LONGEST)
    except InputError as err:
        return {"view": "error", "error": str(err)}
    return {"view": "image", "src": data_uri(png)}


def by_input(exp: Explanation, names: Sequence[str] | None = None) -> list[Explanation]:
    """An explanation of several inputs as one per input, titled with the input's name and share of all |attribution|.

    Args:
        exp: the explanation; with one input it is returned as it is.
        names: a name per input; None: their numbers.
    """
    if not isinstance(exp.attributions, tuple) or len(exp.attributions) == 1:
        return [exp]
    inputs = exp.inputs if isinstance(exp.inputs, tuple) else (exp.inputs,) * len(exp.attributions)
    sizes = [float(a.detach().double().abs().sum()) for a in exp.attributions]
    total = sum(sizes) or 1.0
    parts = []
    for k, (a, x) in enumerate(zip(exp.attributions, inputs)):
        name = names[k] if names is not None and k < len(names) else f"input {k + 1}"
        spec = exp.spec if k == 0 else InputSpec.guess(x, vocab=exp.spec.vocab)
        title = f"{method_title(exp)}, {name} ({sizes[k] / total:.0%} of all)"
        base = exp.baselines[k] if isinstance(exp.baselines, tuple) and k < len(exp.baselines) else None
        tokens = exp.tokens if k == 0 else None
        parts.append(
            dataclasses.replace(exp, attributions=a, inputs=x, baselines=base, spec=spec, title=title, tokens=tokens)
        )
    return parts


def map_records(exps: Sequence[Explanation]) -> list[list[dict[str, Any]]]:
    """Every method's map of every sample: a list per sample."""
    exps = [part for exp in exps for part in by_input(exp)]
    signed = [is_signed(exp) for exp in exps]
    n = max((len(exp) for exp in exps), default=0)
    return [[map_record(exp, i, sign) for exp, sign in zip(exps, signed)] for i in range(n)]


def map_record(exp: Explanation, i: int, signed: bool | None = None) -> dict[str, Any]:
    """One method's map of sample i with its facts; `signed`: whether the method gave a negative value anywhere.

    Keys: `view` ("heatmap", "tokens", "bars" or "error"), the numbers of `quantised`, and the facts shown beside them.
    """
    facts = {
        "method": exp.method,
        "title": method_title(exp),
        "target": plain(_at(exp.target, i)),
        "targetText": str(_at(exp.target_label, i) if exp.target_label is not None else _at(exp.target, i)),
        "probability": _number_at(exp.probability, i),
        "score": _number_at(exp.score, i),
        "baselineScore": _number_at(exp.baseline_score, i),
        "completenessError": _number_at(exp.relative_delta, i),
        "baseline": baseline_text(exp, i),
        "params": params_text(exp.params),
        "layer": exp.layer,
        "seconds": json_number(exp.seconds),
        "passes": exp.meta.get("forward_passes"),
    }
    try:
        return {**facts, **_view(exp, i, is_signed(exp) if signed is None else signed)}
    except InputError as err:
        return {**facts, "view": "error", "error": str(err)}


def _view(exp: Explanation, i: int, signed: bool) -> dict[str, Any]:
    """The numbers, and how they are to be drawn."""
    medium = attribution_medium(exp)
    if medium.name == "image":
        values = medium.values(exp, i)
        return {"view": "heatmap", "signed": signed, **quantised(values)}
    values = exp.attribution[i].detach().double().cpu().numpy()
    tokens = _at(exp.tokens, i)
    if tokens is not None and values.shape[:1] == (len(tokens),):
        values = values.reshape(len(tokens), -1).sum(1)
        return {"view": "tokens", "tokens": [str(t) for t in tokens], "signed": True, **quantised(values)}
    flat = values.reshape(-1)
    names = exp.feature_names
    named = list(names) if names is not None and len(names) == flat.size else [str(k) for k in range(flat.size)]
    shown = np.sort(np.argsort(-np.abs(finite(flat)), kind="stable")[:_MOST_BARS])
    raw = exp.input[i].reshape(-1)
    texts = [f"{float(raw[k]):.4g}" for k in shown] if raw.numel() == flat.size else ["" for _ in shown]
    return {
        "view": "bars",
        "names": [str(named[k]) for k in shown],
        "texts": texts,
        "hidden": int(flat.size - len(shown)),
        "signed": True,
        **quantised(flat[shown]),
    }


def sample_record(
    exps: Sequence[Explanation], i: int, label: int | None, classes: Sequence[Any] | None
) -> dict[str, Any]:
    """What is known of sample i without any map: name, truth, prediction; the page filters and sorts by it.

    Args:
        exps: explanations of the sample.
        i: the sample's row.
        label: index of its true class, or None.
        classes: class names.
    """
    exp = exps[0]
    errors = [e for e in (_number_at(exp.relative_delta, i) for exp in exps) if e is not None]
    predicted = _at(exp.prediction, i)
    probability = _number_at(exp.probability, i) if predicted is not None and predicted == _at(exp.target, i) else None
    return {
        "name": sample_text(exp, i) or "",
        "label": label,
        "labelText": None if label is None else str(classes[label] if classes else label),
        "completenessError": max(errors, default=None),
        "models": [
            {
                "prediction": predicted,
                "predictionText": None if predicted is None else str(_at(exp.prediction_label, i)),
                "probability": probability,
                "correct": None if label is None or predicted is None else predicted == label,
                "loss": None if label is None or probability is None or predicted != label else -_log(probability),
                "top": [],
            }
        ],
    }


def _log(p: float) -> float:
    return math.log(max(p, 1e-30))


def palettes() -> dict[str, dict[str, str]]:
    """Colour tables of 256 RGB bytes each, by name: for signed values (from -1 to 1) and for strengths (0 to 1)."""
    from matplotlib import colormaps

    def table(cmap: Any) -> str:
        rgb = (np.asarray(cmap(np.linspace(0, 1, 256)))[:, :3] * 255).round().astype(np.uint8)
        return base64.b64encode(rgb.tobytes()).decode("ascii")

    signed = {
        "orange and blue": colour.DIVERGING,
        "red and blue": colormaps["RdBu_r"],
        "brown and teal": colormaps["BrBG_r"],
    }
    plain_ = {"purple": colour.SEQUENTIAL, "viridis": colormaps["viridis"], "magma": colormaps["magma"]}
    return {
        "signed": {name: table(cmap) for name, cmap in signed.items()},
        "unsigned": {name: table(cmap) for name, cmap in plain_.items()},
    }
