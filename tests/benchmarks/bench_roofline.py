"""How near to the machine's peak: multiplications and additions of a workload, counted, over the seconds it takes.

Run: .venv/bin/python -m tests.benchmarks.bench_roofline W1 W2 W5-vit   (the peak is that of a 2048 x 2048 product)
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from interp_plugins import acceleration
from tests.benchmarks.harness import timed
from tests.benchmarks.workloads import WORKLOADS


def peak() -> float:
    """GFLOP/s of a large matrix product, the best of ten."""
    a = torch.randn(2048, 2048)
    best = float("inf")
    for _ in range(10):
        begin = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - begin)
    return 2 * 2048**3 / best / 1e9


def main() -> None:
    """One line per workload."""
    torch.set_num_threads(2)
    for name in sys.argv[1:] or ("W1",):
        runs = WORKLOADS[name]("cpu")
        counts = []
        for on in (True, False):
            with FlopCounterMode(display=False) as counter, acceleration(on):
                runs.ours()
            counts.append(counter.get_total_flops() / 1e9)
        seconds = statistics.median(timed(runs.ours)[0] for _ in range(3))
        top = peak()
        print(
            f"{name}: {counts[0]:.0f} GFLOP ({counts[1]:.0f} without accelerations), {seconds:.2f} s, "
            f"{counts[0] / seconds:.0f} GFLOP/s of {top:.0f}: {counts[0] / seconds / top:.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
