"""The facts of an explanation as short texts, one row per sample and method, for tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from interp_plugins.core.explanation import Explanation
from interp_plugins.viz.titles import (
    completeness_text,
    method_title,
    number,
    prediction_text,
    sample_text,
    shorten,
    target_text,
)

COLUMNS = (
    "Method",
    "Target",
    "Prediction",
    "Probability",
    "Score",
    "Completeness error",
    "Baseline",
    "Seconds",
    "Parameters",
)
NONE = "–"


def row(exp: Explanation, i: int) -> dict[str, str]:
    """The facts of sample i under `COLUMNS`; a dash where something is not known."""
    texts = (
        method_title(exp),
        target_text(exp, i),
        prediction_text(exp, i),
        decimal(number(exp.probability, i)),
        decimal(number(exp.score, i)),
        completeness_text(exp, i),
        baseline_text(exp, i),
        seconds_text(exp),
        params_text(exp.params),
    )
    return {name: text or NONE for name, text in zip(COLUMNS, texts, strict=True)}


def sample_heading(exp: Explanation, i: int, total: int) -> str:
    """The name of sample i, or its number."""
    name = sample_text(exp, i)
    return f"Sample {i + 1} of {total}" + (f": {name}" if name else "")


def decimal(value: float | None) -> str:
    """A number in three digits; "" for None."""
    return "" if value is None else f"{value:.3g}"


def seconds_text(exp: Explanation) -> str:
    """Seconds of the whole batch, and how many samples it had."""
    if exp.seconds is None:
        return ""
    return f"{exp.seconds:.2g}" + (f" for {len(exp)} samples" if len(exp) > 1 else "")


def params_text(params: Mapping[str, Any]) -> str:
    """Parameters as "name=value, ..."; tensors by their shape."""
    return ", ".join(f"{name}={_value(value)}" for name, value in params.items())


def _value(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__}{tuple(value.shape)}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple | list):
        return shorten(f"({', '.join(_value(entry) for entry in value)})", 60)
    return shorten(value, 60)


def baseline_text(exp: Explanation, i: int) -> str:
    """The baseline of sample i in words: what "absent" meant to the method."""
    if exp.baselines is None:
        return ""
    tensors = exp.baselines if isinstance(exp.baselines, tuple) else (exp.baselines,)
    first = tensors[0]
    base = (first[i % first.shape[0]] if first.ndim else first).detach().double()
    lowest, highest = float(base.min()), float(base.max())
    if lowest == highest == 0:
        text = "0 (model units)"
    elif lowest == highest:
        text = f"{lowest:.3g} (model units)"
    else:
        text = _raw_constant(exp, base) or f"{lowest:.3g} to {highest:.3g} (model units)"
    return text + (f", and {len(tensors) - 1} more inputs" if len(tensors) > 1 else "")


def _raw_constant(exp: Explanation, base: Tensor) -> str:
    """The baseline's value in raw units if it is one value there ("black" for the smallest), else ""."""
    if not exp.spec.normalised or base.shape != exp.input.shape[1:]:
        return ""
    raw = exp.spec.denormalise(base[None])
    lowest, highest = float(raw.min()), float(raw.max())
    if highest - lowest > 1e-5 * max(1.0, abs(highest)):
        return ""
    black = exp.spec.kind == "image" and abs(lowest - exp.spec.value_range[0]) < 1e-5
    return "black" if black else f"{lowest:.3g} (raw units)"


_LEGEND = {
    "signed": (
        "Orange and blue",
        "Orange parts of the input raised the explained score, blue parts lowered it.",
    ),
    "unsigned": (
        "Purple",
        "These values are never negative: they say how strong an influence is, not its direction (squared "
        "methods such as smoothgrad_sq), or leave out all that lowered the score (methods that keep positive "
        "parts only).",
    ),
    "scale": (
        "Scale",
        "Each picture has a scale of its own, in attribution units. The same colour or length in two pictures "
        "is not the same attribution.",
    ),
    "image": ("One value per pixel", "Colour channels are added up; opposite signs in one pixel cancel."),
    "complete": (
        "Completeness error",
        "|sum of attributions − (score − score of the baseline)|, relative to that difference. Near 0 % the "
        "map accounts for the whole score. With a large error it should not be read as shares of the score.",
    ),
    "baseline": (
        "Baseline",
        "Such a map says what matters in comparison with the baseline. What looks like the baseline, a black "
        "object before a black baseline say, gets no attribution.",
    ),
    "reading": (
        "Reading",
        "A map shows what this model reacts to. It does not show that the model is right, nor why.",
    ),
}


def legend(*, signed: bool, unsigned: bool, image: bool, complete: bool, baseline: bool) -> list[tuple[str, str]]:
    """What is seen and what could mislead, as (heading, sentence) pairs for what a page holds."""
    holds = {
        "signed": signed,
        "unsigned": unsigned,
        "image": image,
        "complete": complete,
        "baseline": baseline,
    }
    return [text for name, text in _LEGEND.items() if holds.get(name, True)]
