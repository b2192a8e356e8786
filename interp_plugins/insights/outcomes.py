"""What a model says of a sample, and whether that is true: the facts that the page filters and sorts by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.prediction import Prediction
from interp_plugins.core.spec import InputSpec

TOP = 5  # classes offered per sample
_NOTHING: dict[str, Any] = {
    "predictions": None,
    "predictionText": None,
    "probability": None,
    "correct": None,
    "loss": None,
    "top": [],
}


@dataclass(frozen=True)
class Truth:
    """The ground truth of a sample.

    Attributes:
        classes: indices of its class, or of its labels; None where it is no class.
        value: the true value of a regression, or None.
        text: in words.
    """

    classes: tuple[int, ...] | None
    value: float | None
    text: str

    @classmethod
    def of(cls, given: Any, spec: InputSpec) -> Truth | None:
        """From an index, a value (float), several indices, a 0-d tensor or a row of 0 and 1; None: unknown."""
        if isinstance(given, Tensor):
            if given.ndim and given.numel() > 1:
                given = tuple(given.reshape(-1).nonzero().flatten().tolist())
            else:
                given = given.item()
        if given is None:
            return None
        if isinstance(given, float):
            return cls(None, given, f"{given:.4g}")
        classes = tuple(int(c) for c in given) if isinstance(given, (tuple, list, set)) else (int(given),)
        return cls(classes, None, ", ".join(str(spec.label(c)) for c in classes) or "no label")


def true_of(truth: Truth | None, count: int | None = None) -> tuple[int, ...] | None:
    """The true classes, 0 and 1 of a binary loss among them; None without, or outside so many classes."""
    if truth is None:
        return None
    classes = (int(truth.value),) if truth.classes is None and truth.value in (0.0, 1.0) else truth.classes
    outside = classes is None or any(c < 0 or (count is not None and c >= count) for c in classes)
    return None if outside else classes


def number(value: Any) -> float | None:
    """A finite float, or None: JSON has no NaN."""
    if value is None:
        return None
    value = float(value)
    return value if math.isfinite(value) else None


def outcome(prediction: Prediction | str, i: int, truth: Truth | None, spec: InputSpec) -> dict[str, Any]:
    """Prediction, probability, loss and the likeliest classes of row i, as JSON; a text says why there are none.

    The loss is the cross entropy of the true class, the mean binary cross entropy of several labels, or the squared
    error of a regression; `correct` compares classes, or sets of labels.
    """
    if isinstance(prediction, str):
        return {**_NOTHING, "predictionText": f"no prediction: {prediction.partition(' (')[0]}"}
    if prediction.classes is None:
        return _of_values(prediction, i, truth)
    p = prediction.probabilities
    row = p[i].detach().float().cpu() if p is not None and p.ndim == 2 else None
    scores = row if row is not None else prediction.output[i].detach().float().cpu()
    order = scores.argsort(descending=True)[:TOP].tolist()
    several = prediction.several[i] if prediction.several is not None else None
    said = several if several is not None else (prediction.classes[i],)
    true = true_of(truth, len(scores))
    return {
        "predictions": list(said),
        "predictionText": ", ".join(str(spec.label(c)) for c in said) or "no label",
        "probability": None if row is None else number(row[said[0]] if said else row.max()),
        "correct": None if true is None else set(said) == set(true),
        "loss": _cross_entropy(row, true, several is not None) if row is not None and true is not None else None,
        "top": [{"index": k, "label": str(spec.label(k)), "p": None if row is None else number(row[k])} for k in order],
    }


def _of_values(prediction: Prediction, i: int, truth: Truth | None) -> dict[str, Any]:
    values = prediction.output[i].detach().reshape(-1)
    few = 0 < values.numel() <= 4
    error = None
    if truth is not None and truth.value is not None and values.numel() == 1:
        error = number((values.double() - truth.value).square())
    return {
        **_NOTHING,
        "predictionText": ", ".join(f"{v:.4g}" for v in values.tolist()) if few else None,
        "loss": error,
    }


def _cross_entropy(row: Tensor, true: Sequence[int], several: bool) -> float | None:
    if any(not 0 <= c < len(row) for c in true):
        return None
    row = row.double().clamp(1e-30, 1 - 1e-12)
    if not several:
        return number(-row[list(true)].log().sum())
    wanted = torch.zeros_like(row)
    wanted[list(true)] = 1
    return number(-(wanted * row.log() + (1 - wanted) * (1 - row).log()).mean())
