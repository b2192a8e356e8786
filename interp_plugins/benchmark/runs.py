"""A benchmark's run directory, on the store's engine: a manifest, one sealed part for each unit, committed by rename.

Any number of processes work on it: process r of W does the units whose number leaves r when divided by W. One that dies
costs the unit it was at; what is damaged is noticed and done again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp_plugins.benchmark.units import Benchmark, UnitSpec, run_unit, threads
from interp_plugins.core.batching import progress_bar
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.store import manifest
from interp_plugins.store.errors import StoreError
from interp_plugins.store.row_run import Row, RowRun

SCHEMA = 1
_COLUMNS = {
    **dict.fromkeys(("task", "size", "method", "params", "game", "metric", "column", "metric_params"), "string"),
    **dict.fromkeys(("reason", "note", "shape"), "string"),
    **dict.fromkeys(("seed", "sample"), "int64"),
    **dict.fromkeys(("value", "chance", "forward", "backward", "seconds"), "float64"),
    **dict.fromkeys(("higher", "league"), "bool_"),
    "map": "binary",
}


@dataclass(frozen=True)
class Run:
    """What a run directory holds.

    Attributes:
        path: the directory.
        plan: what the benchmark is.
        made: when, with which versions and how many threads it was begun.
        rows: all rows, unit after unit.
        missing: numbers of the units that are not done.
    """

    path: Path
    plan: Benchmark
    made: dict[str, Any]
    rows: list[Row]
    missing: list[int]


def run(
    plan: Benchmark,
    out: str | Path,
    *,
    rank: int | None = None,
    world_size: int | None = None,
    progress: bool | None = None,
) -> Path:
    """Do this process's units of a benchmark, beginning it or going on with it.

    Args:
        plan: what is done.
        out: the run directory.
        rank: this process; None: as torchrun says (RANK), or the only one.
        world_size: how many there are.
        progress: a bar; None: for long work.

    Returns:
        The directory; any process may read it while others work.

    Raises:
        RunDiffersError: the run at `out` is another one.
        StoreError: `out` cannot be a run directory, or cannot be written.

    Example:
        from interp_plugins import benchmark

        plan = benchmark.Benchmark(("functions.max",), methods=("ig",), size="tiny")
        benchmark.read(benchmark.run(plan, "a_run")).missing  # -> []
    """
    units = plan.units()
    identity = {"benchmark": SCHEMA, "plan": plan.identity, "data": {"size": len(units)}, "unit_size": 1}
    work = RowRun.begin(Path(out), identity, _COLUMNS, threads())
    mine = work.to_do(rank, world_size)
    with preserved_rng(), contextlib.closing(progress_bar(len(mine), "Benchmark", progress)) as bar:
        for u in mine:
            work.commit(u, run_unit(units[u]))
            bar.update(1)
    return work.path


def read(path: str | Path) -> Run:
    """What a run directory holds so far; damaged parts count as missing, and are told of.

    Args:
        path: of `run`.

    Raises:
        StoreError: no run of a benchmark.

    Example:
        from interp_plugins import benchmark

        plan = benchmark.Benchmark(("functions.max",), methods=("saliency",), size="tiny")
        benchmark.read(benchmark.run(plan, "another_run")).plan == plan  # -> True
    """
    path = Path(path)
    made = manifest.read(path)
    if made is None or "benchmark" not in made.identity:
        raise StoreError(f"{path} is no run of a benchmark: give the directory that benchmark run has written.")
    told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in made.identity["plan"].items()}
    plan = Benchmark(**told)
    rows, missing = RowRun(path, made, _COLUMNS).read()
    return Run(path, plan, made.made, rows, missing)


def as_dict(unit: UnitSpec) -> dict[str, Any]:
    """A unit as plain values, for schedulers that send text."""
    return dataclasses.asdict(unit)
