"""Throughput of data-set runs: pictures per hour and passes per picture for each method, with one process and two.

Run: make bench PYTEST_ARGS="-k store -s"   (about ten minutes on two idle cores)
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
# Method: its parameters, and how many pictures make a run of some seconds.
RUNS: dict[str, tuple[dict[str, Any], int]] = {
    "saliency": ({}, 16),
    "grad_cam": ({}, 16),
    "integrated_gradients": ({"n_steps": 50}, 4),
    "noise_tunnel": ({"nt_samples": 10, "n_steps": 20}, 2),
    "gradient_shap": ({"n_samples": 20}, 6),
    "occlusion": ({"sliding_window_shapes": [3, 15, 15], "strides": [3, 8, 8]}, 2),
}


@pytest.mark.parametrize("method", RUNS)
def test_store_throughput(method: str, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    save_photographs(photographs, tuple(PHOTOGRAPHS))
    params, count = RUNS[method]
    for processes, threads in ((1, 1), (2, 1)):
        run = tmp_path / f"run-{processes}-{threads}"
        fixed = [sys.executable, str(WORKER), str(photographs), str(run), method, json.dumps(params), str(count)]
        workers = [
            subprocess.Popen(
                [*fixed, str(rank), str(processes), str(threads)], stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            for rank in range(processes)
        ]
        times = [[float(v) for v in w.communicate()[0].split()] for w in workers]
        wall, cpu = max(t[0] for t in times), sum(t[1] for t in times)
        store = ExplanationStore(run)
        assert store.complete and not store.failed
        table = store.table()
        passes = [table[f"{store.methods[0]}.{k}_passes"][0].as_py() for k in ("forward", "backward")]
        print(
            f"\n{method} {params}: {processes} process(es) of {threads} thread(s): {count} pictures in {wall:.1f} s: "
            f"{3600 * count / wall:.0f} pictures/hour; {cpu / count:.2f} processor seconds a picture "
            f"(first picture explained once more for the shapes); forward, backward passes a picture: {passes}"
        )
