"""Speed against Captum 0.9, at its default and at its best setting: the workloads, interleaved.

    make bench PYTEST_ARGS="-k speed"                                      everything (hours on two cores)
    .venv/bin/python -m tests.benchmarks.bench_speed W1 W3 --rounds 5      some of it
    .venv/bin/python -m tests.benchmarks.bench_speed W1 --no-kernels       without kernels on private operators
    .venv/bin/python -m tests.benchmarks.bench_speed W1 --kernels          with them and without, in turn
    .venv/bin/python -m tests.benchmarks.bench_speed W1 --threads 1        on one thread in the place of two
    .venv/bin/python -m tests.benchmarks.bench_speed W1m --peak            memory, each variant in a process of its own

Each workload prints one line for docs/dev/performance.md and one of JSON, in which the meter says what ran here.
"""

from __future__ import annotations

import argparse
import json
import statistics

import pytest
import torch
from torch import Tensor

from interp_plugins import acceleration
from tests.benchmarks.harness import Result, Run, Runs, compare, peak, report_peak, timed
from tests.benchmarks.measured import Table, span
from tests.benchmarks.workloads import WORKLOADS

THREADS = 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WORKLOADS)
def test_speed(name: str) -> None:
    torch.set_num_threads(THREADS)
    compare(name, WORKLOADS[name]("cpu"))


def variant(runs: Runs, which: str):
    """ours, default, or one of the settings."""
    return runs.ours if which == "ours" else runs.default if which == "default" else runs.settings[which]


def without_kernels(run: Run) -> Run:
    """The same without the kernels that stand on private operators of torch."""

    def plain() -> Tensor:
        with acceleration(kernels=False):
            return run()

    return plain


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds per workload after which rounds end")
    parser.add_argument("--no-default", action="store_true", help="leave Captum's default out")
    parser.add_argument("--cold", action="store_true", help="without a run before the first round")
    parser.add_argument("--no-kernels", action="store_true", help="without kernels on private operators of torch")
    parser.add_argument("--kernels", action="store_true", help="here against here without these kernels")
    parser.add_argument("--peak", action="store_true", help="peak memory instead of time")
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--one", help="(inner) the variant whose peak memory this process prints")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with acceleration(kernels=False if options.no_kernels else None):
        measure(options)


TABLE = Table(
    "speed",
    "Against Captum",
    "`python -m tests.benchmarks.bench_speed`: the workloads of `tests/benchmarks/workloads.py`, random weights; "
    "seconds of the clock, Captum's time over ours by its default and by its best setting, and how far maps are apart.",
    ("here, s", "default / here", "best / here", "best setting", "maps apart"),
)


def record(found: Result, device: str) -> None:
    """A row of the table; those of a GPU stand beside the processor's."""
    ratios = [span(found.ratios(of)) if found.ratios(of) else "" for of in ("default", "best")]
    seconds = f"{statistics.median(found.seconds['ours']):.3g}"
    apart = f"{found.differences['best']:.1e}"
    TABLE.add(
        found.name if device == "cpu" else f"{found.name}, {device}",
        [seconds, *ratios, found.best, apart],
        len(found.seconds["ours"]),
    )


def measure(options: argparse.Namespace) -> None:
    """All workloads that are asked for."""
    for name in options.names or WORKLOADS:
        build = WORKLOADS[name]
        if options.one:
            report_peak(lambda build=build: build("cpu"), lambda runs: timed(variant(runs, options.one)))
        elif options.peak:
            without = ["--no-kernels"] if options.no_kernels else []
            labels = ["ours", "default", *build("cpu").settings]
            labels = [label for label in labels if label != "default" or not options.no_default]
            found = {label: peak("tests.benchmarks.bench_speed", name, "--one", label, *without) for label in labels}
            print(json.dumps({"name": name, "peak MiB": found}), flush=True)
        else:
            runs = build(options.device)
            if options.kernels:
                runs = Runs(runs.ours, None, {"without kernels": without_kernels(runs.ours)})
            if options.no_default:
                runs.default = None
            found = compare(name, runs, rounds=options.rounds, limit=options.limit, cold=options.cold)
            if not (options.kernels or options.no_kernels or options.cold):
                record(found, options.device)


if __name__ == "__main__":
    main()
