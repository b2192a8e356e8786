"""The notebook on wrong labels runs, and what it tells is true of the numbers it prints."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_planted_mistakes_are_found_better_than_by_the_loss(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "fastai_suspects.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "suspects.html").stat().st_size > 100_000 and (tmp_path / "suspects.safetensors").is_file()
    printed = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    found = {name.strip(): float(ap) for name, ap in re.findall(r"(.+?) +average precision ([\d.]+)", printed)}
    assert found["rank mean (the default)"] > max(0.7, found["loss"] + 0.05)
    [share] = re.findall(r"(\d+)% of them are", printed)
    assert int(share) >= 60
    assert "LEAKAGE" not in printed and "image/png" in str(notebook.cells)
