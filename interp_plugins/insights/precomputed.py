"""`Precomputed`: explanations that have been made, as the subject of a viewer, with or without their model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.insights.curves import curves_of
from interp_plugins.insights.outcomes import Truth, number
from interp_plugins.insights.subject import Made, Subject
from interp_plugins.viz import titles
from interp_plugins.viz.renderer import is_signed


class Precomputed(Subject):
    """Explanations of the same samples.

    Args:
        exps: one or several, methods x targets.
        labels: the ground truth per sample: an index, indices, or a value; None: unlabelled.
        model: the model explained, for insertion and deletion curves; None: without.
        **call: further arguments of `interp_plugins.explain` that the model is called with.

    Raises:
        InputError: no explanation, explanations of different samples, or labels that do not fit.
    """

    def __init__(
        self,
        exps: Sequence[Explanation],
        labels: Sequence[Any] | None = None,
        model: Callable[..., Any] | None = None,
        **call: Any,
    ):
        if not exps:
            raise InputError("There is no explanation to show; give at least one.")
        self.exps, self.model, self._known = list(exps), model, call
        self.n, self.spec = len(exps[0]), exps[0].spec
        odd = [len(e) for e in exps if len(e) != self.n]
        if odd:
            raise InputError(f"The explanations are of different samples: {self.n} in the first, {odd[0]} in another.")
        if labels is not None and len(labels) != self.n:
            raise InputError(
                f"{len(labels)} labels came for {self.n} samples; give one per sample (None where unknown)."
            )
        self.truths = [Truth.of(label, self.spec) for label in labels] if labels is not None else [None] * self.n
        vocab = self.spec.vocab
        for truth in self.truths:
            for c in (truth.classes if truth is not None else None) or ():
                if vocab is not None and not 0 <= c < len(vocab):
                    raise InputError(f"The label {c} is no index of the {len(vocab)} classes.")
        self.models = [str(exps[0].meta.get("model", "model"))]
        self._signed = [is_signed(exp) for exp in exps]

    def samples(self) -> list[dict[str, Any]]:
        """What is known of each sample without any map."""
        known = enumerate(self.truths)
        return [{**sample_record(self.exps, i, truth), "words": self.words(i)} for i, truth in known]

    def input(self, i: int) -> Explanation:
        """Sample i as the viewer draws it."""
        return self.exps[0][i]

    def given(self, i: int) -> list[Made]:
        """The explanations of sample i."""
        made = [Made(exp[i], signed=signed) for exp, signed in zip(self.exps, self._signed)]
        if self.model is None:
            return made
        return [replace(one, curves=self._curves(one)) for one in made]

    def _curves(self, made: Made) -> dict[str, Any] | None:
        exp = made.exp
        target: Any = exp.target[0] if exp.target is not None else None
        assert self.model is not None
        try:
            return curves_of(exp, 0, self.model, exp.inputs, target=target, input_spec=exp.spec, **self._known)
        except InputError as err:
            return {"error": str(err)}


def sample_record(exps: Sequence[Explanation], i: int, truth: Truth | None) -> dict[str, Any]:
    """What is known of sample i from its explanations: name, truth, prediction; the page filters and sorts by it.

    Args:
        exps: explanations of the sample.
        i: the sample's row.
        truth: its ground truth, or None.
    """
    exp = exps[0]
    errors = [e for e in (number(one.relative_error(i)) for one in exps) if e is not None]
    predicted = exp.prediction[i] if exp.prediction is not None else None
    of_prediction = predicted is not None and exp.target is not None and predicted == exp.target[i]
    probability = _number_at(exp.probability, i) if of_prediction else None
    true = truth.classes if truth is not None else None
    right = None if true is None or predicted is None else true == (predicted,)
    told = titles.truth_text(exp, i) if truth is None else truth.text  # a saved explanation may know the truth in words
    if truth is None and told and exp.prediction_label is not None:
        right = told in (str(exp.prediction_label[i]), titles.prediction_text(exp, i))
    return {
        "name": titles.sample_text(exp, i) or "",
        "labels": None if true is None else list(true),
        "labelText": told or None if truth is None else truth.text,
        "completenessError": max(errors, default=None),
        "models": [
            {
                "predictions": None if predicted is None else [predicted],
                "predictionText": None if exp.prediction_label is None else str(exp.prediction_label[i]),
                "probability": probability,
                "correct": right,
                "loss": _loss(exps, i, true),
                "top": [],
            }
        ],
    }


def _loss(exps: Sequence[Explanation], i: int, true: tuple[int, ...] | None) -> float | None:
    """The loss that was asked for, or the cross entropy, where an explanation of the true class has its probability."""
    known = exps[0].meta.get("per_sample", {}).get("loss")
    if known is not None:
        return number(known[i])
    for exp in exps:
        if true is not None and exp.target is not None and true == (exp.target[i],):
            p = _number_at(exp.probability, i)
            if p is not None:
                return -math.log(max(p, 1e-30))
    return None


def _number_at(values: Tensor | None, i: int) -> float | None:
    return None if values is None or values.ndim != 1 else number(values[i])
