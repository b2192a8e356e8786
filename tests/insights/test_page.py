"""The page's modules: one direction of imports, one script in the end, and types that say what Python sends."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from interp_plugins.core.explanation import Explanation
from interp_plugins.core.spec import InputSpec
from interp_plugins.insights import Precomputed, Session
from interp_plugins.insights.page import script
from interp_plugins.insights.report import catalogue
from interp_plugins.insights.wire import input_record, made_records
from tests.insights.nets import CLASSES, Squares, squares

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "interp_plugins" / "insights" / "static"
MODULES = {path.name: path.read_text(encoding="utf-8") for path in STATIC.glob("*.js")}

# Each may import what stands before it. The hosts start the viewer and are imported by nothing.
ORDER = ["wire.js", "elements.js", "kinds.js", "records.js", "maps.js", "card.js", "controls.js", "app.js"]
HOSTS = ["file_host.js", "socket_host.js"]
MOST_LINES = 320

IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w.]+)";$', re.MULTILINE)
TYPES = re.compile(r'@import \{([^}]*)\} from "\./([\w.]+)"')
EXPORT = re.compile(r"^export (?:async function|function|class|const|let) (\w+)", re.MULTILINE)
TOP_LEVEL = re.compile(r"^(?:export )?(?:async function|function|class|const|let|var) (\w+)", re.MULTILINE)


def names(text: str) -> set[str]:
    return {name.strip() for name in text.split(",")}


def before(name: str) -> list[str]:
    return ORDER[: ORDER.index(name)] if name in ORDER else ORDER


def test_every_module_has_its_place() -> None:
    assert sorted(MODULES) == sorted([*ORDER, *HOSTS])


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_what_stands_before_it(name: str) -> None:
    text = MODULES[name]
    for wanted, source in [*IMPORT.findall(text), *TYPES.findall(text)]:
        assert source in before(name), f"{name} imports {sorted(names(wanted))} from {source}, which stands above it."
    for wanted, source in IMPORT.findall(text):
        assert names(wanted) <= set(EXPORT.findall(MODULES[source]))
    assert len(re.findall(r"^import\b", text, re.MULTILINE)) == len(IMPORT.findall(text)), "only `import { a } from`"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_what_a_module_exports_is_imported(name: str) -> None:
    wanted = {
        one
        for text in MODULES.values()
        for group, source in IMPORT.findall(text)
        if source == name
        for one in names(group)
    }
    assert set(EXPORT.findall(MODULES[name])) == wanted


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_is_short_and_says_what_it_is(name: str) -> None:
    text = MODULES[name]
    assert text.startswith("// ") and text.endswith("\n")
    assert text.count("\n") <= MOST_LINES and max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("entry", ["app.js", *HOSTS])
def test_the_script_is_its_modules_in_order_each_once(entry: str) -> None:
    joined = script(entry)
    parts = [*ORDER, entry] if entry in HOSTS else ORDER
    heads = [joined.index(MODULES[name].splitlines()[0]) for name in parts]
    assert heads[-1] == max(heads) and len(set(heads)) == len(heads)
    for name in parts:
        for _, source in IMPORT.findall(MODULES[name]):
            assert heads[parts.index(source)] < heads[parts.index(name)]
    without = [
        line for line in "\n".join(MODULES[name] for name in parts).splitlines() if not line.startswith("import ")
    ]
    assert sorted(filter(None, joined.splitlines())) == sorted(
        line.removeprefix("export ") if EXPORT.match(line) else line for line in without if line
    )


@pytest.mark.parametrize("entry", ["app.js", *HOSTS])
def test_the_script_needs_nothing_beside_it(entry: str) -> None:
    joined = script(entry)
    assert not re.search(r"^import\b|\bimport\(", joined, re.MULTILINE)
    assert re.findall(r"^export.*", joined, re.MULTILINE) == ["export default { render };"]
    declared = TOP_LEVEL.findall(joined)
    assert sorted(declared) == sorted(set(declared)), "two modules declare one name"
    assert "</script" not in joined.lower() and "<!--" not in joined


# -- types ------------------------------------------------------------------------------------------------------------


def typedef(name: str) -> str:
    """The text of a type in wire.js."""
    found = re.search(rf"@typedef \{{((?:[^@]|@(?!typedef))*)\}} {name}\b", MODULES["wire.js"])
    assert found, name
    return re.sub(r"\n \*", "", found[1])


def keys(text: str) -> set[str]:
    """The keys of an object type: those of its outermost braces; `key?` may be absent."""
    depth, outer = 0, ""
    for letter in text:
        depth -= letter in "}>"
        outer += letter if depth <= 1 else ""
        depth += letter in "{<"
    return set(re.findall(r"(\w+\??):", outer))


def fits(record: dict[str, Any], declared: set[str]) -> bool:
    needed = {key for key in declared if not key.endswith("?")}
    return needed <= set(record) <= {key.rstrip("?") for key in declared}


def explanation(kind: str) -> Explanation:
    shapes = {"image": (1, 3, 8, 8), "text": (1, 3), "tabular": (1, 3), "sequence": (1, 40, 2)}
    shape = shapes[kind]
    exp = Explanation(
        attributions=torch.ones(shape), inputs=torch.ones(shape), method="ig", title="IG", spec=InputSpec(kind=kind)
    )
    return replace(exp, tokens=(["a", "b", "c"],)) if kind == "text" else exp


@pytest.mark.parametrize(
    "kind, view",
    [("image", "heatmap"), ("text", "tokens"), ("tabular", "bars"), ("sequence", "picture"), ("nan", "error")],
)
def test_a_map_is_what_its_type_says(kind: str, view: str) -> None:
    exp = explanation("image" if kind == "nan" else kind)
    if kind == "nan":
        exp = replace(exp, attributions=torch.full((1, 3, 8, 8), torch.nan))
    subject = Precomputed([exp])
    (record,) = made_records(subject.given(0)[0], 0, None, subject.call(0))
    own = re.search(rf'@typedef \{{Facts (& Quantised )?& (\{{view: "{view}".*?\}})\}}', MODULES["wire.js"])
    assert own and record["view"] == view
    assert fits(record, keys(typedef("Facts")) | keys(own[2]) | (keys(typedef("Quantised")) if own[1] else set()))


@pytest.mark.parametrize(
    "kind, view", [("image", "image"), ("text", "tokens"), ("tabular", "values"), ("sequence", "image")]
)
def test_an_input_is_what_its_type_says(kind: str, view: str) -> None:
    record = input_record(explanation(kind), 0)
    (own,) = re.findall(rf'\{{view: "{view}".*?\}}', typedef("InputRecord"))
    assert record["view"] == view and set(record) == keys(own)


@pytest.mark.parametrize("live", [False, True])
def test_the_catalogue_is_what_its_type_says(live: bool) -> None:
    if live:
        session = Session(Squares(), squares(2), labels=[0, 1], input_spec=InputSpec(kind="image", vocab=CLASSES))
        about = session.catalogue
        session.close()
    else:
        about = catalogue(Precomputed([explanation("image")], [0]))
    assert fits(about, keys(typedef("Catalogue")))
    for sample in about["samples"]:
        assert set(sample) == keys(typedef("Sample"))
        assert all(set(one) == keys(typedef("Outcome")) for one in sample["models"])
    for method in about["methods"]:
        assert set(method) == keys(typedef("Method"))
        for parameter in method["params"]:
            assert set(parameter) == keys(typedef("Parameter"))
            assert f'"{parameter["type"]}"' in typedef("Parameter")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_where_npm_is_missing_lint_says_so_and_goes_on(tmp_path: Path) -> None:
    for name in ("make", "sh"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = subprocess.run(
        ["make", "page"], cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "No npm here: the types of the viewer's page were not checked.\n"


def test_typescript_is_pinned_and_no_registry_is_named() -> None:
    lock = (ROOT / "tools" / "page" / "package-lock.json").read_text(encoding="utf-8")
    assert '"integrity": "sha512-' in lock and "resolved" not in lock and "://" not in lock
