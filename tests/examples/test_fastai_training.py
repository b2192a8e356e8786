"""The notebook on watching a training runs, and what it tells is true of the numbers it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.examples.notebooks import executed, said


@pytest.mark.slow
def test_the_film_gives_the_cheat_away(tmp_path: Path) -> None:
    notebook = executed("fastai_training", tmp_path, "vision")
    for name in ("honest.png", "stained.png", "several.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    printed = said(notebook)
    shares = [int(s) for s in re.findall(r"'(\d+)%'", printed)]
    assert len(shares) == 4 and shares[-1] > shares[0] and shares[-1] > 40, "the corner becomes the reason"
    clean, other = (int(s) for s in re.findall(r"sevens.*: +(\d+)%", printed))
    assert clean < 70 and other > 30
    assert "image/png" in str(notebook.cells), "the films are shown"
