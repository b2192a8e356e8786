"""Interleaved comparison of runs in one process: ratios, their range, how far the maps are apart, and peak memory.

Every round runs each variant once, in turn, so that a machine whose speed drifts drifts for all of them. Ratios are
taken within a round; their median and range are what is quoted.
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.report import collect
from interp_plugins.engine import read_meter

Run = Callable[[], Tensor]


@dataclass
class Runs:
    """A workload's variants.

    Attributes:
        ours: this library, everything automatic.
        default: Captum as it comes, or None where that cannot be run.
        settings: Captum's settings to choose the best from.
        default_rounds: rounds in which the default runs too (it can take minutes).
    """

    ours: Run
    default: Run | None
    settings: dict[str, Run]
    default_rounds: int = 5


@dataclass
class Result:
    """What came of a workload; seconds per round (of the clock and of all threads), ratios Captum / here, our meter."""

    name: str
    device: str
    best: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu_seconds: dict[str, list[float]] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    swept: dict[str, float] = field(default_factory=dict)
    engine: dict[str, list[str]] = field(default_factory=dict)

    def ratios(self, of: str, *, cpu: bool = False) -> list[float]:
        """Seconds of a variant over ours, round by round."""
        seconds = self.cpu_seconds if cpu else self.seconds
        return [a / b for a, b in zip(seconds.get(of, []), seconds["ours"])]

    def line(self) -> str:
        """One row of the table."""
        cells = [f"{self.name} ({self.device}): here {statistics.median(self.seconds['ours']):.2f} s"]
        for of in ("default", "best"):
            if ratios := self.ratios(of):
                label = f"best ({self.best})" if of == "best" else of
                cells.append(
                    f"{label} {statistics.median(self.seconds[of]):.2f} s, ratio {statistics.median(ratios):.2f} "
                    f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} rounds; of CPU time "
                    f"{statistics.median(self.ratios(of, cpu=True)):.2f}), maps differ by "
                    f"{self.differences[of]:.1e}"
                )
        return "; ".join(cells)


def timed(run: Run) -> tuple[float, float, Tensor]:
    """Seconds of the clock, CPU seconds and map of one run; a map on the CPU has waited for the device."""
    gc.collect()
    begin, cpu_begin = time.perf_counter(), time.process_time()
    result = run().detach().cpu()
    return time.perf_counter() - begin, time.process_time() - cpu_begin, result


def compare(name: str, runs: Runs, *, rounds: int = 5, limit: float = 3600.0, cold: bool = False) -> Result:
    """Sweep Captum's settings once, then run default, best and ours in turn, for `rounds` or until the time is up.

    `cold` leaves out the run before the first round, for work so long that starting up does not count.
    """
    begin = time.perf_counter()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and torch.cuda.is_initialized() else "cpu"
    maps: dict[str, Tensor] = {}
    with collect() as report:
        if not cold:
            timed(runs.ours)
    several = len(runs.settings) > 1
    swept = {label: timed(run)[0] if several else 0.0 for label, run in runs.settings.items()}
    best = min(swept, key=swept.__getitem__)
    clock, busy = ({label: [] for label in ("ours", "best", "default")} for _ in range(2))
    result = Result(name, device, best, clock, busy, {}, swept, read_meter(report))
    for k in range(rounds):
        variants: list[tuple[str, Run]] = [("best", runs.settings[best]), ("ours", runs.ours)]
        if runs.default is not None and k < runs.default_rounds:
            variants.insert(0, ("default", runs.default))
        for label, run in variants:
            wall, cpu, maps[label] = timed(run)
            result.seconds[label].append(wall)
            result.cpu_seconds[label].append(cpu)
            print(f"{name} round {k + 1}: {label} {wall:.2f} s, CPU {cpu:.2f} s", file=sys.stderr, flush=True)
        if time.perf_counter() - begin > limit:
            break
    for label in ("default", "best"):
        if label in maps:
            result.differences[label] = float((maps[label] - maps["ours"]).norm() / maps[label].norm())
    print("\n" + result.line(), flush=True)
    print("; ".join(f"{kind}: {', '.join(texts) or 'nothing'}" for kind, texts in result.engine.items()), flush=True)
    print(json.dumps(asdict(result)), flush=True)
    return result


def peak(module: str, *args: str) -> float:
    """MiB that a run in a process of its own adds to what it held when everything was built."""
    command = [sys.executable, "-m", module, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return float("inf")  # it did not fit
    return float(done.stdout.strip().splitlines()[-1])


def report_peak(build: Callable[[], Any], run: Callable[[Any], Any]) -> None:
    """What the process behind `peak` does."""
    built = build()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(built)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
