"""Runs with two processes that are killed at random moments, resumed, and compared with an unbroken run.

    python crash_script.py FOLDER KILLS

The workers are forked from this process, where everything is imported: a kill costs milliseconds and not an
interpreter's start. This process itself explains and reads nothing: Zarr would start its thread here, and a process
forked beside a thread may wait for ever for what that thread held. (Both workers of a pair begin at the same moment,
which also tries what happens when several processes make a run at once.) Every killed run is finished by another number
of processes. Prints a line of JSON.
"""

import faulthandler
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numcodecs  # noqa: F401 - with zarr and pandas loaded late otherwise, in every worker
import pandas as pd  # noqa: F401
import pyarrow.parquet as pq
import torch
import zarr  # noqa: F401
from torch import nn
from torch.utils.data import TensorDataset

import interp_plugins.attr  # noqa: F401
from interp_plugins.store import ExplanationStore, explain_dataset
from interp_plugins.store.arrays import shard_path

METHODS = {"ig": {"n_steps": 8}, "noise_tunnel": {"nt_samples": 3, "n_steps": 4}}
SIZE = 32


def explain(path: Path, rank: int, world_size: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    data = TensorDataset(torch.randn(SIZE, 1, 8, 8), torch.randint(3, (SIZE,)))
    explain_dataset(
        net, data, path, METHODS, target="label", unit_size=4, rank=rank, world_size=world_size, progress=False
    )


def start(work: Callable[..., None], *args: object) -> int:
    """A process that does the work; its number."""
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(120, exit=True)  # one that waits for ever says where
        code = 1
        try:
            work(*args)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def finish(path: Path, world_size: int) -> None:
    """Run to the end with so many processes."""
    await_all([start(explain, path, rank, world_size) for rank in range(world_size)])


def await_all(workers: list[int]) -> None:
    """Wait for processes that are to succeed."""
    codes = [os.waitpid(pid, 0)[1] for pid in workers]
    assert codes == [0] * len(workers), codes


def done(path: Path) -> int:
    """Units that are finished."""
    return len(list((path / "parts").glob("part-*")))


def kill(path: Path, units: int, delay: float, both: bool) -> bool:
    """Two processes, both or the first killed when so many units are done and so many seconds have passed.

    Units and not seconds alone, so that early and late moments are met on a machine of any speed. Returns whether the
    kill hit one at work.
    """
    workers = [start(explain, path, rank, 2) for rank in range(2)]
    last = time.perf_counter() + 60
    while done(path) < units and time.perf_counter() < last:
        time.sleep(0.001)
    time.sleep(delay)
    for pid in workers if both else workers[:1]:
        os.kill(pid, signal.SIGKILL)
    codes = [os.waitpid(pid, 0)[1] for pid in workers]
    assert set(codes) <= {0, signal.SIGKILL}, codes  # nothing but the kill ends a worker early
    return signal.SIGKILL in codes


def contents(path: Path) -> tuple[dict[str, bytes], dict[str, list[object]]]:
    """All arrays as bytes, and the table without the columns that are times."""
    store = ExplanationStore(path)
    assert store.complete and store.samples == list(range(SIZE)), store
    arrays = {name: store.array(name)[:].tobytes() for name in (*store.methods, "inputs")}
    table = store.table()
    columns = {n: table[n].to_pylist() for n in table.column_names if n.rpartition(".")[2] != "seconds"}
    return arrays, columns


def compare(path: Path, wanted: Path) -> None:
    """The same values, and every shard the same file."""
    mine, theirs = ExplanationStore(path), ExplanationStore(wanted)
    assert repr(contents(path)) == repr(contents(wanted))
    for array in mine._layout.arrays:
        for unit in range(mine.manifest.units):
            files = [shard_path(s.path, array.name, unit, 1 + len(array.shape)) for s in (mine, theirs)]
            assert files[0].read_bytes() == files[1].read_bytes()
    left = [
        p.name
        for p in path.rglob("*")
        if p.is_file() and (p.name.startswith((".part", ".unit")) or "partial" in p.name)
    ]
    assert left == [], left
    rows = [pq.ParquetFile(p).metadata.num_rows for p in sorted((path / "parts").iterdir())]
    assert sum(rows) == SIZE


def main(folder: Path, kills: int) -> None:
    draw = random.Random(int(os.environ.get("CRASH_SEED", "0")))
    whole = folder / "unbroken"
    finish(whole, 1)
    begin = time.perf_counter()
    finish(folder / "warm", 2)
    seconds = time.perf_counter() - begin
    landed, runs, moments, finished_with = 0, 0, [], []
    while landed < kills:
        path, resumes = folder / f"run{runs}", 0
        while landed < kills and resumes < 4 and done(path) < done(whole):
            units = draw.randint(done(path), done(whole) - 1)
            delay = draw.uniform(0, seconds / done(whole))
            both = draw.random() < 0.7
            if not kill(path, units, delay, both):
                seconds *= 0.8  # it was over before: the machine has become faster
                break
            landed, resumes = landed + 1, resumes + 1
            moments.append([round(delay, 3), "both" if both else "one", done(path)])
        world_size = draw.choice([1, 3])
        finish(path, world_size)
        await_all([start(compare, path, whole)])
        finished_with.append(world_size)
        runs += 1
    print(
        json.dumps(
            {"kills": landed, "runs": runs, "finished_with": finished_with, "seconds": seconds, "moments": moments}
        )
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
