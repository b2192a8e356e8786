"""What the documents show is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PREPARED = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 300)).eval()
images = torch.rand(2, 3, 24, 24)
"""


def blocks(document: str, section: str | None = None) -> list[str]:
    """The Python blocks of a document, or of one of its sections."""
    text = (ROOT / document).read_text(encoding="utf-8")
    if section is not None:
        text = text.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def run(code: str, tmp_path: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_contributing_shows_the_two_files_of_a_method_as_they_are() -> None:
    *source, test = blocks("CONTRIBUTING.md", "Adding a method")
    assert len(source) == 3
    assert [
        b for b in source if b not in (ROOT / "interp_plugins/attr/gradient/idgi.py").read_text(encoding="utf-8")
    ] == []
    assert test in (ROOT / "tests/attr/test_paths.py").read_text(encoding="utf-8")


def test_a_method_is_named_only_where_contributing_says() -> None:
    package = ROOT / "interp_plugins"
    named = {p for p in package.rglob("*.py") if re.search(r"\bidgi\b|\bIDGI\(", p.read_text(encoding="utf-8"))}
    where = {"gradient/idgi.py", "__init__.py", "evidence/cards.py", "evidence/randomised.py"}
    assert named == {package / "attr" / name for name in where}


@pytest.mark.slow
@pytest.mark.parametrize("section", ["Plain PyTorch", "Coming from Captum"])
def test_the_readme_does_what_it_says(section: str, tmp_path: Path) -> None:
    run(PREPARED + "\n".join(blocks("README.md", section)), tmp_path)


@pytest.mark.slow
def test_the_guide_to_pictures_does_what_it_says(tmp_path: Path) -> None:
    run(PREPARED + "\n".join(blocks("docs/viz.md")), tmp_path)
    assert (tmp_path / "page.html").stat().st_size > 10_000
