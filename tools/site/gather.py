"""Gather the pages of the site in one folder: `python tools/site/gather.py build/site/source [NOTEBOOKS]`.

Pages lie where they are read in the repository: guides in `docs`, notebooks in `examples`, a few at the top. Here they
are copied to where the site has them, their links with them, and the pages of the API reference are written. A link to
something that the site does not hold is an error. Notebooks are those of `examples`, or of a folder where they were
executed anew. What users need not read (which test keeps a sentence true) is on a page of its own under `dev`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import command_line

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
PLACES = {
    "CHANGELOG.md": "dev/changelog.md",
    "CONTRIBUTING.md": "dev/contributing.md",
    "LICENSE": "dev/LICENSE.txt",
    "README.md": "index.md",
    "SECURITY.md": "dev/security.md",
    "tests/README.md": "dev/tests.md",
}
# The rooms of the reference: module, title, what it is for.
API = {
    "interp_plugins": ("interp_plugins", "One call from a model and its inputs to explanations, and what it takes."),
    "interp_plugins.fastai": ("fastai", "The adapter for fastai; importing it adds `explain` and more to `Learner`."),
    "interp_plugins.lightning": ("Lightning", "The adapter for Lightning: callbacks, and functions on modules."),
    "interp_plugins.attr": ("Methods", "The methods as classes, with Captum's names and signatures."),
    "interp_plugins.metrics": ("Metrics", "Numbers that judge maps, and comparisons of methods."),
    "interp_plugins.viz": ("Pictures", "How explanations are drawn."),
    "interp_plugins.store": ("Store", "Explanations of whole data sets, on disk."),
    "interp_plugins.influence": ("Influence", "Wrong labels, copies and outliers among the data."),
    "interp_plugins.optim": ("Features", "What units look for: pictures that excite them, and the data that do."),
    "interp_plugins.optim.objectives": ("Objectives", "What of a network a picture is to excite."),
    "interp_plugins.robust": ("Attacks", "Inputs moved on purpose, and how far they can be moved."),
    "interp_plugins.concept": ("Concepts", "What a network goes by: concepts shown by examples, tested."),
    "interp_plugins.llm": ("Language models", "Which words of a prompt made a language model answer as it did."),
    "interp_plugins.module": ("Gates", "Layers that learn which features a network can do without."),
    "interp_plugins.insights": ("Viewer", "The interactive viewer: sessions, pages, the widget."),
    "interp_plugins.benchmark": ("Benchmark", "Tasks whose truth is known."),
    "interp_plugins.core.target": ("Targets", "What of an output is explained, said as objects."),
    "interp_plugins.core.region": ("Regions", "Targets for segmentations."),
    "interp_plugins.core.detection": ("Detections", "Targets for detectors."),
    "interp_plugins.core.baseline": ("Baselines", "What stands for nothing."),
    "interp_plugins.core.errors": ("Errors", "What is raised and warned."),
}
# Names that a room passes on, and that another page describes.
ELSEWHERE = {
    "interp_plugins": ["influence"],  # the room itself, which is called
    "interp_plugins.core.target": ["InputSpec"],
    "interp_plugins.optim": ["dataset_examples", "visualize"],
    "interp_plugins.fastai": ["Explanation", "Explanations"],
}


def pages() -> list[Path]:
    """Every page that a reader sees, as its path in the repository."""
    guides = [p.relative_to(ROOT) for p in sorted((ROOT / "docs").rglob("*.md"))]
    notebooks = [p.relative_to(ROOT) for p in sorted((ROOT / "examples").glob("*.ipynb"))]
    return [*guides, *notebooks, *(Path(p) for p in PLACES if p.endswith(".md") and p != "README.md")]


def place(path: Path) -> Path | None:
    """Where the site has a file of the repository; None: it has it not."""
    if path.as_posix() in PLACES:
        return Path(PLACES[path.as_posix()])
    if path.parts[0] == "docs":
        return path.relative_to("docs")
    if path.parts[0] == "examples" and path.suffix in (".ipynb", ".py"):
        return Path("tutorials", *path.parts[1:])
    return None


def linked(text: str, page: Path) -> str:
    """A page's text with its relative links as they are in the site.

    Raises:
        FileNotFoundError: a link leads to no file, or to one that the site does not hold.
    """
    here = place(page)

    def moved(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        file, hash_, anchor = link.partition("#")
        if not file or re.match(r"[a-z]+:", file):
            return match[0]
        path = Path(os.path.normpath(page.parent / file))
        there = place(path)
        made_here = path.parts[:2] == ("docs", "api")
        if there is None or not (made_here or (ROOT / path).is_file()):
            raise FileNotFoundError(f"{page} links to {link}: no file of the site. Link to a page, or name it in code.")
        return f"{before}{os.path.relpath(there, here.parent)}{hash_}{anchor}{after}"

    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if i % 2 else LINK.sub(moved, part) for i, part in enumerate(parts))


def reference() -> dict[str, str]:
    """The pages of the API reference by file name."""
    names = list(API)
    links = "\n".join(f"- [{API[n][0]}]({n}.md): {API[n][1]}" for n in names)
    listed = "\n".join(names)
    start = f"# API reference\n\nPublic names by room, from their docstrings.\n\n{links}\n"
    found = {"index.md": f"{start}\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"}
    for name, (title, purpose) in API.items():
        rst = f".. automodule:: {name}\n   :members:\n"
        if ".core." not in name:  # a room: its names come from its files, and `__all__` says which
            rst += "   :imported-members:\n"
        if name == "interp_plugins.attr":  # what a method takes is often said once, by a base that is not public
            rst += "   :inherited-members: Attribution, Module, object, tuple, Generic\n"
        rst += "".join(f"   :exclude-members: {', '.join(names)}\n" for names in [ELSEWHERE.get(name)] if names)
        found[f"{name}.md"] = f"# {title}\n\n{purpose} Module: `{name}`.\n\n```{{eval-rst}}\n{rst}```\n"
    return found


def without_tests(text: str) -> str:
    """A page without the last column of tables that name a test in it."""
    found, drop = [], False
    for line in text.splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        if line.startswith("| "):
            drop = drop or cells[-2].strip().startswith("Test")
        elif not line.startswith("|"):
            drop = False
        found.append("|".join([*cells[:-2], ""]) if drop else line)
    return "\n".join(found) + "\n"


def moved_down(text: str) -> str:
    """A page's text with its relative links as they are one folder further down."""
    return re.sub(r"(\]\()(?![a-z]+:|#)([^)\s]+\))", r"\1../\2", text)


def gather(folder: Path, notebooks: Path | None = None) -> None:
    """Fill a folder with the site's sources; what was there before is removed.

    Args:
        folder: where the sources go.
        notebooks: a folder of the notebooks of `examples`, made anew.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for page in pages():
        there = folder / place(page)
        there.parent.mkdir(parents=True, exist_ok=True)
        if page.suffix == ".ipynb":
            shutil.copy(ROOT / page if notebooks is None else notebooks / page.name, there)
            continue
        text = linked((ROOT / page).read_text(encoding="utf-8"), page)
        if page.name == "differences.md":  # the whole table, with its tests, is a page for those who change things
            tests = re.sub(r"<!--(.*?)-->", r"\1", text, flags=re.DOTALL).replace(
                "# Differences from Captum", "# Differences from Captum, and their tests", 1
            )
            there.with_name("dev").mkdir(exist_ok=True)
            there.with_name("dev").joinpath("differences.md").write_text(moved_down(tests), encoding="utf-8")
        text = command_line.with_reference(text) if page.name == "command-line.md" else without_tests(text)
        there.write_text(text, encoding="utf-8")
    for script in (ROOT / "examples").glob("*.py"):
        shutil.copy(script, folder / "tutorials")
    shutil.copy(ROOT / "LICENSE", folder / "dev" / "LICENSE.txt")
    shutil.copytree(ROOT / "docs" / "images", folder / "images")
    for run in ("small", "photographs", "sentences"):
        shutil.copytree(ROOT / "docs" / "benchmark" / run, folder / "benchmark" / run)
    (folder / "api").mkdir()
    for name, text in reference().items():
        (folder / "api" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    gather(Path(sys.argv[1]), *map(Path, sys.argv[2:]))
