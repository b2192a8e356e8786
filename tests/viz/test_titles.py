"""The words around a picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from interp_plugins.viz import titles


def test_title_says_method_target_probability_and_error(make) -> None:
    exp = make(1, target_label=("tiger cat",))
    assert titles.panel_title(exp) == "Integrated Gradients — tiger cat (p = 0.39)\ncompleteness error 0.4 %"


def test_title_of_a_batch_says_which_sample(make) -> None:
    assert titles.panel_title(make(3), 1).endswith("sample 2 of 3")


def test_what_is_not_known_is_left_out(make) -> None:
    unknown = dict.fromkeys(("target", "target_label", "prediction", "prediction_label", "probability"))
    exp = make(1, **unknown, score=None, baseline_score=None, convergence_delta=None, title="")
    assert titles.panel_title(exp) == "Integrated Gradients"
    assert titles.panel_caption(exp) == "" and titles.original_caption(exp) == ""


def test_bare_indices_become_classes_and_layers_are_named(make) -> None:
    exp = make(1, target=(282,), target_label=(282,), layer="layer4.1", title="Grad-CAM", convergence_delta=None)
    assert titles.panel_title(exp) == "Grad-CAM at layer4.1 — class 282 (p = 0.39)"
    assert titles.target_text(make(1, target=(True,), target_label=(True,))) == "True"


def test_a_layer_over_a_narrow_column_has_a_line_of_its_own(make) -> None:
    exp = replace(make(1), layer="bn2", title="Grad-CAM", meta={"layer_found": "last convolution"})
    assert titles.column_title(exp, 40) == "Grad-CAM at last convolution (bn2)"
    assert titles.column_title(exp, 26) == "Grad-CAM\nat last convolution (bn2)"
    assert titles.column_title(exp, 12) == "Grad-CAM\nat last con…"


def test_narrow_titles_break_and_keep_the_probability(make) -> None:
    exp = make(1, target_label=("a label of many words that goes on and on",), title="A method with a long name")
    lines = titles.panel_title(exp, width=24).split("\n")
    assert lines[1].endswith("… (p = 0.39)") and all(len(line) <= 28 for line in lines)


def test_prediction_has_a_probability_only_if_it_is_what_was_explained(make) -> None:
    assert titles.original_caption(make(1)) == "predicted: label 0 (p = 0.39)"
    assert titles.original_caption(make(1, target=(5,))) == "predicted: label 0"


def test_shorten_ends_in_an_ellipsis_or_keeps_the_end() -> None:
    assert titles.shorten("short", 10) == "short"
    assert titles.shorten("a long\n  label", 8) == "a long…"
    assert titles.shorten("images/train/cat.jpg", 10, keep_end=True) == "…n/cat.jpg"
    assert titles.shorten("abc", 0) == "…"


def test_a_probability_is_0_or_1_only_where_it_is() -> None:
    assert titles.probability_text(0.391) == "p = 0.39" and titles.probability_text(0.003) == "p = 0.003"
    assert titles.probability_text(1e-5) == "p < 0.001" and titles.probability_text(0.0) == "p = 0"
    assert titles.probability_text(0.9987) == "p = 0.999" and titles.probability_text(1.0) == "p = 1"
    assert titles.probability_text(0.99991) == "p > 0.999" and titles.probability_text(0.0096) == "p = 0.010"


def test_a_layer_that_was_found_is_called_by_what_it_is(make) -> None:
    exp = make(1, layer="bn2", title="Grad-CAM")
    assert titles.method_title(exp) == "Grad-CAM at bn2"
    found = make(1, layer="bn2", title="Grad-CAM", meta={"layer_found": "last convolution"})
    assert titles.method_title(found) == "Grad-CAM at last convolution (bn2)"


def test_headings_break_between_words() -> None:
    assert titles.broken("Occlusion", 20) == "Occlusion"
    assert titles.broken("Noise Tunnel (Integrated Gradients)", 24) == "Noise Tunnel (Integrated\nGradients)"
    assert titles.broken("one two three four five six seven", 10) == "one two\nthree fou…"
    assert titles.broken("", 10) == ""


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0, "0 %"), (5e-5, "< 0.01 %"), (0.004, "0.4 %"), (0.123, "12 %"), (1, "100 %"), (1e9, "> 1000 %")],
)
def test_percent(fraction: float, text: str) -> None:
    assert titles.percent(fraction) == text


def test_an_undefined_error_is_called_so(make) -> None:
    assert titles.completeness_text(make(1, convergence_delta=torch.tensor([float("nan")]))) == "undefined"


@pytest.mark.parametrize(
    ("score", "base", "delta", "text"),
    [
        (0.5, 0.3, 0.01, "5 %"),
        (0.5, 0.5, 0.01, "0.01 in all"),
        (5.0, 5.0 - 2e-3, 0.003, "0.003 in all"),  # less than a thousandth of the score
        (5.0, 5.0 - 2e-2, 0.003, "15 %"),
        (1e-6, 5e-7, 5e-8, "10 %"),  # small scores, but they differ
        (0.0, 0.0, 0.0, "0 in all"),
        (-3.0, 3.0, -0.06, "1 %"),
    ],
)
def test_an_error_of_next_to_nothing_is_no_percentage(make, score: float, base: float, delta: float, text: str) -> None:
    values = {"score": score, "baseline_score": base, "convergence_delta": delta}
    exp = make(1, **{k: torch.tensor([v], dtype=torch.float64) for k, v in values.items()})
    assert titles.completeness_text(exp) == text
    assert (exp.relative_error() is None) == text.endswith("in all")
