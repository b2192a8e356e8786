"""The notebook on wrong labels runs, and what it tells is true of the numbers it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.examples.notebooks import executed, said


@pytest.mark.slow
def test_planted_mistakes_are_found_better_than_by_the_loss(tmp_path: Path) -> None:
    notebook = executed("fastai_suspects", tmp_path)
    assert (tmp_path / "suspects.html").stat().st_size > 100_000 and (tmp_path / "suspects.safetensors").is_file()
    printed = said(notebook)
    found = {name.strip(): float(ap) for name, ap in re.findall(r"(.+?) +average precision ([\d.]+)", printed)}
    assert found["rank mean (the default)"] > max(0.7, found["loss"] + 0.05)
    [share] = re.findall(r"(\d+)% of them are", printed)
    assert int(share) >= 60
    assert "LEAKAGE" not in printed and "image/png" in str(notebook.cells)
