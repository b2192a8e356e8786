"""Each notebook is its script, and comes with the outputs of one run; `tools/notebooks.py` makes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(p.stem for p in EXAMPLES.glob("*.ipynb"))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_script(name: str) -> None:
    import jupytext

    script, notebook = (jupytext.read(EXAMPLES / f"{name}.{ending}") for ending in ("py", "ipynb"))
    assert [(c.cell_type, c.source) for c in notebook.cells] == [(c.cell_type, c.source) for c in script.cells]


@pytest.mark.parametrize("name", NAMES)
def test_it_holds_the_outputs_of_one_run(name: str) -> None:
    import nbformat

    path = EXAMPLES / f"{name}.ipynb"
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    outputs = [o for c in cells for o in c.outputs]
    assert sum("image/" in str(o.get("data", {}).keys()) for o in outputs) >= 2, "pictures are shown"
    assert {o.output_type for o in outputs} <= {"stream", "display_data", "execute_result"}, "no errors"
    assert {o.name for o in outputs if o.output_type == "stream"} <= {"stdout"}, "no warnings, no bars"
    assert path.stat().st_size < 1_000_000
    text = re.sub(r'"image/(png|jpeg)": ".*?"', "", path.read_text(encoding="utf-8"))
    assert re.findall(r"/(?:tmp|home|root|usr|work)/[\w./-]+", text) == [], "nothing of a machine"
