"""The rooms of the package, and who may import whom.

The dependency direction is read off the source with ``ast``, so an import that hides in a function or behind
``TYPE_CHECKING`` counts like any other. What a room may ask for late, by ``importlib.import_module`` inside a
function, stands in ``LATE``.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "interp_plugins"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE
MAX_LINES = 450

MEASURES = {"metrics", "robust", "optim", "concept", "influence"}
ADAPTERS = {"fastai", "lightning"}
BELOW_ADAPTERS = {"core", "engine", "attr", "api", *MEASURES, "benchmark", "viz", "store", "insights"}

# room -> the rooms it may import, itself aside. A file that lies directly in the package is its own room.
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "engine": {"core"},
    "attr": {"core", "engine"},
    "api": {"core", "engine", "attr"},
    **{room: {"core", "engine", "attr", "api"} for room in MEASURES},
    "benchmark": {"core", "engine", "attr", "api", *MEASURES},
    "viz": {"core"},
    "store": {"core", "api"},
    "insights": {"core", "api", "metrics", "store", "viz"},
    "__init__": BELOW_ADAPTERS,
    **{room: BELOW_ADAPTERS | {"__init__"} for room in ADAPTERS},
    "demo": {"core", "api", *ADAPTERS, "__init__"},
    "cli": BELOW_ADAPTERS | ADAPTERS | {"demo", "__init__"},
}
# The late doors: the registry fills itself from attr; an Explanation, and Captum's visualization functions, are drawn
# by viz.
LATE: dict[str, set[str]] = {"core": {"attr", "viz"}, "attr": {"viz"}}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
FRAMEWORKS = {"fastai", "fastcore", "pytorch_lightning", "lightning", "matplotlib", "captum"}


class Import(NamedTuple):
    """One imported name: ``module`` in full, where it stands, and how it is asked for."""

    module: str
    line: int
    at_module_level: bool
    late: bool = False  # importlib.import_module("...") in a function


def resolve(node: ast.ImportFrom, package: list[str]) -> list[str]:
    """The full names behind ``from x import a, b``: a name may be a submodule, so it is kept."""
    if node.level:
        package = package[: len(package) - node.level + 1]
        base = ".".join([*package, *(node.module.split(".") if node.module else [])])
    else:
        base = node.module or ""
    return [f"{base}.{alias.name}" for alias in node.names]


def imports(source: str, package: list[str]) -> Iterator[Import]:
    """Every import of a file whose package is ``package``, relative ones resolved."""

    def walk(node: ast.AST, at_module_level: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inner = at_module_level and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inner = False  # read by a type checker alone
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, at_module_level)
            elif isinstance(child, ast.ImportFrom):
                for name in resolve(child, package):
                    yield Import(name, child.lineno, at_module_level)
            elif (
                isinstance(child, ast.Call)
                and ast.unparse(child.func).rpartition(".")[2] in {"import_module", "__import__"}
                and child.args
                and isinstance(child.args[0], ast.Constant)
                and isinstance(child.args[0].value, str)
            ):
                yield Import(child.args[0].value, child.lineno, at_module_level, late=not at_module_level)
            yield from walk(child, inner)

    yield from walk(ast.parse(source), True)


def room_of(module: str) -> str | None:
    """The room a full name lies in; None for other packages and for the package itself (``__version__``)."""
    first, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    if first != PACKAGE or name in {"", "__version__"}:
        return None
    is_room = name in ALLOWED or (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file()
    return name if is_room else "__init__"


def complaints(room: str, source: str, package: list[str]) -> list[str]:
    """What is wrong with the imports of one file that lies in ``room``."""
    found = []
    for item in imports(source, package):
        target = room_of(item.module)
        allowed = ALLOWED[room] | (LATE.get(room, set()) if item.late else set())
        if target is not None and target != room and target not in allowed:
            found.append(f"line {item.line}: {room} imports {item.module}")
        top = item.module.partition(".")[0]
        if top == "captum":
            found.append(f"line {item.line}: captum is an oracle for tests, not a dependency")
        elif top in FRAMEWORKS and item.at_module_level and room in {"core", "attr", "__init__"}:
            found.append(f"line {item.line}: {top} is imported at module level")
    return found


FILES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of_file(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def test_there_are_files_to_check() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_keeps_the_dependency_direction(path: Path) -> None:
    room = room_of_file(path)
    assert room in ALLOWED, f"{room} is a new room: say in ALLOWED what it may import"
    package = [PACKAGE, *path.relative_to(ROOT).parent.parts]
    assert complaints(room, path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_holds_one_idea(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{name_of(path)} has {lines} lines: which second idea moved in?"


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("core", "from interp_plugins.attr import Saliency"),
        ("core", "from ..attr.saliency import Saliency"),
        ("core", "from .. import viz"),
        ("core", "def f():\n    from interp_plugins import viz"),
        ("core", "import importlib\nimportlib.import_module('interp_plugins.viz')"),
        ("core", "def f():\n    importlib.import_module('interp_plugins.fastai')"),
        ("core", "from interp_plugins import explain"),
        ("core", "import matplotlib.pyplot as plt"),
        ("attr", "try:\n    import fastai\nexcept ImportError:\n    pass"),
        ("attr", "def f():\n    import captum.attr"),
        ("viz", "import interp_plugins.attr"),
        ("fastai", "from ..lightning import explain"),
    ],
)
def test_a_wrong_import_is_seen(room: str, source: str) -> None:
    assert complaints(room, source, [PACKAGE, room])


@pytest.mark.parametrize(
    ("room", "source"),
    [
        (
            "attr",
            "from ..core import target\nfrom .path import Path\nfrom interp_plugins.core import errors",
        ),
        ("core", "from interp_plugins import __version__"),
        ("core", "def f():\n    return importlib.import_module('interp_plugins.viz')"),
        ("core", "def f():\n    import matplotlib"),
        ("core", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import matplotlib"),
        ("fastai", "import fastai.vision.all\nfrom ..core import target\nfrom interp_plugins import explain"),
    ],
)
def test_a_right_import_passes(room: str, source: str) -> None:
    assert complaints(room, source, [PACKAGE, room]) == []
