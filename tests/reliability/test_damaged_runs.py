"""Runs on the disk that are damaged, crafted, old, or met by bad luck: nothing silent, and the unit is done again."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from typer.testing import CliRunner

from interp_plugins.cli import app
from interp_plugins.core.errors import InterpError, InterpWarning
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.store import (
    DamagedError,
    DiskFullError,
    ExplanationStore,
    NotWritableError,
    StoreError,
    explain_dataset,
)
from interp_plugins.store.arrays import shard_path
from interp_plugins.store.layout import Array, layout_of
from interp_plugins.store.table_parts import path_of
from tests.thorough import times

SIZE, UNIT = 10, 4
ROOT = Path(__file__).parents[2]


class Rows(Dataset[Any]):
    """Rows of six numbers with a class; `before` is called with a sample's number when it is read."""

    def __init__(self, before: Callable[[int], None] | None = None):
        self.x = torch.randn(SIZE, 6, generator=torch.Generator().manual_seed(1))
        self.before = before

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        if self.before is not None:
            self.before(i)
        return self.x[i], i % 3


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def go(path: Path, data: Any = None, **changes: Any) -> ExplanationStore:
    arguments: dict[str, Any] = {"methods": {"ig": {"n_steps": 3}, "saliency": {}}, "target": "label"}
    arguments |= {"names": [f"row {i}" for i in range(SIZE)], "unit_size": UNIT, "progress": False}
    return explain_dataset(net(), data if data is not None else Rows(), path, **{**arguments, **changes})


def contents(store: ExplanationStore) -> str:
    """All that can be read of a run but its times."""
    table = store.table()
    columns = {n: table[n].to_pylist() for n in table.column_names if n.rpartition(".")[2] != "seconds"}
    arrays = {n: store.array(n)[:].tobytes() for n in (*store.methods, "inputs")}
    shown = [e[0].attribution.tolist() for e in store]
    return repr((columns, arrays, shown, store.manifest.identity, store.manifest.layout, store.failed))


def shards(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted((path / "arrays").rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ExplanationStore:
    return go(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def run(whole: ExplanationStore, tmp_path: Path) -> Path:
    shutil.copytree(whole.path, tmp_path / "run")
    return tmp_path / "run"


def shard(path: Path, unit: int, name: str = "integrated_gradients") -> Path:
    return shard_path(path, name, unit, 2)


def verdict(path: Path, wanted: str) -> str:
    """What somebody who reads a run is told."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            store = ExplanationStore(path)
            found = contents(store)
        except InterpError:
            return "error"
    if store.damaged:
        return "missing" if any("count as missing" in str(w.message) for w in said) else "silent"
    return "equal" if found == wanted else "silent"


def ends_well(path: Path, whole: ExplanationStore) -> None:
    """Resumed, a run is byte for byte the unbroken one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InterpWarning)
        store = go(path)
    assert store.complete and store.verify() == {} and store.damaged == {}
    assert contents(store) == contents(whole) and shards(path) == shards(whole.path)
    assert not [p.name for p in path.rglob(".*")]


# -- bits --------------------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[Path], list[Path]]] = {
    "parts": lambda p: sorted((p / "parts").iterdir()),
    "shards": lambda p: [f for f in sorted((p / "arrays").rglob("*")) if f.is_file() and f.name != "zarr.json"],
    "descriptions": lambda p: [f for f in sorted((p / "arrays").rglob("zarr.json")) if f.parent.name != "arrays"],
    "manifest": lambda p: [p / "manifest.json"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_never_silent(whole: ExplanationStore, run: Path, kind: str) -> None:
    draw, wanted, files = random.Random(kind), contents(whole), KINDS[kind](run)
    for trial in range(times(25, 400)):
        file = draw.choice(files)
        kept = file.read_bytes()
        damaged = bytearray(kept)
        bit = draw.randrange(8 * len(kept))
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        assert verdict(run, wanted) in ("error", "missing"), (file, bit)
        if kind == "manifest":
            with pytest.raises(DamagedError, match=r"manifest.json is no manifest of a run, or it is damaged"):
                go(run)
        elif trial % times(12, 40) == 0:
            assert kind == "descriptions" or list(verified(run).verify())
            ends_well(run, whole)
        file.write_bytes(kept) if kind != "parts" else shutil.copytree(whole.path, run, dirs_exist_ok=True)
    assert verdict(run, wanted) == "equal"


def verified(path: Path) -> ExplanationStore:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InterpWarning)
        store = ExplanationStore(path)
        store.verify()
    return store


# -- files that are lost, swapped, of others ---------------------------------------------------------------------------


def _swap(a: Path, b: Path) -> None:
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


DAMAGE: dict[str, tuple[Callable[[Path], Any], set[int]]] = {
    "a shard deleted": (lambda p: shard(p, 1).unlink(), {1}),
    "shards of ids deleted": (lambda p: shard(p, 2, "inputs").unlink(), {2}),
    "all shards deleted": (lambda p: [f.unlink() for f in KINDS["shards"](p)], {0, 1, 2}),
    "an array deleted": (lambda p: shutil.rmtree(p / "arrays" / "saliency"), {0, 1, 2}),
    "shards of two units swapped": (lambda p: _swap(shard(p, 0), shard(p, 1)), {0, 1}),
    "shards of two methods swapped": (lambda p: _swap(shard(p, 1), shard(p, 1, "saliency")), {1}),
    "a shard cut": (lambda p: _cut(shard(p, 0)), {0}),
    "a shard emptied": (lambda p: shard(p, 0).write_bytes(b""), {0}),
    "a shard of zeros": (lambda p: shard(p, 0).write_bytes(bytes(shard(p, 0).stat().st_size)), {0}),
    "a shard a folder": (lambda p: (shard(p, 0).unlink(), shard(p, 0).mkdir()), {0}),
    "a part under another name": (lambda p: shutil.copy(path_of(p, 0), path_of(p, 1)), {1}),
    "two parts swapped": (lambda p: _swap(path_of(p, 0), path_of(p, 1)), {0, 1}),
    "a part cut": (lambda p: _cut(path_of(p, 2)), {2}),
    "a part emptied": (lambda p: path_of(p, 2).write_bytes(b""), {2}),
    "a part of text": (lambda p: path_of(p, 2).write_text("no table"), {2}),
    "a part that grew": (lambda p: path_of(p, 2).write_bytes(path_of(p, 2).read_bytes() + b"\0"), {2}),
    "a part twice": (lambda p: path_of(p, 2).write_bytes(path_of(p, 2).read_bytes() * 2), {2}),
    "a unit under another name": (
        lambda p: [shutil.copy(path_of(p, 0), path_of(p, 1)), shutil.copy(shard(p, 0), shard(p, 1))],
        {1},
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_noticed_counts_as_missing_and_is_done_again(whole: ExplanationStore, run: Path, name: str) -> None:
    damage, units = DAMAGE[name]
    damage(run)
    assert verdict(run, contents(whole)) in ("error", "missing")
    found = verified(run)
    assert set(found.damaged) == units and found.missing == sorted(units) and not found.complete
    for unit in units:
        with pytest.raises(DamagedError, match=f"Sample {unit * UNIT} belongs to unit {unit}"):
            found[unit * UNIT]
    if name == "a shard a folder":
        with pytest.warns(InterpWarning), pytest.raises(NotWritableError, match=r"Writing unit 0 .samples 0 to 3"):
            go(run)
        shard(run, 0).rmdir()
    ends_well(run, whole)


def test_units_of_another_run_are_not_taken(whole: ExplanationStore, run: Path, tmp_path: Path) -> None:
    other = go(tmp_path / "other", methods={"ig": {"n_steps": 4}, "saliency": {}})
    for kind in ("parts", "shards"):
        for mine, theirs in zip(KINDS[kind](run), KINDS[kind](other.path), strict=True):
            shutil.copy(theirs, mine)
    found = verified(run)
    assert set(found.damaged) == {0, 1, 2} and "another run" in found.damaged[0]
    ends_well(run, whole)


def test_an_open_store_notices_what_happens_to_its_files(whole: ExplanationStore, run: Path) -> None:
    store = ExplanationStore(run)
    array = store.array("ig")
    before = array[:].copy()
    _swap(shard(run, 0), shard(run, 2))
    with pytest.raises(
        DamagedError, match=r"0/0 (is not what was|has .* bytes, and was) written.*Run explain_dataset again"
    ):
        array[0]
    assert (array[5] == before[5]).all()
    shard(run, 1).unlink()
    with pytest.raises(DamagedError, match="is missing"):
        array[5]
    with pytest.warns(InterpWarning, match=r"3 unit\(s\) of the run"):
        assert set(store.verify()) == {0, 1, 2}
    assert store.missing == [0, 1, 2] and len(store.table()) == 0


def test_the_warning_names_the_files_and_what_to_do(run: Path) -> None:
    path_of(run, 1).write_text("no table")
    with pytest.warns(InterpWarning, match=r"1 unit.*unit 1: .*part-00000001.parquet is damaged.*does them again"):
        ExplanationStore(run)
    with pytest.warns(InterpWarning, match=r"part-00000001.parquet is damaged.*They are done again"):
        go(run)


def test_verify_on_the_command_line(run: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    well = runner.invoke(app, ["verify", str(run)])
    assert well.exit_code == 0 and "3 units: 3 as written." in well.output
    _swap(shard(run, 0), shard(run, 1))
    path_of(run, 2).unlink()
    ill = runner.invoke(app, ["verify", str(run)])
    assert ill.exit_code == 1 and "unit 0: " in ill.output and "does the damaged units again" in ill.output
    assert "3 units: 0 as written, 2 damaged, 1 not done yet." in ill.output
    assert runner.invoke(app, ["verify", str(tmp_path / "nowhere")]).exit_code == 2


# -- manifests ---------------------------------------------------------------------------------------------------------


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A manifest as it was before manifests held digests, where nothing else would notice, with a change."""
    file = path / "manifest.json"
    content = json.loads(file.read_text())
    content["schema"] = 1
    del content["digest"]
    change(content)
    file.write_text(json.dumps(content))


CRAFTED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no identity": lambda c: c.pop("identity"),
    "no layout": lambda c: c.pop("layout"),
    "no made": lambda c: c.pop("made"),
    "identity a list": lambda c: c.update(identity=[1]),
    "size a text": lambda c: c["identity"]["data"].update(size="10"),
    "size zero": lambda c: c["identity"]["data"].update(size=0),
    "size negative": lambda c: c["identity"]["data"].update(size=-4),
    "size true": lambda c: c["identity"]["data"].update(size=True),
    "size enormous": lambda c: c["identity"]["data"].update(size=10**15),
    "unit size zero": lambda c: c["identity"].update(unit_size=0),
    "unit size a float": lambda c: c["identity"].update(unit_size=2.5),
    "schema true": lambda c: c.update(schema=True),
    "schema a list": lambda c: c.update(schema=[1]),
    "schema missing": lambda c: c.pop("schema"),
    "versions a text": lambda c: c["made"].update(versions="1"),
    "maps a number": lambda c: c["layout"].update(maps=3),
    "a map a text": lambda c: c["layout"].update(maps=["x"]),
    "a map of unknown facts": lambda c: c["layout"]["maps"][0].update(code="x"),
    "spec a number": lambda c: c["layout"].update(spec=3),
    "array above": lambda c: c["layout"]["inputs"][0].update(name="../../x"),
    "array absolute": lambda c: c["layout"]["inputs"][0].update(name="/etc/passwd"),
    "array hidden": lambda c: c["layout"]["inputs"][0].update(name=".x"),
    "array empty": lambda c: c["layout"]["inputs"][0].update(name=""),
    "array in nothing": lambda c: c["layout"]["inputs"][0].update(name="a//b"),
    "array with NUL": lambda c: c["layout"]["inputs"][0].update(name="a\0b"),
    "array of Windows": lambda c: c["layout"]["inputs"][0].update(name="..\\x"),
    "array on a drive": lambda c: c["layout"]["inputs"][0].update(name="C:x"),
    "array a number": lambda c: c["layout"]["inputs"][0].update(name=3),
    "shape negative": lambda c: c["layout"]["inputs"][0].update(shape=[-6]),
    "shape a text": lambda c: c["layout"]["inputs"][0].update(shape="66"),
    "dtype of objects": lambda c: c["layout"]["inputs"][0].update(dtype="object"),
    "dtype a number": lambda c: c["layout"]["inputs"][0].update(dtype=[3]),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_manifests_are_refused_by_name(run: Path, name: str) -> None:
    rewrite(run, CRAFTED[name])
    for reads in (ExplanationStore, go):
        with pytest.raises(StoreError, match=r"manifest\.json"):
            reads(run)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"null", b"[]", b"3", b"\xff\xfe", b"[" * 30_000, b'{"schema": ' + b"9" * 5000 + b"}"]
)
def test_manifests_that_are_none_are_refused_by_name(run: Path, raw: bytes) -> None:
    (run / "manifest.json").write_bytes(raw)
    for reads in (ExplanationStore, go):
        with pytest.raises(DamagedError, match=r"manifest.json is no manifest of a run"):
            reads(run)


def test_a_manifest_that_is_a_folder_is_said(run: Path) -> None:
    (run / "manifest.json").unlink()
    (run / "manifest.json").mkdir()
    with pytest.raises(StoreError, match=r"manifest.json cannot be read"):
        ExplanationStore(run)


def test_runs_from_before_digests_are_read_and_gone_on_with(whole: ExplanationStore, run: Path) -> None:
    rewrite(run, lambda content: None)
    for unit in range(3):
        table = pq.ParquetFile(path_of(run, unit)).read()
        pq.write_table(table.replace_schema_metadata({"unit": str(unit), "origin": "{}"}), path_of(run, unit))
    path_of(run, 2).unlink()
    store = ExplanationStore(run)
    assert store.missing == [2] and store.unchecked == [0, 1] and store.verify() == {}
    again = go(run)
    assert again.complete and again.unchecked == [0, 1]
    assert repr(again[3][0].attribution) == repr(whole[3][0].attribution)
    assert "2 written before runs held digests" in CliRunner().invoke(app, ["verify", str(run)]).output
    shutil.copy(path_of(run, 0), path_of(run, 1))
    assert "it is the part of unit 0" in verified(run).damaged[1]


# -- bad luck while it runs --------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_at_any_write_loses_nothing(whole: ExplanationStore, tmp_path: Path) -> None:
    """The k-th file that is brought down to the disk finds no room, for every k until the run succeeds."""
    real, number = os.fsync, [0, 0]

    def fsync(fd: int) -> None:
        if os.path.isfile(os.readlink(f"/proc/self/fd/{fd}")):
            number[0] += 1
            if number[0] == number[1]:
                raise OSError(errno.ENOSPC, "No space left on device")
        real(fd)

    failed = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        for k in range(1, 100, times(4, 1)):
            number[:] = [0, k]
            path = tmp_path / f"run{k}"
            try:
                go(path)
                break
            except DiskFullError as err:
                failed += "Everything that was committed before is safe" in str(err)
            number[1] = 0
            ends_well(path, whole)
    assert failed >= times(4, 15)


@pytest.mark.parametrize("name", ["parts", "arrays"])
def test_a_file_in_the_place_of_a_folder_is_said(whole: ExplanationStore, run: Path, name: str) -> None:
    shutil.rmtree(run / name)
    (run / name).write_text("x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InterpWarning)
        with pytest.raises(
            NotWritableError, match=rf"Writing .* to .* failed.*{name} is a file, and a directory is needed there"
        ):
            go(run)
    (run / name).unlink()
    if name == "arrays":
        shutil.rmtree(run / "parts")
    ends_well(run, whole)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotWritableError, match=r"the manifest to .*file/run failed.*file is a file, and a directory"):
        go(tmp_path / "file" / "run")

    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(NotWritableError, match=r"Read-only file system.*Give a path on a disk that may be written to"):
        go(tmp_path / "run")


def awaited(file: Path) -> None:
    """Wait for a unit that is written behind the work."""
    last = time.monotonic() + 20
    while not file.exists() and time.monotonic() < last:
        time.sleep(0.001)
    assert file.exists()


def test_the_same_rank_twice_at_once_is_said_and_harmless(whole: ExplanationStore, tmp_path: Path) -> None:
    path, begun = tmp_path / "run", []

    def second(i: int) -> None:
        if i == 6 and (path / "arrays").exists() and not begun:
            begun.append(i)
            awaited(path_of(path, 0))
            go(path)  # another process does all that is left, while this one is in the middle of unit 1

    with pytest.warns(InterpWarning, match=r"more than one has rank 0 of 1.*a rank of its own") as said:
        store = go(path, Rows(second))
    assert begun == [6] and len([w for w in said if "in the meantime" in str(w.message)]) == 2
    assert contents(store) == contents(whole) and shards(path) == shards(whole.path) and store.verify() == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the workers are forked")
def test_a_loader_worker_that_dies_is_said_and_its_unit_is_done_again(whole: ExplanationStore, tmp_path: Path) -> None:
    main = os.getpid()

    def die(i: int) -> None:
        if i == 6 and os.getpid() != main:
            os._exit(1)

    path = tmp_path / "run"
    with pytest.raises(StoreError, match=r"worker process of the data loader .num_workers=1. died.*num_workers=0"):
        go(path, DataLoader(Rows(die), num_workers=1))
    assert set(ExplanationStore(path).missing) in ({1, 2}, {0, 1, 2})
    ends_well(path, whole)


# -- what is stored ----------------------------------------------------------------------------------------------------


def test_numbers_that_cannot_be_kept_are_failed_samples(tmp_path: Path) -> None:
    data = Rows()
    data.x[3, 2] = float("inf")
    data.x[5] *= 1e8
    model = nn.Linear(6, 3)
    store = explain_dataset(model, data, tmp_path / "a", "input_x_gradient", target=0, dtype="float16", progress=False)
    assert set(store.failed) == {3, 5}
    assert "contains infinity" in store.failed[3]
    assert "which float16 cannot hold" in store.failed[5] and "dtype='float32'" in store.failed[5]
    assert store.array()[:].shape == (SIZE, 6)

    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - data.x[7]).abs().sqrt().sum(1, keepdim=True)  # an infinite gradient at sample 7

    data = Rows()
    found = explain_dataset(Root(), data, tmp_path / "b", "input_x_gradient", target=0, progress=False)
    assert set(found.failed) == {7} and "NaN or infinite" in found.failed[7]


def test_names_that_are_no_utf8_are_stored(tmp_path: Path) -> None:
    names = [f"caf\udce9{i}.png" for i in range(SIZE)]

    def unreadable(i: int) -> None:
        if i == 4:
            raise OSError(f"cannot identify image file {names[i]}")

    store = go(tmp_path / "run", Rows(unreadable), names=names)
    assert store[2][0].names == ("caf�2.png",) and "caf�4.png" in store.failed[4]
    assert go(tmp_path / "run", Rows(unreadable), names=names).complete


@pytest.mark.parametrize("name", ["../up", "/root", "a/../b", ".hidden", "a\\b", "C:x", "", "a//b", "a/", "a\0"])
def test_arrays_stay_inside_the_run(name: str) -> None:
    exp = Explanation(attributions=torch.zeros(1, 3), inputs=torch.zeros(1, 3), method=name)
    with pytest.raises(StoreError, match=r"cannot name an array, since arrays are folders inside the run directory"):
        layout_of(Explanations([exp]), None, True)
    assert Array("my method (2)/0", (3,), "float32").name == "my method (2)/0"


@pytest.mark.slow
def test_a_run_needs_neither_typer_nor_matplotlib(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('typer', 'matplotlib', 'fastai', 'pytorch_lightning', 'starlette', 'PIL'):\n"
        "    sys.modules[name] = None\n"
        "import torch\n"
        "from interp_plugins.store import explain_dataset\n"
        "data = torch.utils.data.TensorDataset(torch.randn(5, 3))\n"
        "store = explain_dataset(torch.nn.Linear(3, 2), data, sys.argv[1], ('ig', 'occlusion'), target=1,"
        " sliding_window_shapes=(1,), progress=False)\n"
        "assert store.verify() == {} and store.complete and len(store.to_df()) == 5 and len(store[2]) == 2\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
