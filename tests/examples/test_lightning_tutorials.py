"""The Lightning tutorials run without a network, and their texts are true of what they print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.examples.notebooks import executed, said
from tests.thorough import thorough


def printed(name: str, folder: Path) -> str:
    return said(executed(name, folder), name="stdout")


@pytest.mark.slow
def test_the_label_in_the_corner_is_found_proved_and_unlearned(tmp_path: Path) -> None:
    text = printed("lightning_vision", tmp_path)
    in_corner = {int(d): int(s) for d, s in re.findall(r"(\d): (\d+)% of what speaks for it", text)}
    assert in_corner[8] > 25 and max(in_corner[3], in_corner[5]) < 5
    before, after = (
        [int(n) for n in re.findall(pattern, text)]
        for pattern in (r"called 8: +(\d+)%", r"one that are called 8: +(\d+)%")
    )
    assert float(re.findall(r"validation digits: ([\d.]+)%", text)[0]) > 93
    assert re.search(r"still called 8: (\d+)%", text)
    still = int(re.findall(r"still called 8: (\d+)%", text)[0])
    assert still < 30 and before[1] > 15, "the label decides"
    assert before[2] > 75 and after == [0], "and no longer does"


@thorough
@pytest.mark.slow
def test_the_bars_of_a_person_add_up(tmp_path: Path) -> None:
    text = printed("lightning_table", tmp_path)
    bars, difference = (
        float(re.findall(rf"{what}: (-?[\d.]+)", text)[0]) for what in ("sum of the bars", "the scores")
    )
    assert abs(bars - difference) < 0.02 * abs(difference)
    assert re.search(r"marital-status +0.00 +0.00", text), "the usual person has the same"
    assert float(re.findall(r"rank correlation: (-?[\d.]+)", text)[0]) > 0.3
    assert float(re.findall(r"median of the 300: ([\d.]+)%", text)[0]) < 2


@thorough
@pytest.mark.slow
def test_the_words_that_carry_the_label_are_found(tmp_path: Path) -> None:
    text = printed("lightning_text", tmp_path)
    assert int(re.findall(r"accuracy on 60 sentences: (\d+)%", text)[0]) > 90
    assert int(re.findall(r"carries the label in (\d+)%", text)[0]) > 50
