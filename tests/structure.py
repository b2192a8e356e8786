"""The package's import graph, read off the source with ``ast``.

    python -m tests.structure [interp_plugins]     prints rooms, floors, arrows and circles

An import counts wherever it stands: in a function, behind ``TYPE_CHECKING``, or as ``importlib.import_module("...")``
with the name spelled out. A room is a folder of the package (a family of ``attr`` is one of its own), or a file that
lies directly in it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = "interp_plugins"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE
HOUSES = ("attr", "engine")  # folders whose folders and files are rooms of their own; their `__init__` is the door

Graph = Mapping[str, set[str]]


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


def last_name(node: ast.expr) -> str:
    """The last part of a dotted name, "" of anything else."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def imports(source: str, package: list[str]) -> list[Import]:
    """Every import of a file whose package is ``package``, relative ones resolved."""
    return _imports(source, tuple(package))


@cache
def _imports(source: str, package: tuple[str, ...]) -> list[Import]:
    def walk(node: ast.AST, at_module_level: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inner = at_module_level and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in map(last_name, _names(child.test)):
                inner = False  # read by a type checker alone
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, at_module_level)
            elif isinstance(child, ast.ImportFrom):
                for name in resolve(child, list(package)):
                    yield Import(name, child.lineno, at_module_level)
            elif (
                isinstance(child, ast.Call)
                and last_name(child.func) in {"import_module", "__import__"}
                and child.args
                and isinstance(child.args[0], ast.Constant)
                and isinstance(child.args[0].value, str)
            ):
                yield Import(child.args[0].value, child.lineno, at_module_level, late=not at_module_level)
            yield from walk(child, inner)

    return list(walk(ast.parse(source), True))


def _names(node: ast.AST) -> list[ast.expr]:
    return [part for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the package by its full name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def package_of(module: str, path: Path) -> list[str]:
    """The package that relative imports of a module start from."""
    parts = module.split(".")
    return parts if path.name == "__init__.py" else parts[:-1]


def file_graph(root: Path = ROOT, late: bool = True) -> dict[str, set[str]]:
    """Module -> the modules it imports. The package's own ``__init__`` (lazy names, the version) is left out.

    Args:
        root: the package's folder.
        late: whether ``importlib.import_module`` in a function counts.
    """
    known = modules(root)
    graph: dict[str, set[str]] = {name: set() for name in known if name != PACKAGE}
    for name in graph:
        for item in imports(known[name].read_text(encoding="utf-8"), package_of(name, known[name])):
            target = item.module if item.module in known else item.module.rpartition(".")[0]
            if target in graph and target != name and (late or not item.late):
                graph[name].add(target)
    return graph


def room_of(module: str) -> str:
    """The room of a module: "core", "attr.gradient", "cli"; a house's own ``__init__`` is "attr"."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[0] in HOUSES else parts[0]


def between(graph: Graph, rooms: Mapping[str, str]) -> dict[str, set[str]]:
    """The graph of rooms behind a graph of modules."""
    found: dict[str, set[str]] = {room: set() for room in rooms.values()}
    for name, targets in graph.items():
        found[rooms[name]] |= {rooms[target] for target in targets} - {rooms[name]}
    return found


def circles(graph: Graph) -> list[list[str]]:
    """The strongly connected components of more than one node, the largest first (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in graph[node]:
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in graph:
        if node not in order:
            visit(node)
    return sorted(found, key=len, reverse=True)


def floors(graph: Graph) -> list[list[str]]:
    """Nodes by their longest way down; those of a circle stand on one floor."""
    together = {node: circle[0] for circle in circles(graph) for node in circle}
    merged: dict[str, set[str]] = {}
    for node, targets in graph.items():
        mine = together.get(node, node)
        merged.setdefault(mine, set()).update({together.get(t, t) for t in targets} - {mine})
    height: dict[str, int] = {}

    def of(node: str) -> int:
        if node not in height:
            height[node] = 1 + max((of(t) for t in merged[node]), default=-1)
        return height[node]

    levels: dict[int, list[str]] = {}
    for node in graph:
        levels.setdefault(of(together.get(node, node)), []).append(node)
    return [sorted(levels[k]) for k in sorted(levels)]


def report(root: Path = ROOT) -> str:
    """Rooms, floors, arrows and circles in words."""
    graph, plain = file_graph(root), file_graph(root, late=False)
    rooms = {name: room_of(name) for name in graph}
    arrows = between(plain, rooms)
    lines = [
        f"{len(graph)} files, {sum(map(len, graph.values()))} arrows between files, {len(floors(graph))} floors",
        f"{len(arrows)} rooms, {sum(map(len, arrows.values()))} arrows between rooms, {len(floors(arrows))} floors",
        f"circles of files: {[len(c) for c in circles(graph)]}, without late doors {[len(c) for c in circles(plain)]}",
        f"circles of rooms, without late doors: {circles(arrows)}",
    ]
    for level, names in reversed(list(enumerate(floors(arrows)))):
        lines.append(f"floor {level}: " + "; ".join(_room(name, arrows[name]) for name in names))
    return "\n".join(lines)


def _room(name: str, targets: Iterable[str]) -> str:
    return f"{name} -> {', '.join(sorted(targets))}" if targets else name


if __name__ == "__main__":
    print(report(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT))
