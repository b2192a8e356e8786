"""Lightning's known traps are numbered L1 to L25, and tests carry the number of the trap they watch in their names."""

from __future__ import annotations

import ast
import re
from pathlib import Path


def test_every_trap_has_a_test() -> None:
    found: set[int] = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found |= {int(number) for number in re.findall(r"_L(\d+)(?=_)", node.name)}
    assert found == set(range(1, 26))
