"""What the page gets: plain JSON, with maps as int8 numbers.

A map travels as one byte per element beside its limit: the root of |value| / limit with the value's sign, so that
maps whose largest values are rare (most gradient maps) keep their small ones: value = sign(b) * (b / 127)^2 * limit,
off by at most 0.8 % of the limit. Colour map, clipping and blending are the page's work. `static/wire.js` reads what is
made here and says the type of each record.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.text import legible
from interp_plugins.insights.outcomes import number
from interp_plugins.viz import colour
from interp_plugins.viz.captions import baseline_text, params_text
from interp_plugins.viz.figure import data_uri, new_figure, png_of_figure
from interp_plugins.viz.inputs import InputPart, apart
from interp_plugins.viz.renderer import attribution_renderer, input_renderer, is_signed, panel
from interp_plugins.viz.scale import Scale, ScaleRule, finite
from interp_plugins.viz.titles import completeness_text, method_title

if TYPE_CHECKING:
    from interp_plugins.insights.subject import Made

SCHEMA = 1
_LONGEST = 448  # pixels of a picture's longer side
_MOST_BARS = 200  # columns or units drawn one by one
_DRAWN = ("series", "sequence", "volume")  # these travel as pictures that Python draws
_NO_SCALE = Scale(0.0, False, False, "")


def as_json(value: Any) -> Any:
    """A message or record as every page can read it: JSON has no NaN, and a page no text that is not Unicode.

    Numbers that are not finite become None, and text `core.text.legible`.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, Mapping):
        return {legible(str(k)): as_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(v) for v in value]
    return as_json(value.item()) if isinstance(value, np.generic) else value


def plain(value: Any) -> Any:
    """A class name or target as JSON: text, number, bool or None."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return number(value) if isinstance(value, float) else str(value)


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
    return None if values is None or values.ndim != 1 else number(values[i])


def input_record(exp: Explanation, i: int) -> dict[str, Any]:
    """The input of sample i: a picture, its tokens, the values of its columns, or nothing where it has no view."""
    tokens = _at(exp.tokens, i)
    if tokens is not None:
        return {"view": "tokens", "tokens": [str(t) for t in tokens]}
    if exp.spec.kind == "tabular" and exp.input.ndim == 2:
        names, texts = column_names(exp, exp.input.shape[1]), column_texts(exp, i)
        return {"view": "values", "names": names[:_MOST_BARS], "texts": texts[:_MOST_BARS]}
    if input_renderer(exp).name not in ("image", *_DRAWN):
        return {"view": "none"}
    try:
        png = input_renderer(exp).picture(exp, i, "original", _NO_SCALE, _LONGEST)
    except InputError as err:
        return {"view": "error", "error": str(err)}
    return {"view": "image", "src": data_uri(png), "wide": input_renderer(exp).name in _DRAWN}


def made_records(made: Made, key: int, names: Sequence[str] | None, call: str) -> list[dict[str, Any]]:
    """The records of an explanation of one sample, one per input.

    Args:
        made: the explanation.
        key: its number among those of the sample.
        names: a name per input, or None.
        call: the call that made it, up to the samples: "explain(model, inputs[[3]]".
    """
    shared = {"key": key, "model": made.model, "curves": made.curves, "code": code(made.exp, call)}
    return [{**_part_record(made, part), **shared} for part in apart(made.exp, names)]


def _part_record(made: Made, part: InputPart) -> dict[str, Any]:
    """One input's record, titled with its name, and its share of the sum of |attribution| over all inputs."""
    record = map_record(part.exp, 0, made.signed)
    if not part.name:
        return {**record, "share": None}
    return {**record, "title": f"{record['title']}, {part.name}", "share": number(part.shares[0])}


def code(exp: Explanation, call: str) -> str:
    """The call that makes the explanation of one sample again, as far as its arguments can be written down."""
    own = {k: v for k, v in exp.params.items() if k != "baselines" and _is_literal(v)}
    parts = [call, f"methods={{{exp.method!r}: {own!r}}}"]
    if exp.target is not None and exp.target[0] is not None:
        parts.append(f"target={exp.target[0]!r}")
        # Of a model that says two classes with one number, it is the two names that make an index a class.
        if exp.spec.vocab is not None and len(exp.spec.vocab) == 2 and all(map(_is_literal, exp.spec.vocab)):
            parts.append(f"input_spec=InputSpec(vocab={tuple(exp.spec.vocab)!r})")
    used = exp.params.get("baselines")
    if isinstance(used, (str, int, float)) and used != "given":
        parts.append(f"baselines={used!r}")
    if exp.layer is not None:
        parts.append(f"layer={exp.layer!r}")
    return ", ".join([*parts, f"seed={exp.seed!r})"]) if exp.seed else f"{', '.join(parts)})"


def _is_literal(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_literal, value))
    return value is None or isinstance(value, (bool, int, float, str))


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
        "completenessText": completeness_text(exp, i),
        "baseline": baseline_text(exp, i),
        "params": params_text(exp.params),
        "layer": exp.layer,
        "seconds": number(exp.seconds),
        "passes": exp.meta.get("forward_passes"),
    }
    try:
        return {**facts, **_view(exp, i, is_signed(exp) if signed is None else signed)}
    except InputError as err:
        return {**facts, "view": "error", "error": str(err)}


def _view(exp: Explanation, i: int, signed: bool) -> dict[str, Any]:
    """The numbers, and how they are to be drawn."""
    renderer = attribution_renderer(exp)
    if renderer.name == "image":
        values = renderer.values(exp, i)
        return {"view": "heatmap", "signed": signed, **quantised(values)}
    values = exp.attribution[i].detach().double().cpu().numpy()
    if renderer.name in _DRAWN:
        width, height = renderer.size(exp, renderer.kinds[0])
        fig = new_figure(width + 0.6, height + 0.4, dpi=150)  # room for the colour bar and a line of text
        panel(fig.add_subplot(), exp, i, renderer.kinds[0], ScaleRule(), label=False, signed=signed)
        return {"view": "picture", "src": data_uri(png_of_figure(fig))}
    tokens = _at(exp.tokens, i)
    if tokens is not None and values.shape[:1] == (len(tokens),):
        values = values.reshape(len(tokens), -1).sum(1)
        return {"view": "tokens", "tokens": [str(t) for t in tokens], "signed": signed, **quantised(values)}
    flat = values.reshape(-1)
    shown = np.sort(np.argsort(-np.abs(finite(flat)), kind="stable")[:_MOST_BARS])
    names, texts = column_names(exp, flat.size), column_texts(exp, i)
    return {
        "view": "bars",
        "names": [names[k] for k in shown],
        "texts": [texts[k] for k in shown] if len(texts) == flat.size else ["" for _ in shown],
        "hidden": int(flat.size - len(shown)),
        "signed": signed,
        **quantised(flat[shown]),
    }


def column_names(exp: Explanation, count: int) -> list[str]:
    """The names of `count` features, or their numbers."""
    names = exp.feature_names
    return [str(v) for v in (names if names is not None and len(names) == count else range(count))]


def column_texts(exp: Explanation, i: int) -> list[str]:
    """What people read in the columns of sample i: the values of a table row, else the input's numbers."""
    values = _at(exp.values, i)
    if values is not None:
        return [f"{v:.6g}" if isinstance(v, float) else str(v) for v in values]
    return [f"{v:.4g}" for v in exp.input[i].reshape(-1).tolist()]


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
