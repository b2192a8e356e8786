"""Which of the two Lightning packages the classes come from."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest

from interp_plugins.lightning.namespace import lightning_name

NAMES = ("pytorch_lightning", "lightning", "lightning.pytorch")


@pytest.mark.parametrize(
    ("imported", "installed", "expected"),
    [
        (["pytorch_lightning"], ["pytorch_lightning", "lightning"], "pytorch_lightning"),
        (["lightning", "lightning.pytorch"], ["pytorch_lightning", "lightning"], "lightning.pytorch"),
        (["lightning"], ["pytorch_lightning", "lightning"], "pytorch_lightning"),  # Fabric alone, say
        ([], ["pytorch_lightning", "lightning"], "pytorch_lightning"),
        ([], ["lightning"], "lightning.pytorch"),
    ],
)
def test_L19_the_imported_package_goes_before_the_installed_one(imported, installed, expected, monkeypatch) -> None:
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in imported:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in installed else None)
    assert lightning_name() == expected


def test_L19_without_lightning_the_error_says_what_to_install(monkeypatch) -> None:
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'interp-plugins\[lightning\]'"):
        lightning_name()


def test_L19_the_other_package_is_never_imported(tmp_path) -> None:
    folder = tmp_path / "lightning" / "pytorch"
    folder.mkdir(parents=True)
    (tmp_path / "lightning" / "__init__.py").touch()
    (folder / "__init__.py").write_text("class Callback:\n    pass\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import lightning.pytorch\n"
        "from interp_plugins.lightning import AttributionCallback\n"
        "print(AttributionCallback.__mro__[1].__module__, 'pytorch_lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.split() == ["lightning.pytorch", "False"], done.stderr
