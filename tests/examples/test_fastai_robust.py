"""The notebook on looking at the right thing runs, and its questions name the short cut that was planted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.examples.notebooks import executed, said


@pytest.mark.slow
def test_the_planted_short_cut_is_named(tmp_path: Path) -> None:
    notebook = executed("fastai_robust", tmp_path)
    printed = said(notebook)
    assert "the stamp is among what has to go in 3 of 3" in printed
    [called] = re.findall(r"(\d+) of 20 stamped threes are called eight", printed)
    assert int(called) >= 15
    for mean, worst, attacked in re.findall(r": ([\d.-]+), ([\d.-]+), ([\d.-]+) \(gradient", printed):
        assert float(mean) >= float(worst) >= float(attacked)
