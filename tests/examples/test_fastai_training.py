"""The notebook on watching a training runs, and what it tells is true of the numbers it prints."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_the_film_gives_the_cheat_away(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "fastai_training.ipynb", as_version=4)
    no_network = (
        "import fastai.vision.all as _v\n"
        "def _no_network(*args, **kwargs): raise OSError('no network in the tests')\n"
        "_v.untar_data = _no_network"
    )
    notebook.cells.insert(0, nbformat.v4.new_code_cell(no_network))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for name in ("honest.png", "stained.png", "several.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    printed = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    shares = [int(s) for s in re.findall(r"'(\d+)%'", printed)]
    assert len(shares) == 4 and shares[-1] > shares[0] and shares[-1] > 40, "the corner becomes the reason"
    clean, other = (int(s) for s in re.findall(r"sevens.*: +(\d+)%", printed))
    assert clean < 70 and other > 30
    assert "image/png" in str(notebook.cells), "the films are shown"
