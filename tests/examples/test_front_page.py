"""The pictures of README and of "Which method?" are those that `examples/front_page.py` draws."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("matplotlib")


@pytest.fixture
def front_page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "examples")  # it takes its networks from `pictures.py` beside it
    spec = importlib.util.spec_from_file_location("front_page", ROOT / "examples" / "front_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_picture_is_shown_and_small(front_page: ModuleType) -> None:
    pages = [ROOT / name for name in ("README.md", "docs/index.md", "docs/which-method.md")]
    shown = {
        Path(p)
        for page in pages
        for p in re.findall(r"\(((?:docs/)?images/[fw][\w-]+\.\w+)\)", page.read_text("utf-8"))
    }
    assert {p.stem for p in shown} == set(front_page.PICTURES)
    assert max((ROOT / "docs" / "images" / p.name).stat().st_size for p in shown) < 120_000


@pytest.mark.slow
def test_a_picture_can_be_drawn_again(front_page: ModuleType, tmp_path: Path) -> None:
    front_page.main(tmp_path, ["front-table"], quick=True)
    assert (tmp_path / "front-table.png").stat().st_size > 5_000
