"""Words that explain themselves: docstrings that stand alone, and codes in test names that tests/README.md explains."""

from __future__ import annotations

import ast
import pkgutil
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "interp_plugins"
NODES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def docstrings() -> list[tuple[str, str]]:
    """Where each docstring stands, and its text."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, NODES):
                text = ast.get_docstring(node)
                if text:
                    found.append((f"{path.relative_to(PACKAGE.parent)}: {getattr(node, 'name', 'the module')}", text))
    return found


def test_no_docstring_says_it_in_three_words() -> None:
    found = docstrings()
    assert len(found) > 1000
    assert [(where, text) for where, text in found if len(text.split()) < 4] == []


def test_no_docstring_leans_on_its_neighbour() -> None:
    leaning = re.compile(r"(And|Without|The same|Their|Theirs|Likewise|Of the|Its)\b")
    assert [(where, text) for where, text in docstrings() if leaning.match(text) and len(text.split()) < 6] == []


def test_codes_in_names_are_those_of_the_table() -> None:
    explained = re.findall(r"^\| ([A-Z]\d+) \|", (TESTS / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    used = set()
    for path in TESTS.rglob("test_*.py"):
        for name in re.findall(r"^ *def test((?:_[A-Z]\d+)+)_", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            used.update(name.split("_")[1:])
    assert len(explained) == len(set(explained))
    assert used == set(explained)


def test_paths_and_names_in_docstrings_are_there() -> None:
    """A file or a dotted name of the package between backticks."""
    missing = []
    for where, text in docstrings():
        for span in re.findall(r"`([^`\n]+)`", text):
            name = span.split("(")[0]
            if re.fullmatch(r"[\w-]+(/[\w-]+)+\.(py|md)", span):
                missing += [] if (PACKAGE.parent / span).exists() or (PACKAGE / span).exists() else [(where, span)]
            elif re.fullmatch(r"(core|engine|attr|api|viz|metrics|interp_plugins)(\.\w+)+", name):
                full = name if name.startswith("interp_plugins") else f"interp_plugins.{name}"
                try:
                    pkgutil.resolve_name(full)
                except (AttributeError, ImportError):
                    missing.append((where, span))
    assert missing == []
