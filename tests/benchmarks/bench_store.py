"""Throughput of data-set runs on one process and on two, each with one thread: pictures per hour.

Run: make bench PYTEST_ARGS="-k store -s"   (two minutes on two idle cores)
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from interp_plugins.demo import PHOTOGRAPHS, save_photographs
from interp_plugins.store import ExplanationStore

WORKER = Path(__file__).with_name("store_worker.py")
ROOT = Path(__file__).parents[2]
# Method: its parameters, and how many pictures make a run of some seconds. EfficientNet-Lite0, 224 x 224.
RUNS: dict[str, tuple[dict[str, Any], int]] = {
    "grad_cam": ({}, 24),
    "integrated_gradients": ({"n_steps": 50}, 4),
}


@pytest.mark.parametrize("method", RUNS)
def test_store_throughput(method: str, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    save_photographs(photographs, tuple(PHOTOGRAPHS))
    params, count = RUNS[method]
    speed = {}
    for processes in (1, 2):
        run = tmp_path / f"run-{processes}"
        fixed = [sys.executable, str(WORKER), str(photographs), str(run), method, json.dumps(params), str(count)]
        workers = [
            subprocess.Popen(
                [*fixed, str(rank), str(processes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            for rank in range(processes)
        ]
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
        times = [[float(v) for v in worker.communicate()[0].split()] for worker in workers]
        wall = max(t[1] for t in times) - min(t[0] for t in times)
        store = ExplanationStore(run)
        assert store.complete and not store.failed
        passes = [store.table()[f"{store.methods[0]}.{k}_passes"][0].as_py() for k in ("forward", "backward")]
        speed[processes] = 3600 * count / wall
        print(
            f"\n{method} {params}: {processes} process(es): {count} pictures in {wall:.1f} s: {speed[processes]:.0f} "
            f"pictures/hour; {sum(t[2] for t in times) / count:.2f} processor seconds and {passes} forward and "
            "backward passes a picture"
        )
    print(f"{method}: two processes are {speed[2] / speed[1]:.2f} times as fast as one")
