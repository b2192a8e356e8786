"""The pictures of docs/viz.md and docs/robust.md can be made again, and are small."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "examples" / "pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_documents_show_every_picture_once(pictures: ModuleType) -> None:
    text = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("viz.md", "robust.md"))
    shown = re.findall(r"\(images/(plot-[\w.-]+)\)", text)
    assert sorted(shown) == sorted(map(pictures.file_name, pictures.PICTURES))
    sizes = [(ROOT / "docs" / "images" / name).stat().st_size for name in shown]
    assert max(sizes) < 60_000 and sum(sizes) < 500_000


# One picture per kind of network: its other pictures are drawn from the same explanations.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "image-classes",
        "table-beeswarm",
        "series-line",
        "volume-slices",
        "layers",
        "input-shares",
    ],
)
def test_a_picture_can_be_made_again(pictures: ModuleType, name: str, tmp_path: Path) -> None:
    pictures.main(tmp_path, [name], quick=True)
    assert (tmp_path / pictures.file_name(name)).stat().st_size > 2_000
