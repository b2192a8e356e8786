"""The site: every page is in its table of contents, links lead somewhere, and it builds without a warning."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "tools" / "site"


@pytest.fixture(scope="module")
def gather() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SITE))  # as where it is run as a script
    spec = importlib.util.spec_from_file_location("gather", SITE / "gather.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SITE))


@pytest.fixture(scope="module")
def source(gather: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "source"
    gather.gather(folder)
    return folder


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings, as MyST and GitHub make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_page_is_in_one_table_of_contents(source: Path) -> None:
    pages = {
        p.relative_to(source).with_suffix("").as_posix() for p in source.rglob("*") if p.suffix in (".md", ".ipynb")
    }
    listed = ["index"]
    for page in source.rglob("*.md"):
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            here = page.parent.relative_to(source)
            lines = [re.sub(r"^.*<(.*)>$", r"\1", line) for line in tree.split("\n")]
            listed += [(here / line).as_posix() for line in lines if line and not line.startswith(":")]
    assert sorted(listed) == sorted(pages)


def test_links_lead_to_pages_and_headings_that_are_there(source: Path) -> None:
    broken = []
    for page in source.rglob("*.md"):
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = link.partition("#")
            there = Path(os.path.normpath(page.parent / file)) if file else page
            if not there.is_file() or (anchor and there.suffix == ".md" and unquote(anchor) not in slugs(there)):
                broken.append(f"{page.relative_to(source)}: {link}")
    assert broken == []


def test_a_link_to_what_the_site_does_not_hold_is_refused(gather: ModuleType) -> None:
    page = Path("docs/viz.md")
    assert (
        gather.linked("[a](../examples/pictures.py) [b](store.md#x)", page)
        == "[a](tutorials/pictures.py) [b](store.md#x)"
    )
    with pytest.raises(FileNotFoundError, match="no file of the site"):
        gather.linked("[a](../pyproject.toml)", page)


def test_the_reference_has_every_public_name_of_its_rooms(gather: ModuleType) -> None:
    import interp_plugins

    rooms = {p.name for p in (ROOT / "interp_plugins").iterdir() if (p / "__init__.py").is_file()}
    inside = {"_utils", "api", "cli", "core", "demo", "engine"}  # reached through the package's own names
    assert {name.split(".")[1] for name in gather.API if "." in name} - {"core"} == rooms - inside
    assert interp_plugins.__all__


def test_pages_for_users_name_no_test(source: Path) -> None:
    for page in source.glob("*.md"):
        shown = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert re.findall(r"`test_(?!time_aug)\w+`|\btest_\w+\.py|`tests/\S+`", shown) == [], page.name
    assert "`test_model_is_explained_in_eval_mode`" in (source / "dev" / "differences.md").read_text(encoding="utf-8")


def test_the_last_column_goes_where_it_names_tests(gather: ModuleType) -> None:
    text = "| A | Test |\n|---|---|\n| a \\| b | `test_x` |\n\n| A | B |\n|---|---|\n| 1 | 2 |\n"
    assert gather.without_tests(text) == "| A |\n|---|\n| a \\| b |\n\n| A | B |\n|---|---|\n| 1 | 2 |\n"


def test_the_command_line_is_what_the_page_says(source: Path) -> None:
    import typer

    from interp_plugins.cli import app

    commands: dict[str, Any] = {}
    whole: Any = typer.main.get_command(app)
    for name, one in whole.commands.items():
        below = getattr(one, "commands", None)
        commands.update({name: one} if below is None else {f"{name} {sub}": c for sub, c in below.items()})
    page = (source / "command-line.md").read_text(encoding="utf-8")
    written, _, made = page.partition("## Every command")
    for line in re.findall(r"`interp-plugins (\w[^`]+)`", written):
        words = line.split()
        if words[0] == "COMMAND":
            continue
        name = " ".join(words[:2]) if " ".join(words[:2]) in commands else words[0]
        known = {option for p in commands[name].params for option in p.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
    assert re.findall(r"^### `interp-plugins (.*)`", made, re.M) == list(commands)
    options = {o for c in commands.values() for p in c.params for o in (*p.opts, *p.secondary_opts) if "--" in o}
    assert options - set(re.findall(r"--[\w-]+", made)) <= {"--help"}


@pytest.mark.slow
def test_it_builds_without_a_warning(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-n",
        "-q",
        "-b",
        "html",
        "-c",
        SITE,
        source,
        tmp_path,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert "tutorials" in (tmp_path / "index.html").read_text(encoding="utf-8")
