"""Results of benchmarks as files, and the page made of them: docs/dev/measured.md holds no number written by hand.

    python -m tests.benchmarks.measured            write the page of what was measured
    python -m tests.benchmarks.measured run [NAME ...] [--quick]   measure, and write it

A table is a file of `tests/benchmarks/measured`: its columns, and for every row its cells, the machine, the versions
and how busy the machine was. Measuring a row again replaces it, and no other.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interp_plugins.core.files import write

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).with_suffix("")
PAGE = ROOT / "docs" / "dev" / "measured.md"
# What `run` measures: modules with their arguments, and those of a run of minutes.
RUNS: dict[str, tuple[list[str], list[str]]] = {
    "speed": (["--rounds", "5", "--limit", "600"], ["W6-conductance", "--rounds", "3"]),
    "error": ([], ["--seeds", "3"]),
    "peers": ([], ["--rounds", "3"]),
    "precision": ([], ["--rounds", "3"]),
    "overhead": ([], ["--rounds", "3"]),
    "memory": ([], ["--calls", "40"]),
    "datasets": ([], ["--pictures", "8", "--rounds", "1"]),
    "quantus": ([], ["--net", "small", "--rounds", "3"]),
}
HEAD = """# Tables of measurements

Made by `python -m tests.benchmarks.measured` (`make bench`) from the result files in `tests/benchmarks/measured`; what
follows from the numbers is told in [performance](performance.md). Seconds are those of the processor, of all threads.
A cell with brackets is a median and the range beside it. "Load" is how many processes wanted the machine's cores when
a row was measured: with more than there are cores ratios count, and no seconds.
"""


@dataclass(frozen=True)
class Table:
    """A table of results.

    Args:
        name: of its file.
        title: above it.
        text: what was measured, in sentences.
        columns: of the cells, behind the name of a row.
        packages: whose versions matter, beside torch.
    """

    name: str
    title: str
    text: str
    columns: tuple[str, ...]
    packages: tuple[str, ...] = ("captum",)

    def add(self, row: str, cells: Sequence[str], rounds: int) -> None:
        """Write one row, in the place of what was measured before."""
        path = FOLDER / f"{self.name}.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": {}}
        known |= {"title": self.title, "text": self.text, "columns": list(self.columns)}
        known["rows"][row] = {"cells": list(cells), "rounds": rounds, **machine(self.packages)}
        write(path, json.dumps(known, indent=1, ensure_ascii=False) + "\n")
        print(f"| {row} | " + " | ".join(cells) + " |", flush=True)


def span(values: Sequence[float], digits: int = 2) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def machine(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Processor, cores, threads, load and versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    vectors = torch.backends.cpu.get_cpu_capability().replace("AVX512", "AVX-512")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    found = {}
    for name in ("torch", *packages):
        try:
            found[name] = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "machine": device or f"{cpu} with {'AMX' if amx else vectors}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "versions": found,
    }


def rendered(folder: Path = FOLDER) -> str:
    """The page."""
    parts = [HEAD]
    for path in sorted(folder.glob("*.json")):
        table = json.loads(path.read_text(encoding="utf-8"))
        parts.append(f"\n## {table['title']}\n\n{table['text']}\n")
        groups: dict[tuple[str, int, str], dict[str, Any]] = {}
        for name, row in table["rows"].items():
            versions = ", ".join(f"{k} {v}" for k, v in row["versions"].items())
            groups.setdefault((row["machine"], row["threads"], versions), {})[name] = row
        for (where, threads, versions), rows in groups.items():
            loads, rounds = ([r[key] for r in rows.values()] for key in ("load", "rounds"))
            few = f"{min(rounds)}" if min(rounds) == max(rounds) else f"{min(rounds)} to {max(rounds)}"
            parts.append(
                f"\n{where}; {threads} thread{'s' if threads > 1 else ''}; {versions}; load {min(loads)} to "
                f"{max(loads)}; rounds or seeds: {few}.\n\n| | {' | '.join(table['columns'])} |\n"
                f"|---|{'---|' * len(table['columns'])}\n"
            )
            short = len(table["columns"])  # rows of before a column was added
            parts += [
                f"| {name} | {' | '.join([*row['cells'], *[''] * short][:short])} |\n" for name, row in rows.items()
            ]
    return "".join(parts)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["page", "run"], default="page")
    parser.add_argument("names", nargs="*", help=", ".join(RUNS))
    parser.add_argument("--quick", action="store_true", help="few rounds")
    options = parser.parse_args()
    if options.what == "run":
        for name in options.names or RUNS:
            more = RUNS[name][options.quick]
            subprocess.run([sys.executable, "-m", f"tests.benchmarks.bench_{name}", *more], check=True, cwd=ROOT)
    write(PAGE, rendered())


if __name__ == "__main__":
    main()
