"""Cost grows linearly in steps, samples and images, memory does not: time and peak memory over three decades.

Run: .venv/bin/python -m tests.benchmarks.bench_growth docs/images/growth.png   (about three minutes on two cores)

Each point is a process of its own, so that its peak memory is its own. The time is the processor's (all threads), which
other work on the machine distorts less than the clock's.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import torch

THREE_DECADES = (1, 3, 10, 30, 100, 300, 1000)
COUNTS = {"steps": (3, *THREE_DECADES[2:], 3000), "images": THREE_DECADES, "copies": THREE_DECADES}


def point(what: str, count: int) -> None:
    """Processor seconds and MiB of one run, printed."""
    import resource

    from interp_plugins.attr import IntegratedGradients, NoiseTunnel
    from tests.benchmarks.workloads import network, picture

    torch.set_num_threads(2)
    net = network("resnet18", "cpu")
    ig = IntegratedGradients(net)
    x = picture(48, "cpu", count if what == "images" else 1)

    def run(n: int) -> None:
        if what == "steps":
            ig.attribute(x, target=3, n_steps=n, progress=False)
        elif what == "images":
            ig.attribute(x[:n], target=3, n_steps=8, progress=False)
        else:
            NoiseTunnel(ig).attribute(x, target=3, nt_samples=n, n_steps=8, progress=False, seed=0)

    run(min(count, 100))  # a full chunk: allocator and threads are warm
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    run(count)
    seconds = time.process_time() - begin
    print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, before / 1024)


def main(path: Path) -> None:
    """Measure everything and draw it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for what, counts in COUNTS.items():
        seconds, memory = [], []
        for count in counts:
            command = [sys.executable, "-m", "tests.benchmarks.bench_growth", what, str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            s, more, held = map(float, done.stdout.split())
            seconds.append(s)
            memory.append(held + more)
            print(what, count, f"{s:.3g} s, {held + more:.0f} MiB", flush=True)
        left.loglog(counts, seconds, "o-", label=what)
        right.semilogx(counts, memory, "o-", label=what)
    left.set(xlabel="count", ylabel="processor seconds")
    right.set(xlabel="count", ylabel="peak memory of the process, MiB", ylim=(0, None))
    left.legend()
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=80)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        point(sys.argv[1], int(sys.argv[2]))
    else:
        main(Path(sys.argv[1]))
