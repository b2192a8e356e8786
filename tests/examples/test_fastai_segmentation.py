"""The segmentation tutorial runs where there is no network, and finds what it says it finds."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_the_surroundings_decide_where_the_baseline_keeps_the_disc(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "fastai_segmentation.ipynb", as_version=4)
    # The tutorial's download fails at once, whatever network the tests have.
    no_network = (
        "import fastai.vision.all as _v\n"
        "def _no_network(*args, **kwargs): raise OSError('no network in the tests')\n"
        "_v.untar_data = _no_network"
    )
    notebook.cells.insert(0, nbformat.v4.new_code_cell(no_network))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 2
    assert (tmp_path / "segmentation.html").stat().st_size > 50_000
    printed = "".join(o.get("text", "") for o in outputs)
    errors = re.search(r"completeness error: \[(.*)\]", printed)
    assert errors is not None and all(float(e.strip(" '%")) < 1 for e in errors[1].split(","))
    shares = [int(share) for share in re.findall(r"outside the outline: (\d+)%", printed)]
    area = re.search(r"outline holds (.*)% of the picture", printed)
    assert area is not None and float(area[1]) < 5
    assert len(shares) == 3 and shares[2] > 90
    assert 100 - max(shares[:2]) > 6 * float(area[1])  # with a black baseline, far more on the disc than its share
    here, turned = map(float, re.search(r"here (-?\d+), with the baseline (-?\d+)", printed).groups())
    assert here > 0 > turned
