"""The rooms of the package, and who may import whom.

`tests/structure.py` reads the imports; an import that hides in a function or behind ``TYPE_CHECKING`` counts like any
other. One late door is left, for one reason: an `Explanation` is shown by `viz`, which stands on it.
"""

import ast

import pytest

from tests.structure import PACKAGE, ROOT, between, circles, file_graph, imports, modules, package_of, room_of

MAX_LINES = 450
MAX_BODY = 45  # lines of a function, its docstring not counted

BASE = {"engine.switch", "engine.meter"}
FAMILIES = {"attr.gradient", "attr.perturbation", "attr.cam", "attr.attention", "attr.ensembles"}
METHODS = {"attr", "attr.shared", "attr.evidence", *FAMILIES, "attr.backward", "attr.language", "attr.compat"}
MEASURES = {"metrics", "robust", "optim", "concept", "influence"}
UP_TO_API = {"core", "engine", *METHODS, "api"}
PRODUCTS = {*UP_TO_API, *MEASURES, "llm", "module", "benchmark", "viz"}
ADAPTERS = {"fastai", "lightning"}

# room -> the rooms it may import, itself aside. A family of `attr` and a part of `engine` are rooms of their own; a
# file that lies directly in the package is one, too. Other rooms import `engine` through its face alone.
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    **{room: {"core"} for room in BASE},
    "engine.shared_passes": {"core", *BASE},
    "engine.opening_pass": {"core", *BASE, "engine.shared_passes"},
    "engine.kernels": {"core", *BASE},
    "engine.plan": {"core", *BASE, "engine.kernels"},
    "engine.incremental": {"core", *BASE, "engine.kernels", "engine.plan"},
    "engine": {
        "core",
        *BASE,
        "engine.shared_passes",
        "engine.opening_pass",
        "engine.kernels",
        "engine.plan",
        "engine.incremental",
    },
    "viz": {"core"},
    "attr.evidence": {"core"},
    "attr.shared": {"core", "engine", "attr.evidence"},
    **{family: {"core", "engine", "attr.shared"} for family in FAMILIES},
    "attr.backward": {"core", "engine", "attr.shared", "attr.cam"},  # Guided Grad-CAM is a product of the two
    "attr.compat": {"core", "viz"},  # Captum's drawing functions stand under `captum.attr`
    "attr.language": {
        "core",
        "engine",
        "attr.shared",
        "attr.backward",
        "attr.gradient",
        "attr.perturbation",
        "attr.compat",
    },
    "attr._core": {"attr.gradient", "attr.perturbation"},  # these three are Captum's private paths, names alone
    "attr._utils": {"attr.backward", "attr.compat"},
    "_utils": {"attr.perturbation"},
    "attr": METHODS - {"attr"},
    "api": UP_TO_API - {"api"},
    **{room: {*UP_TO_API, "viz"} for room in MEASURES},
    "robust": {*UP_TO_API, "viz", "metrics", "optim"},  # how alike maps are is a metric; changes to be seen are waves
    "llm": {*UP_TO_API, "viz", "metrics"},  # a rank correlation is a metric
    "module": {"core"},
    "store": PRODUCTS - {"benchmark"},
    "benchmark": {*PRODUCTS, "store"} - {"benchmark"},  # a run of it is one of the store's
    "insights": {*PRODUCTS, "store"},
    "__init__": {*PRODUCTS, "store", "insights"},
    **{room: {*PRODUCTS, "store", "insights", "__init__"} for room in ADAPTERS},
    "demo": {*PRODUCTS, "store", "insights", *ADAPTERS, "__init__"},
    "cli": {*PRODUCTS, "store", "insights", *ADAPTERS, "demo", "__init__"},
}
LATE = {("interp_plugins.core.explanation", "viz")}  # module, and the room that it may ask for late

FRAMEWORKS = {"fastai", "fastcore", "pytorch_lightning", "lightning", "matplotlib", "captum"}
MODULES = modules()


def target_room(module: str) -> str | None:
    """The room a full name lies in; None for other packages and for the package itself (``__version__``)."""
    first, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    if first != PACKAGE or name in {"", "__version__"}:
        return None
    known = module if module in MODULES else module.rpartition(".")[0]
    if known in MODULES and known != PACKAGE:
        return room_of(known)
    return room_of(module) if (ROOT / name).is_dir() or name in ALLOWED else "__init__"


def complaints(module: str, source: str, package: list[str]) -> list[str]:
    """What is wrong with the imports of one file."""
    room = room_of(module) if module != PACKAGE else "__init__"
    assert room in ALLOWED, f"{room} is a new room: say in ALLOWED what it may import"
    found = []
    for item in imports(source, package):
        target = target_room(item.module)
        allowed = ALLOWED[room] | ({r for m, r in LATE if m == module} if item.late else set())
        if target is not None and target != room and target not in allowed:
            found.append(f"line {item.line}: {room} imports {item.module}")
        top = item.module.partition(".")[0]
        if top == "captum":
            found.append(f"line {item.line}: captum is an oracle for tests, not a dependency")
        elif top in FRAMEWORKS and item.at_module_level and room.partition(".")[0] in {*UP_TO_API, "__init__"}:
            found.append(f"line {item.line}: {top} is imported at module level")
        if item.module.startswith(".") or (not item.late and package and item.module.split(".")[0] == ""):
            found.append(f"line {item.line}: imports are absolute")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_file_keeps_the_dependency_direction(module: str) -> None:
    path = MODULES[module]
    assert complaints(module, path.read_text(encoding="utf-8"), package_of(module, path)) == []


@pytest.mark.parametrize("module", MODULES)
def test_file_holds_one_idea(module: str) -> None:
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{module} has {lines} lines: which second idea moved in?"


def bodies(source: str) -> dict[str, int]:
    """Lines of the body of every function of a file, from its first statement behind the docstring to its last."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[ast.get_docstring(node) is not None :]
            found[f"{node.name}, line {node.lineno}"] = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_function_is_too_long(module: str) -> None:
    long = {
        name: lines for name, lines in bodies(MODULES[module].read_text(encoding="utf-8")).items() if lines > MAX_BODY
    }
    assert not long, f"{module}: {long} lines of body: which step deserves a name?"


def test_bodies_are_counted_without_their_docstring() -> None:
    source = (
        'def f():\n    """One.\n\n    Two.\n    """\n    a = 1\n\n    return a\n\n\ndef g():\n    """Only this."""\n'
    )
    assert bodies(source) == {"f, line 1": 3, "g, line 11": 0}


def test_there_is_no_circle_but_that_of_the_late_door() -> None:
    assert circles(file_graph(late=False)) == []
    (circle,) = circles(file_graph())
    outside = [name for name in circle if room_of(name) != "viz"]
    assert outside == ["interp_plugins.core.explanation"]


def test_rooms_form_no_circle() -> None:
    graph = file_graph(late=False)
    assert circles(between(graph, {name: room_of(name) for name in graph})) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.target", "from interp_plugins.attr import Saliency"),
        ("core.target", "from ..attr.gradient.saliency import Saliency"),
        ("core.target", "from interp_plugins.engine import planned"),
        ("core.target", "def f():\n    from interp_plugins import viz"),
        ("core.target", "def f():\n    importlib.import_module('interp_plugins.viz')"),
        ("core.explanation", "import importlib\nimportlib.import_module('interp_plugins.viz')"),
        ("core.explanation", "def f():\n    importlib.import_module('interp_plugins.fastai')"),
        ("core.target", "from interp_plugins import explain"),
        ("core.target", "import matplotlib.pyplot as plt"),
        ("engine.switch", "from interp_plugins.attr.shared import base"),
        ("attr.shared.base", "def f():\n    from interp_plugins.api.explain import explain"),
        ("attr.shared.base", "from interp_plugins.attr.gradient.saliency import Saliency"),
        ("attr.gradient.saliency", "from interp_plugins.attr.perturbation.lime import Lime"),
        ("attr.gradient.saliency", "try:\n    import fastai\nexcept ImportError:\n    pass"),
        ("attr.gradient.saliency", "def f():\n    import captum.attr"),
        ("viz.show", "import interp_plugins.attr"),
        ("metrics.rows", "from interp_plugins.fastai import learner"),
        ("fastai.learner", "from ..lightning import explain"),
    ],
)
def test_a_wrong_import_is_seen(module: str, source: str) -> None:
    name = f"{PACKAGE}.{module}"
    assert complaints(name, source, name.split(".")[:-1])


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("attr.gradient.saliency", "from interp_plugins.core import errors\nfrom interp_plugins.engine import planned"),
        ("core.target", "from interp_plugins import __version__"),
        ("core.explanation", "def f():\n    return importlib.import_module('interp_plugins.viz')"),
        ("core.target", "def f():\n    import matplotlib"),
        ("core.target", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import matplotlib"),
        (
            "fastai.learner",
            "import fastai.vision.all\nfrom interp_plugins.core import target\nfrom interp_plugins import explain",
        ),
    ],
)
def test_a_right_import_passes(module: str, source: str) -> None:
    name = f"{PACKAGE}.{module}"
    assert complaints(name, source, name.split(".")[:-1]) == []


# One idea in two frameworks, imported from the adapter of one's own.
TWINS = {"AttributionCallback", "MarginHistory", "NeuronCallback", "RobustnessCallback"}


def test_no_two_public_classes_share_a_name() -> None:
    """A name read in a traceback, in a hover or in the documents leads to one class."""
    places: dict[str, list[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: at for name, at in places.items() if len(at) > 1 and name not in TWINS} == {}
