"""Pictures per hour: `explain_dataset` in one and two processes of one thread, and a loop with Captum written by hand.

    python -m tests.benchmarks.bench_datasets [METHOD ...] [--pictures 24] [--rounds 3]

EfficientNet-Lite0 at 224 x 224, photographs read from files. The loop reads a picture, explains it with Captum's
fastest batch and saves the map with NumPy; it writes no table and cannot go on after a crash. Seconds of the clock, so
the two processes need two idle cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from interp_plugins.demo import PHOTOGRAPHS, save_photographs
from tests.benchmarks.measured import ROOT, Table, span

WORKER = Path(__file__).with_name("store_worker.py")
WINDOW = [3, 32, 32]
# Parameters here, and the share of the pictures that a run takes.
RUNS: dict[str, tuple[dict[str, Any], float]] = {
    "integrated_gradients": ({"n_steps": 50}, 0.25),
    "occlusion": ({"sliding_window_shapes": WINDOW, "strides": [3, 16, 16]}, 0.25),
    "grad_cam": ({}, 4.0),
    "lrp": ({}, 1.0),
}
TABLE = Table(
    "datasets",
    "Data sets",
    "`python -m tests.benchmarks.bench_datasets`: pictures per hour of EfficientNet-Lite0 at 224 x 224, read from "
    "files and written; one thread per process. The aims were 1.5 and 1.8.",
    ("Captum's loop", "here, one process", "here, two", "here / loop", "two / one"),
)


def here(folder: Path, run: Path, method: str, count: int, processes: int) -> float:
    """Seconds of the clock of a run into a new directory."""
    fixed = [sys.executable, str(WORKER), str(folder), str(run), method, json.dumps(RUNS[method][0]), str(count)]
    unit = str(max(1, min(8, count // 4)))  # pictures that are written together; the default is as many or more
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    workers = [subprocess.Popen([*fixed, str(rank), str(processes), unit], **pipes) for rank in range(processes)]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    times = [[float(v) for v in worker.communicate()[0].split()] for worker in workers]
    return max(t[1] for t in times) - min(t[0] for t in times)


def loop(folder: Path, out: Path, method: str, count: int) -> float:
    """Seconds of the clock of Captum's loop, in this process."""
    import captum.attr as captum
    import numpy as np
    import torch

    from interp_plugins.demo.module import Photographs
    from interp_plugins.demo.network import lite0

    torch.set_num_threads(1)
    net, data = lite0(), Photographs(sorted(folder.glob("*.png")))
    explainers: dict[str, Any] = {
        "integrated_gradients": lambda x, t: captum.IntegratedGradients(net).attribute(
            x, target=t, n_steps=50, internal_batch_size=8
        ),
        "occlusion": lambda x, t: captum.Occlusion(net).attribute(
            x, tuple(WINDOW), strides=(3, 16, 16), target=t, perturbations_per_eval=8
        ),
        "grad_cam": lambda x, t: captum.LayerGradCam(net, net.get_submodule("blocks.6")).attribute(x, target=t),
        "lrp": lambda x, t: captum.LRP(net).attribute(x, target=t),
    }
    run = explainers[method]
    run(data[0][0][None], int(data[0][1]))
    begin = time.time()
    for k in range(count):
        x, label = data[k % len(data)]
        np.save(out / f"{k}.npy", run(x[None], int(label)).detach().numpy())
    return time.time() - begin


def measure(method: str, pictures: int, rounds: int) -> None:
    """A row of the table."""
    count = max(2, round(pictures * RUNS[method][1]))
    seconds: dict[str, list[float]] = {"loop": [], "one": [], "two": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photographs"
        save_photographs(folder, tuple(PHOTOGRAPHS))
        for k in range(rounds):
            try:
                seconds["loop"].append(loop(folder, Path(name), method, count))
            except Exception as error:
                print(f"Captum's {method}: {str(error)[:100]}", flush=True)
            seconds["one"].append(here(folder, Path(name) / f"one-{k}", method, count, 1))
            seconds["two"].append(here(folder, Path(name) / f"two-{k}", method, count, 2))
    hours = [f"{3600 * count / statistics.median(s):.0f}" if s else "fails" for s in seconds.values()]
    against = span([a / b for a, b in zip(seconds["loop"], seconds["one"])]) if seconds["loop"] else ""
    TABLE.add(method, [*hours, against, span([a / b for a, b in zip(seconds["one"], seconds["two"])])], rounds)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for name in options.names or RUNS:
        measure(name, options.pictures, options.rounds)


if __name__ == "__main__":
    main()
