"""The words around a picture: method, target, probability, completeness error."""

from __future__ import annotations

import textwrap
from typing import Any

from interp_plugins.core.explanation import Explanation


def shorten(text: Any, width: int, keep_end: bool = False) -> str:
    """One line of at most `width` characters, cut with an ellipsis at its end (or start, for file names)."""
    line = " ".join(str(text).split())
    width = max(width, 1)
    if len(line) <= width:
        return line
    return "…" + line[len(line) - width + 1 :].lstrip() if keep_end else line[: width - 1].rstrip() + "…"


def broken(text: Any, width: int, lines: int = 2) -> str:
    """At most `lines` lines of about `width` characters, broken between words; the last one is shortened."""
    whole = textwrap.wrap(" ".join(str(text).split()), max(width, 8))
    head, rest = whole[: lines - 1], whole[lines - 1 :]
    return "\n".join([*head, shorten(" ".join(rest), max(width, 8))] if rest else head)


def method_title(exp: Explanation) -> str:
    """The method's name for people, with the layer if one was explained; of one that was found, what it is as well."""
    return " at ".join(_name_and_layer(exp))


def column_title(exp: Explanation, width: int) -> str:
    """The method's name over a column of `width` characters; a layer for which there is no room has its own line."""
    name, *layer = _name_and_layer(exp)
    whole = method_title(exp)
    if not layer or len(whole) <= width:
        return broken(whole, width)
    return f"{shorten(name, width)}\n{shorten(f'at {layer[0]}', width)}"


def _name_and_layer(exp: Explanation) -> list[str]:
    """The method's name, and behind it the layer if one was explained."""
    name = exp.title or exp.method.replace("_", " ").title()
    found = exp.meta.get("layer_found")
    layer = f"{found} ({exp.layer})" if found and exp.layer else exp.layer
    return [name, layer] if layer else [name]


def _class_name(label: Any, index: Any) -> str:
    """A class in words; bare indices become "class 7"."""
    label = index if label is None else label
    if label is None:
        return ""
    return f"class {label}" if isinstance(label, int) and not isinstance(label, bool) else str(label)


def _at(values: tuple[Any, ...] | None, i: int) -> Any:
    return None if values is None else values[i]


def target_text(exp: Explanation, i: int = 0) -> str:
    """What was explained for sample i, e.g. "tiger cat"; "" if unknown."""
    return _class_name(_at(exp.target_label, i), _at(exp.target, i))


def prediction_text(exp: Explanation, i: int = 0) -> str:
    """What the model predicts for sample i; "" if unknown."""
    return _class_name(_at(exp.prediction_label, i), _at(exp.prediction, i))


def sample_text(exp: Explanation, i: int = 0) -> str:
    """The sample's own name; "" if it has none."""
    return str(_at(exp.names, i) or "")


def truth_text(exp: Explanation, i: int = 0) -> str:
    """What is so of sample i in words, where it came along; else ""."""
    label = _known(exp, "label", i)
    return "" if label in (None, "") else _class_name(label, None)


def loss_text(exp: Explanation, i: int = 0) -> str:
    """The loss of sample i, "loss 2.31", where it was asked for; else ""."""
    loss = _known(exp, "loss", i)
    return "" if loss is None else f"loss {loss:.3g}"


def _known(exp: Explanation, what: str, i: int) -> Any:
    return _at(exp.meta.get("per_sample", {}).get(what), i)


def number(value: Any, i: int) -> float | None:
    """Entry i of a per-sample tensor (N,) as a float; None if there is no tensor."""
    return None if value is None else float(value.reshape(-1)[i])


def completeness_text(exp: Explanation, i: int = 0) -> str:
    """The completeness error of sample i, e.g. "0.4 %"; "" if the method has none.

    Where the score hardly differs from the baseline's (`Explanation.relative_error`), a share of the difference says
    nothing: the error is given as it is, in units of the score, e.g. "0.0021 in all".
    """
    if exp.relative_delta is None:
        return ""
    error, absolute = exp.relative_error(i), number(exp.convergence_delta, i)
    return percent(error) if error is not None else f"{abs(absolute or 0.0):.2g} in all"


def percent(fraction: float) -> str:
    """A non-negative fraction as a percentage of two digits: "0.4 %", "< 0.01 %", "> 1000 %"."""
    if fraction != fraction:
        return "undefined"
    value = 100 * fraction
    if value > 1000:
        return "> 1000 %"
    if value < 0.01:
        return "0 %" if value == 0 else "< 0.01 %"
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"


def with_probability(text: str, probability: float | None) -> str:
    """Text and probability: "tiger cat (p = 0.39)"."""
    return text if probability is None else f"{text} ({probability_text(probability)})".strip()


def probability_text(probability: float) -> str:
    """Two digits, three near 0 and 1, so that 0 and 1 are said of them alone: "p = 0.39", "p = 0.003", "p > 0.999"."""
    if 0 < probability < 0.0005:
        return "p < 0.001"
    if 0.9995 <= probability < 1:
        return "p > 0.999"
    certain = probability in (0.0, 1.0)
    digits = 0 if certain else 2 if 0.01 <= probability < 0.995 else 3
    return f"p = {probability:.{digits}f}"


def panel_title(exp: Explanation, i: int = 0, width: int = 60) -> str:
    """Title of one picture: "method — target (p = 0.39)", then the errors that are known.

    A first line longer than `width` characters becomes two, and what is still too long is shortened; the
    probability is always kept.
    """
    method, target = method_title(exp), _target_and_probability(exp, i, width)
    lines = [" — ".join(text for text in (method, target) if text)]
    if len(lines[0]) > width:
        lines = [shorten(method, width), target]
    notes = _error_texts(exp, i)
    if len(exp) > 1:
        notes.append(f"sample {i + 1} of {len(exp)}")
    lines += [" · ".join(notes)] if len(" · ".join(notes)) <= width else notes
    return "\n".join(line for line in lines if line)


def _error_texts(exp: Explanation, i: int) -> list[str]:
    """The completeness error of path methods, the estimated error of draws, and how roughly a map was made."""
    complete, estimated = completeness_text(exp, i), _known(exp, "map_error", i)
    notes = [f"completeness error {complete}"] if complete else []
    if isinstance(estimated, (int, float)) and 0 < estimated < float("inf"):
        notes.append(f"estimated error {percent(estimated)}")
    remark = exp.meta.get("remark")
    return [*notes, remark] if remark else notes


def panel_caption(exp: Explanation, i: int = 0, width: int = 30) -> str:
    """Caption of one picture in a grid: target and probability, then the errors that are known."""
    lines = [_target_and_probability(exp, i, width), *_error_texts(exp, i)]
    return "\n".join(line for line in lines if line)


def _target_and_probability(exp: Explanation, i: int, width: int) -> str:
    return _fit(target_text(exp, i), number(exp.probability, i), width)


def _fit(text: str, probability: float | None, width: int) -> str:
    """Text and probability in `width` characters; only the text is shortened."""
    return with_probability(shorten(text, width - (11 if probability is not None else 0)), probability)


def original_caption(exp: Explanation, i: int = 0, width: int = 30, note: str = "") -> str:
    """Caption of an input in a grid: its name, prediction, truth and loss, and how it was made visible."""
    predicted = prediction_text(exp, i)
    if predicted:
        explained = _at(exp.prediction, i) is not None and _at(exp.target, i) == _at(exp.prediction, i)
        probability = number(exp.probability, i) if explained else None
        predicted = _fit(f"predicted: {predicted}", probability, width)
    truth = truth_text(exp, i)
    actual = shorten(f"actual: {truth}", width) if truth else ""
    name = shorten(sample_text(exp, i), width, keep_end=True)
    lines = (name, predicted, actual, loss_text(exp, i), shorten(note, width))
    return "\n".join(line for line in lines if line)
