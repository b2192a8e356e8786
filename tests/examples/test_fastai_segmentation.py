"""The segmentation tutorial runs where there is no network, and finds what it says it finds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.examples.notebooks import executed, said


@pytest.mark.slow
def test_the_surroundings_decide_where_the_baseline_keeps_the_disc(tmp_path: Path) -> None:
    notebook = executed("fastai_segmentation", tmp_path, "vision")
    outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 2
    assert (tmp_path / "segmentation.html").stat().st_size > 50_000
    printed = said(notebook)
    errors = re.search(r"completeness error: \[(.*)\]", printed)
    assert errors is not None and all(float(e.strip(" '%")) < 1 for e in errors[1].split(","))
    shares = [int(share) for share in re.findall(r"outside the outline: (\d+)%", printed)]
    area = re.search(r"outline holds (.*)% of the picture", printed)
    assert area is not None and float(area[1]) < 5
    assert len(shares) == 3 and shares[2] > 90
    assert 100 - max(shares[:2]) > 6 * float(area[1])  # with a black baseline, far more on the disc than its share
    here, turned = map(float, re.search(r"here (-?\d+), with the baseline (-?\d+)", printed).groups())
    assert here > 0 > turned
