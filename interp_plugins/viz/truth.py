"""Prediction against truth: a caption that says both, green where they agree and red where they do not."""

from __future__ import annotations

from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import titles
from interp_plugins.viz.colour import INK

_RIGHT, _WRONG = "green", "red"  # as fastai's `show_results` has them; the words say the same


def caption(exp: Explanation, i: int, truth: str = "", note: str = "", explained: bool = True) -> str:
    """Prediction with probability, truth, and what was explained if it is another class; a line each.

    Args:
        exp: the explanation.
        i: the sample.
        truth: the ground truth in words; "": what the explanation knows of it.
        note: a last line; "": the loss, where the explanation knows it.
        explained: whether to name the class explained where it is not the predicted one.
    """
    predicted, target = titles.prediction_text(exp, i), titles.target_text(exp, i)
    probability = titles.number(exp.probability, i)
    of_prediction = exp.prediction is not None and exp.target is not None and exp.prediction[i] == exp.target[i]
    lines = [titles.shorten(titles.sample_text(exp, i), 34, keep_end=True)]
    if predicted:
        text = titles.shorten(f"predicted: {predicted}", 28)
        lines.append(titles.with_probability(text, probability if of_prediction else None))
    elif exp.score is not None:
        lines.append(f"{titles.shorten(target or 'output', 28)}: {titles.number(exp.score, i):.4g}")
    truth = truth or titles.truth_text(exp, i)
    if truth:
        lines.append(titles.shorten(f"actual: {truth}", 38))
    if explained and target and predicted and not of_prediction:
        lines.append(titles.with_probability(titles.shorten(f"explained: {target}", 28), probability))
    return "\n".join(line for line in (*lines, note or titles.loss_text(exp, i)) if line)


def verdict(exp: Explanation, i: int, truth: str = "") -> str:
    """The colour of a caption: green for a right prediction, red for a wrong one, ink where that is not known."""
    truth = truth or titles.truth_text(exp, i)
    if not truth or exp.prediction_label is None:
        return INK
    return _RIGHT if truth in (str(exp.prediction_label[i]), titles.prediction_text(exp, i)) else _WRONG
