"""The tutorials on table rows and on texts run where there is no network, and show what they say they show."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, application: str, folder: Path) -> str:
    """Execute a notebook without a network; what it printed."""
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    # The download fails at once, whatever network the tests have.
    no_network = (
        f"import fastai.{application}.all as _all\n"
        "def _no_network(*args, **kwargs): raise OSError('no network in the tests')\n"
        "_all.untar_data = _no_network"
    )
    notebook.cells.insert(0, nbformat.v4.new_code_cell(no_network))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))


@pytest.mark.slow
def test_columns_that_two_people_share_get_no_bar(tmp_path: Path) -> None:
    printed = run("fastai_adult", "tabular", tmp_path)
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("person.png", "compared.png"))
    assert "the same in both, so without a bar: ['sex', 'capital-gain', 'hours-per-week']" in printed
    assert re.search(r"0\s+(marital-status|education-num|relationship|age|capital-gain)\s", printed)


@pytest.mark.slow
def test_the_words_that_decide_are_found(tmp_path: Path) -> None:
    printed = run("fastai_text", "text", tmp_path)
    assert (tmp_path / "sentence.png").stat().st_size > 5_000
    assert "wonderful" in (tmp_path / "texts.html").read_text(encoding="utf-8")
    scores = {w: abs(float(v)) for w, v in re.findall(r"\d+\s+(\w+)\s+(-?\d+\.\d+)\n", printed)}
    assert set(sorted(scores, key=lambda w: -scores[w])[:2]) == {"so", "wonderful"}
