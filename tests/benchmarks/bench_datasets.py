"""Pictures per hour: `explain_dataset` and `AttributionWriter` in one and two processes, and a loop with Captum.

    python -m tests.benchmarks.bench_datasets [METHOD ...] [--pictures 32] [--rounds 5]

EfficientNet-Lite0 at 224 x 224, photographs read from files, one thread per process. The loop, written by hand, reads a
picture, explains it with Captum's fastest batch and saves the map with NumPy; it writes no table, keeps no inputs and
cannot go on after a crash. All run in processes of their own, in turn. Seconds of the clock need two idle cores; what
the processor spent does not.

"Steady" is from the first to the last unit that a process commits (the loop: from as many maps), so without imports and
the beginning of a run; "whole" is from the start of the processes to their end.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp_plugins.demo import PHOTOGRAPHS, save_photographs
from interp_plugins.store import ExplanationStore
from tests.benchmarks.measured import ROOT, Table, span

WORKER = Path(__file__).with_name("store_worker.py")
FACES = ("explain_dataset", "AttributionWriter")
# Parameters here, the share of the pictures that a run takes, and the rows that Captum's loop is tried with.
RUNS: dict[str, tuple[dict[str, Any], float, tuple[int, ...]]] = {
    "integrated_gradients": ({"n_steps": 50, "baselines": 0}, 1.0, (2, 4, 8, 16, 25)),
    "occlusion": (
        {"sliding_window_shapes": [3, 32, 32], "strides": [3, 16, 16], "baselines": 0},
        1.0,
        (2, 4, 8, 16, 32),
    ),
    "grad_cam": ({}, 6.0, (1,)),
    "lrp": ({}, 3.0, (1,)),
}
TABLE = Table(
    "datasets",
    "Data sets",
    "`python -m tests.benchmarks.bench_datasets`: pictures per hour of EfficientNet-Lite0 at 224 x 224, read from "
    "files and written, in the steady state; one thread per process. Ratios in brackets of seconds of the processor "
    "per picture. The aims were 1.5 and 1.8.",
    (
        "Captum's loop, rows",
        "here, one process",
        "here, two",
        "here / loop",
        "of the processor",
        "two / one",
        "the loop's two / one",
        "two / one, whole",
        "whole, here / loop",
        "maps differ by",
    ),
)


@dataclass(frozen=True)
class Speed:
    """How fast a run was.

    Attributes:
        steady: pictures per second in the steady state, of all processes.
        processor: seconds of the processor per picture there.
        whole: seconds of the clock from the start of the processes to their end.
    """

    steady: float
    processor: float
    whole: float


def timed(work: dict[str, Any], world: int) -> Speed:
    """Run it in so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    begin = time.time()
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps({**work, "rank": rank, "world": world})],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=about,
        )
        for rank in range(world)
    ]
    told = [worker.communicate() for worker in workers]
    whole = time.time() - begin
    for worker, (_, err) in zip(workers, told):
        if worker.returncode:
            raise RuntimeError(err.strip().splitlines()[-1])
    rate = processor = pictures = 0.0
    for out, _ in told:
        marks = json.loads(out.splitlines()[-1])["marks"]
        first = next(m for m in marks if m[0] >= work["unit"])  # the loop's as late as a unit's
        done, seconds, spent = (b - a for a, b in zip(first, marks[-1]))
        rate, processor, pictures = rate + done / seconds, processor + spent, pictures + done
    return Speed(rate, processor / pictures, whole)


def fastest(work: dict[str, Any], sizes: Sequence[int]) -> int:
    """The rows with which Captum's loop takes the least of the processor."""
    if len(sizes) == 1:
        return sizes[0]
    few = {**work, "face": "loop", "count": 3, "unit": 1}
    found = {}
    for size in sizes:
        found[size] = timed({**few, "size": size}, 1).processor
    print({k: round(v, 2) for k, v in found.items()}, flush=True)
    return min(found, key=found.__getitem__)


def difference(loop: Path, run: Path, method: str) -> float:
    """How far the run's maps are from the loop's: the largest of the pictures' relative errors (L2)."""
    stored = ExplanationStore(run).array(method)[:]
    found = []
    for k, mine in enumerate(stored):
        theirs = np.load(loop / f"{k}.npy")[0]
        found.append(float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)))
    return max(found)


def measure(method: str, faces: Sequence[str], pictures: int, rounds: int) -> None:
    """The rows of a method."""
    params, share, sizes = RUNS[method]
    count = max(8, round(pictures * share))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photographs"
        save_photographs(folder, tuple(PHOTOGRAPHS))
        maps = Path(name) / "loop"
        maps.mkdir()
        work: dict[str, Any] = {"folder": str(folder), "method": method, "params": params, "count": count}
        work |= {"unit": max(1, min(64, count // 8)), "out": str(maps)}  # as large as it is by itself
        size, found = 1, {(face, world): list[Speed]() for face in faces for world in (1, 2)}
        loops, pairs = list[Speed](), list[Speed]()
        try:
            size = fastest(work, sizes)
        except RuntimeError as error:
            print(f"Captum's {method}: {str(error)[:200]}", flush=True)
        for k in range(rounds):
            try:
                for world, speeds in ((1, loops), (2, pairs)):
                    speeds.append(timed({**work, "face": "loop", "size": size}, world))
                    print(k, "loop", world, speeds[-1], flush=True)
            except RuntimeError as error:
                print(f"Captum's {method}: {str(error)[:200]}", flush=True)
            for (face, world), speeds in found.items():
                run = Path(name) / f"{face}-{world}-{k}"
                speeds.append(timed({**work, "face": face, "out": str(run)}, world))
                print(k, face, world, speeds[-1], flush=True)
        for face in faces:
            off = f"{difference(maps, Path(name) / f'{face}-1-0', method):.0e}" if loops else ""
            both = span([b.steady / a.steady for a, b in zip(loops, pairs)]) if pairs else ""
            TABLE.add(f"{method}, {face}", cells(loops, found[face, 1], found[face, 2], size, both, off), rounds)


def cells(
    loops: Sequence[Speed], one: Sequence[Speed], two: Sequence[Speed], size: int, both: str, off: str
) -> list[str]:
    """A row of the table."""

    def hourly(speeds: Sequence[Speed]) -> str:
        return f"{3600 * statistics.median(s.steady for s in speeds):.0f}" if speeds else "fails"

    return [
        f"{hourly(loops)}, {size}" if loops else "fails",
        hourly(one),
        hourly(two),
        span([b.steady / a.steady for a, b in zip(loops, one)]) if loops else "",
        span([a.processor / b.processor for a, b in zip(loops, one)]) if loops else "",
        span([b.steady / a.steady for a, b in zip(one, two)]),
        both,
        span([a.whole / b.whole for a, b in zip(one, two)]),
        span([a.whole / b.whole for a, b in zip(loops, one)]) if loops else "",
        off,
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=", ".join(RUNS))
    parser.add_argument("--pictures", type=int, default=32, help="of a run; more where a picture takes less")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--faces", nargs="+", choices=FACES, default=FACES)
    options = parser.parse_args()
    for name in options.names or RUNS:
        measure(name, options.faces, options.pictures, options.rounds)


if __name__ == "__main__":
    main()
