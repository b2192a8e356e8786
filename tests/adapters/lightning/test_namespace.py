"""Which of the two Lightning packages the classes come from, and that the callback runs under both."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from interp_plugins.lightning.namespace import lightning_class, lightning_names

SCRIPT = Path(__file__).with_name("namespace_script.py")
NAMES = ("pytorch_lightning", "lightning", "lightning.pytorch")


@pytest.mark.parametrize(
    ("imported", "installed", "expected"),
    [
        (["pytorch_lightning"], ["pytorch_lightning", "lightning"], ("pytorch_lightning",)),
        (["lightning", "lightning.pytorch"], ["pytorch_lightning", "lightning"], ("lightning.pytorch",)),
        (list(NAMES), ["pytorch_lightning", "lightning"], ("pytorch_lightning", "lightning.pytorch")),
        (["lightning"], ["pytorch_lightning", "lightning"], ("pytorch_lightning",)),  # Fabric alone, say
        ([], ["pytorch_lightning", "lightning"], ("pytorch_lightning",)),
        ([], ["lightning"], ("lightning.pytorch",)),
    ],
)
def test_L19_imported_packages_go_before_installed_ones(imported, installed, expected, monkeypatch) -> None:
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in imported:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in installed else None)
    assert lightning_names() == expected


def test_L19_a_class_is_at_home_in_all_packages_that_are_loaded(monkeypatch) -> None:
    homes = []
    for name in ("pytorch_lightning", "lightning.pytorch"):
        module: Any = ModuleType(name)
        part: Any = ModuleType(f"{name}.parts")
        module.Base = part.Base = type("Base", (), {"__doc__": name})
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(sys.modules, f"{name}.parts", part)
        homes.append(module.Base)
    for found in (lightning_class("Base"), lightning_class("Base", "parts")):
        assert all(issubclass(found, home) for home in homes)
    monkeypatch.delitem(sys.modules, "lightning.pytorch")
    assert lightning_class("Base") is homes[0]


def test_L19_without_lightning_the_error_says_what_to_install(monkeypatch) -> None:
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'interp-plugins\[lightning\]'"):
        lightning_names()


@pytest.mark.slow
@pytest.mark.parametrize("first", ["lightning.pytorch", "pytorch_lightning,lightning.pytorch"])
def test_L19_runs_under_both_packages(first) -> None:
    pytest.importorskip("lightning", reason="the other package is not installed")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), first], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["loaded"] == sorted(first.split(","), reverse=True)  # the other one is not imported by us
    for package in ("pytorch_lightning", "lightning.pytorch"):
        at_home = {"subclass": True, "cli": True} if package in found["loaded"] else {"subclass": False}
        assert found[package] == {"pictures": 2, "numbers": True, **at_home}
