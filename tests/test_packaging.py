"""The wheel: what it holds, what it says of itself, and that its core needs neither framework."""

import email
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

import interp_plugins

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
CORE_DEPENDENCIES = {"numpy", "safetensors", "torch", "tqdm"}
EXTRAS = {"all", "benchmark", "cli", "demo", "dev", "docs", "fastai", "insights", "lightning", "lime", "store", "viz"}
IMPORTED = "interp_plugins,interp_plugins.core,interp_plugins.attr"  # each stands on the one before
NOT_FOR_THE_CORE = "captum,fastai,fastcore,lightning,lightning_fabric,matplotlib,pytorch_lightning"

NO_CACHE = shutil.ignore_patterns("__pycache__")

# Runs in a fresh process: the packages named are as good as absent, so an import that needs one fails, and an
# optional `try: import` cannot have filled sys.modules either.
IMPORT_WITHOUT = """
import importlib, sys
blocked = set(sys.argv[2].split(","))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"blocked for this test: {name}", name=name)

sys.meta_path.insert(0, Blocker())
for wanted in sys.argv[1].split(","):
    module = importlib.import_module(wanted)
    assert not blocked & {name.partition(".")[0] for name in sys.modules}, wanted
    print(module.__file__)
"""

# The same without the blocker: what is installed must not be pulled in.
IMPORT_BESIDE = """
import importlib, sys
for wanted in sys.argv[1].split(","):
    importlib.import_module(wanted)
    pulled = set(sys.argv[2].split(",")) & {name.partition(".")[0] for name in sys.modules}
    assert not pulled, f"{wanted} pulls in {sorted(pulled)}"
"""


def run(*command: str | Path, path: Path | None = None, cwd: Path) -> str:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree with the backend that is installed, so without a network."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "interp_plugins", source / "interp_plugins", ignore=NO_CACHE)
    out = tmp_path_factory.mktemp("wheel")
    run(
        *("-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "--no-index", "--quiet"),
        *("--disable-pip-version-check", "--wheel-dir", out),
        cwd=out,
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed to, alone."""
    site = tmp_path_factory.mktemp("installed") / "site"
    run(
        *("-m", "pip", "install", wheel, "--no-deps", "--no-index", "--no-compile", "--quiet", "--target", site),
        "--disable-pip-version-check",
        cwd=site.parent,
    )
    return site


@pytest.fixture(scope="module")
def archive(wheel: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(archive: zipfile.ZipFile) -> Message:
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(archive.read(name))


@pytest.mark.slow
def test_wheel_holds_every_module_and_nothing_else(archive: zipfile.ZipFile) -> None:
    names = {name for name in archive.namelist() if ".dist-info/" not in name}
    tree = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "interp_plugins").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == tree
    assert "interp_plugins/py.typed" in names


@pytest.mark.slow
def test_wheel_says_what_it_is(metadata: Message) -> None:
    assert metadata["Name"] == "interp-plugins"
    assert metadata["Version"] == interp_plugins.__version__
    assert metadata["License-Expression"] == "MIT"
    assert set(metadata["Requires-Python"].split(",")) == {">=3.10", "<3.14"}
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)} <= set(
        metadata.get_all("Classifier", [])
    )


@pytest.mark.slow
def test_core_needs_only_its_own_dependencies(metadata: Message) -> None:
    plain = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert {line.partition(">")[0].strip() for line in plain} == CORE_DEPENDENCIES
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS


@pytest.mark.slow
def test_command_points_at_the_command_line(archive: zipfile.ZipFile) -> None:
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/entry_points.txt"))
    assert "interp-plugins = interp_plugins.cli:app" in archive.read(name).decode()


@pytest.mark.slow
def test_installed_wheel_imports_where_no_framework_is(installed: Path, tmp_path: Path) -> None:
    where = run("-c", IMPORT_WITHOUT, IMPORTED, NOT_FOR_THE_CORE, path=installed, cwd=tmp_path).splitlines()
    assert len(where) == 3 and all(Path(file).is_relative_to(installed) for file in where)


@pytest.mark.slow
def test_installed_wheel_makes_the_same_page(installed: Path, tmp_path: Path) -> None:
    from interp_plugins.insights import page

    entries = ("app.js", "file_host.js", "socket_host.js")
    print_hashes = (
        "import hashlib, interp_plugins.insights.page as p; print(p.__file__, *(hashlib.sha256(p.script(entry)"
        f".encode()).hexdigest() for entry in {entries}))"
    )
    wanted = [hashlib.sha256(page.script(entry).encode()).hexdigest() for entry in entries]
    there, *found = run("-c", print_hashes, path=installed, cwd=tmp_path).split()
    assert Path(there).is_relative_to(installed) and Path(page.__file__).is_relative_to(ROOT)
    assert found == wanted and len(set(wanted)) == 3


@pytest.mark.slow
def test_import_pulls_in_no_framework(tmp_path: Path) -> None:
    run("-c", IMPORT_BESIDE, IMPORTED, NOT_FOR_THE_CORE, path=ROOT, cwd=tmp_path)


@pytest.mark.slow
def test_lock_pins_every_dependency(metadata: Message) -> None:
    asked = {re.split(r"[<>=!~;\[ ]", line, maxsplit=1)[0] for line in metadata.get_all("Requires-Dist", [])}
    assert asked - {"interp-plugins"} <= set(re.findall(r"^([a-z0-9._-]+)==", LOCK, flags=re.MULTILINE))


def test_lock_holds_exact_versions_with_hashes_and_nothing_of_a_machine() -> None:
    lines = [line for line in LOCK.replace("\\\n", "").splitlines() if not line.startswith("#")]
    pin = re.compile(r"[a-z0-9._-]+==[^ ;]+ ( *; [^:]+ )?( *--hash=sha256:[0-9a-f]{64} *)+")
    assert [line for line in lines if not pin.fullmatch(line)] == []
    assert "://" not in LOCK


DOORS_WITHOUT = """
import importlib, importlib.util, sys
blocked = set(sys.argv[1].split(","))
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] in blocked else real(name, package)

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])

sys.meta_path.insert(0, Absent())
for door in sys.argv[2].split(","):
    try:
        importlib.import_module(f"interp_plugins.{door}")
    except ImportError as err:
        print(door, err)
"""


def test_every_door_names_the_extra_that_it_needs() -> None:
    doors = {"fastai": "fastai", "insights": "insights", "lightning": "lightning", "viz": "viz", "cli": "cli"}
    absent = "fastai,fastcore,lightning,matplotlib,pytorch_lightning,typer"
    command = [sys.executable, "-c", DOORS_WITHOUT, absent, ",".join(doors)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in said] == list(doors)
    for line, extra in zip(said, doors.values(), strict=True):
        assert f"pip install 'interp-plugins[{extra}]'" in line
