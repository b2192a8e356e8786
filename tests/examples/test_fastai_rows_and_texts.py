"""The tutorials on table rows and on texts run where there is no network, and show what they say they show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.examples.notebooks import executed, said
from tests.thorough import thorough


@pytest.mark.slow
def test_columns_that_two_people_share_get_no_bar(tmp_path: Path) -> None:
    printed = said(executed("fastai_adult", tmp_path, "tabular"))
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("person.png", "compared.png"))
    assert "the same in both, so without a bar: ['sex', 'capital-gain', 'hours-per-week']" in printed
    assert re.search(r"0\s+(marital-status|education-num|relationship|age|capital-gain)\s", printed)


@thorough
@pytest.mark.slow
def test_the_words_that_decide_are_found(tmp_path: Path) -> None:
    printed = said(executed("fastai_text", tmp_path, "text"))
    assert (tmp_path / "sentence.png").stat().st_size > 5_000
    assert "wonderful" in (tmp_path / "texts.html").read_text(encoding="utf-8")
    scores = {w: abs(float(v)) for w, v in re.findall(r"\d+\s+(\w+)\s+(-?\d+\.\d+)\n", printed)}
    assert set(sorted(scores, key=lambda w: -scores[w])[:2]) == {"so", "wonderful"}
