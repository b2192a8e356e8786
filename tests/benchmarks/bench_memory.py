"""Whether memory is flat and nothing leaks: a process's size after many calls of a method, and over numbers of samples.

    python -m tests.benchmarks.bench_memory [METHOD ...] [--calls 300]

Each method runs in a process of its own: MiB that stay (after the collector) from the tenth call to the last, and
objects that stay. Whatever needs a layer, a neuron or tokens gets the small net's.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

from interp_plugins import explain
from interp_plugins.core.registry import list_methods
from tests.benchmarks.measured import Table

WARM = 10
TABLE = Table(
    "memory",
    "What stays after calls",
    "`python -m tests.benchmarks.bench_memory`: `explain` of one picture of 32 x 32 by a small convolutional net, each "
    "method in a process of its own; what the process and the collector hold more after the last call than after the "
    "tenth.",
    ("calls", "MiB more", "objects more"),
    (),
)
FEW = {"n_steps": 8, "n_samples": 8, "nt_samples": 2, "max_evals": 60, "steps": 3}


def resident() -> float:
    """MiB of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 2**20


def one(method: str, calls: int) -> None:
    """What a process of its own does: two numbers."""
    from interp_plugins.api.binding import arguments_of, method_info

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 3)).eval()
    x, info = torch.rand(1, 3, 32, 32), method_info(method)
    made = info.cls(net, "3") if info.site in ("layer", "neuron") else None
    takes = arguments_of(made if made is not None else info.cls(net)) if info.site == "input" else FEW
    how = {k: v for k, v in FEW.items() if k in takes} if info.site == "input" else {}
    how |= {"layer": "3"} if info.site in ("layer", "neuron") else {}
    for call in range(calls):
        explain(net, x, method, target=0, progress=False, **how)
        if call == WARM - 1:
            gc.collect()
            before = resident(), len(gc.get_objects())
    gc.collect()
    print(f"{resident() - before[0]:.2f} {len(gc.get_objects()) - before[1]}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--one", action="store_true", help="(inner) in this process")
    options = parser.parse_args()
    if options.one:
        one(options.names[0], options.calls)
        return
    for name in options.names or list_methods():
        command = [sys.executable, "-m", "tests.benchmarks.bench_memory", name, "--one", "--calls", str(options.calls)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: not measured ({done.stderr.strip().splitlines()[-1][:100]})", flush=True)
            continue
        more, objects = done.stdout.split()[-2:]
        TABLE.add(name, [str(options.calls), more, objects], 1)


if __name__ == "__main__":
    main()
