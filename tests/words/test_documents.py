"""What the documents show is run, and what they name is there."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")),
]
GUIDES = ["docs/dev/architecture.md", "CONTRIBUTING.md", "tests/README.md"]

# Document and section (None: the whole document), and on what names of `tests/words/prepared.py` its blocks run.
RUN = {
    ("README.md", "fastai"): "fastai",
    ("README.md", "Lightning"): "lightning",
    ("README.md", "Plain PyTorch"): "three hundred classes",
    ("README.md", "Before and after"): "a picture",
    ("docs/benchmark.md", None): "plain",
    ("docs/budget.md", None): "plain",
    ("docs/captum.md", None): "plain",
    ("docs/concepts.md", None): "plain",
    ("docs/concepts-in-data.md", None): "plain",
    ("docs/fastai.md", None): "fastai",
    ("docs/influence.md", None): "plain",
    ("docs/index.md", None): "front page",
    ("docs/insights.md", "Results beside the maps"): "plain",
    ("docs/install.md", None): "plain",
    ("docs/lightning.md", None): "lightning",
    ("docs/llm.md", None): "language model",
    ("docs/metrics.md", None): "plain",
    ("docs/optim.md", None): "plain",
    ("docs/robust.md", None): "plain",
    ("docs/rows.md", None): "plain",
    ("docs/rules.md", None): "features and classifier",
    ("docs/runtimes.md", None): "plain",
    ("docs/cluster.md", None): "both",
    ("docs/store.md", None): "both",
    ("docs/suspects.md", None): "plain",
    ("docs/targets.md", None): "plain",
    ("docs/viz.md", None): "plain",
    ("docs/which-method.md", None): "plain",
}
# Blocks that are not run, by their first line, and why.
NOT_RUN = {
    "from interp_plugins.demo.language_model import smollm2  # 2 s, 540 MB": "a model of 93 MB that is not installed",
    "# explain.py": "one script on many GPUs, into a directory that all machines see",
}


def blocks(document: str, section: str | None = None) -> list[str]:
    """The Python blocks of a document, or of one of its sections."""
    text = (ROOT / document).read_text(encoding="utf-8")
    if section is not None:
        text = text.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def runs(block: str) -> bool:
    return block.splitlines()[0] not in NOT_RUN


@pytest.mark.slow
@pytest.mark.parametrize(("document", "section", "area"), [(d, s, area) for (d, s), area in RUN.items()])
def test_a_document_does_what_it_says(document: str, section: str | None, area: str, session: Any) -> None:
    session(area, *filter(runs, blocks(document, section)))


def test_no_block_is_forgotten() -> None:
    """Every Python block is run, compared with the file it is a piece of, or in the list of those that cannot be."""
    expected = {document: blocks(document) for document in DOCUMENTS}
    found: dict[str, list[str]] = {document: [] for document in DOCUMENTS}
    for document, section in [*RUN, ("CONTRIBUTING.md", "Adding a method")]:
        found[document] += blocks(document, section)
    assert found == expected


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
    where = {"gradient/idgi.py", "__init__.py", "shared/names.py", "evidence/randomised.py"}
    assert named == {package / "attr" / name for name in where}


# -- what the guides name is there ---------------------------------------------------------------------------


PACKAGE = ROOT / "interp_plugins"
SPANS = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"[\w./-]*\w\.(py|md|toml|lock|js|css|sh)")
FOLDER = re.compile(r"([\w.-]+/)+[\w.-]*")


def spans(document: str) -> set[str]:
    """What stands between backticks, outside of code blocks."""
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)
    return set(SPANS.findall(text))


def is_dotted(span: str) -> bool:
    """Whether a span is a dotted name of the package, in full or from one of its rooms."""
    first = span.partition(".")[0]
    return re.fullmatch(r"\w+(\.\w+)+", span) is not None and (first == "interp_plugins" or (PACKAGE / first).is_dir())


@pytest.mark.parametrize("document", GUIDES)
def test_every_path_in_a_guide_is_there(document: str) -> None:
    paths = {s for s in spans(document) if FILE.fullmatch(s) or FOLDER.fullmatch(s)}
    assert paths
    assert {p for p in paths if not any((base / p).exists() for base in (ROOT, PACKAGE))} == set()


@pytest.mark.parametrize("document", GUIDES)
def test_every_dotted_name_in_a_guide_is_there(document: str) -> None:
    for name in (s.split("(")[0] for s in spans(document)):
        if is_dotted(name) and not FILE.fullmatch(name):
            pkgutil.resolve_name(name if name.startswith("interp_plugins") else f"interp_plugins.{name}")


@pytest.mark.parametrize("document", ["docs/dev/architecture.md", "CONTRIBUTING.md"])
def test_every_noun_of_a_table_is_in_its_file(document: str) -> None:
    """Rows ``| `Name`, `name` | `file.py` | ...`` and ``| term | meaning | `file.py`: `Name` |``."""
    checked = 0
    for row in (ROOT / document).read_text(encoding="utf-8").splitlines():
        for names, path in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| `([\w/]+\.py)` \|", row) + [
            (names, path) for path, names in re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", row)
        ]:
            module = importlib.import_module("interp_plugins." + path.removesuffix(".py").replace("/", "."))
            checked += 1
            assert [n for n in SPANS.findall(names) if not hasattr(module, n)] == [], row
    assert checked > 5


def test_where_things_moved_to_is_there() -> None:
    table = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("| Was | Is |")[1].split("\n\n")[0]
    for row in table.splitlines()[2:]:
        last: Any = None
        for name in SPANS.findall(row.split("|")[2]):
            if name.startswith("interp_plugins"):
                last = pkgutil.resolve_name(name)
            elif name.isidentifier():
                assert hasattr(last, name), row
