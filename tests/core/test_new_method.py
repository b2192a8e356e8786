"""A method is two files that somebody writes, its source and its reference test; what else is touched is counted here.

Outside the package the source is enough. In the package three files get a line each: `attr/__init__.py` its import,
`attr/shared/names.py` its name for editors, and `attr/evidence/randomised.py` what the randomisation check measured.
Nothing else names it, and it is everywhere.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = '''
"""Halves: half the gradient."""

from typing import Any

from interp_plugins.attr.gradient.saliency import Saliency
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import as_tuple, like


@register(
    "halves",
    aliases=("half",),
    reference="Nobody 1905",
    cost="1 forward, 1 backward",
    axioms=("dummy",),
    assumes="half is enough",
)
class Halves(Saliency):
    """Half the gradient."""

    def attribute(self, inputs: Any, target: Any = None, additional_forward_args: Any = None, by: float = 2.0) -> Any:
        """The gradient by `by`."""
        maps = super().attribute(inputs, target, abs=False, additional_forward_args=additional_forward_args)
        return like(inputs, [m / by for m in as_tuple(maps)])
'''
EVERYWHERE = """
import torch
from interp_plugins import InputSpec, explain, list_methods
from interp_plugins.attr import Saliency
from interp_plugins.attr.evidence.cards import methods_page
from interp_plugins.cli import app
from interp_plugins.core.registry import method_info
from interp_plugins.insights.forms import forms

assert "halves" in list_methods() and method_info("Half").title == "Halves"
net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
x = torch.randn(2, 3)
exps = explain(net, x, ["halves", "half"], target=[0, 1], by=4.0)
assert [e.method for e in exps] == ["halves"] * 4 and exps[0].meta["shared_by_targets"] == 2
assert torch.allclose(exps[1].attributions, Saliency(net).attribute(x, 1, abs=False) / 4)
assert explain(net, x, "noise_tunnel", attribution_method="half", target=0)[0].title == "SmoothGrad of Halves"
(form,) = [f for f in forms((x,), InputSpec()) if f["name"] == "halves"]
assert form["params"] == [{"name": "by", "type": "float", "default": 2.0, "min": None, "max": None}]
assert "| `halves` | `half` | any input | 1 forward, 1 backward | dummy | half is enough |" in methods_page()

from tests.conformance import cases, table

found, saliency = ([case.name for v, case in cases.pairs() if v == name] for name in ("halves", "saliency"))
assert "halves" in cases.VARIANTS and found == saliency and len(found) > 15
assert f"| `halves` | {len(found)} |" in table.page()
problem = cases.typical("halves").build()
assert cases.attribute("halves", problem).shape == problem.inputs.shape
app(["methods"])
"""


def run(code: str, *path: Path) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-W", "ignore::interp_plugins.core.errors.RandomisationWarning", "-c", code]
    done = subprocess.run(command, cwd=path[0], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def touched(one: Path, other: Path) -> set[str]:
    """The files of a folder that are new or different."""
    files = [p.relative_to(one) for p in one.rglob("*.py")]
    return {str(p) for p in files if not ((other / p).exists() and filecmp.cmp(one / p, other / p, shallow=False))}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "interp_plugins", tmp_path / "interp_plugins", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_outside_the_package_one_file_makes_a_method_known_everywhere(tmp_path: Path) -> None:
    (tmp_path / "halves.py").write_text(SOURCE, encoding="utf-8")
    listed = run("import halves\n" + EVERYWHERE, tmp_path, ROOT)
    assert "halves" in listed and "Nobody 1905" in listed
    assert touched(tmp_path, ROOT) == {"halves.py"}


def test_in_the_package_a_method_is_its_source_and_three_lines(copied: Path) -> None:
    package = copied / "interp_plugins"
    (package / "attr" / "gradient" / "halves.py").write_text(SOURCE, encoding="utf-8")
    lines = {
        "attr/__init__.py": (
            "from interp_plugins.attr.gradient.halves import Halves as Halves\n",
            "from interp_plugins.attr.gradient.hessians",
        ),
        "attr/shared/names.py": ('    "halves",\n', '    "hi_res_cam",'),
        "attr/evidence/randomised.py": ('    "halves": (0.10, 0.05),\n', '    "hi_res_cam": (0.'),
    }
    for name, (line, before) in lines.items():
        text = (package / name).read_text(encoding="utf-8")
        assert text.count(before) == 1
        (package / name).write_text(text.replace(before, line + before), encoding="utf-8")
    check = 'from interp_plugins import attr\nassert "Halves" in attr.__all__ and attr.Halves.get_name() == "Halves"\n'
    shown = 'assert "| 0.10 ± 0.05 | Nobody 1905 |" in methods_page()\n'
    listed = run(check + EVERYWHERE.replace('app(["methods"])', shown + 'app(["methods"])'), copied, ROOT)
    assert "halves" in listed and "Nobody 1905" in listed
    assert touched(package, ROOT / "interp_plugins") == {"attr/gradient/halves.py", *lines}
