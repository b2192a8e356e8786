"""What changed between two runs of a benchmark, beyond what chance would do: the gate of continuous integration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from interp_plugins.benchmark.leaderboard import Table, Values, as_difference, mean_of
from interp_plugins.benchmark.runs import Run
from interp_plugins.core.errors import InputError

_SAME = 1e-9


@dataclass(frozen=True)
class Changed:
    """One entrant that does otherwise in the second run.

    Attributes:
        task: of which.
        metric: by which; "explain" where it fails now, or no more.
        method: the entrant.
        before: mean in the first run; NaN where there is none.
        after: mean in the second.
        low: of the interval of the difference, oriented so that what is above 0 is better.
        high: its other end.
        worse: whether it got worse.
    """

    task: str
    metric: str
    method: str
    before: float
    after: float
    low: float
    high: float
    worse: bool

    def __str__(self) -> str:
        way = "worse" if self.worse else "better"
        span = "" if math.isnan(self.low) else f" [{self.low:+.3g}, {self.high:+.3g}]"
        return f"{way}: {self.task}, {self.method}, {self.metric}: {self.before:.4g} -> {self.after:.4g}{span}"


def compare(before: Run, after: Run) -> list[Changed]:
    """The entrants whose values changed beyond the interval of the paired difference, the worse ones first.

    Of samples that both runs have, sample by sample. A method that gives other values within the interval is no change;
    one that failed in one run alone is. A metric without a direction, and seconds, are not compared.

    Args:
        before: of `read`.
        after: of `read`.

    Raises:
        InputError: runs of other sizes, or with no task in common.

    Example:
        from interp_plugins import benchmark

        plan = benchmark.Benchmark(("functions.max",), methods=("saliency",), size="tiny")
        one = benchmark.read(benchmark.run(plan, "run_a"))
        benchmark.compare(one, benchmark.read(benchmark.run(plan, "run_b")))  # -> []
    """
    if before.plan.size != after.plan.size:
        raise InputError(f"Runs of the sizes {before.plan.size!r} and {after.plan.size!r} have other samples.")
    tables = Table(before.rows), Table(after.rows)
    tasks = [t for t in before.plan.names if t in after.plan.names]
    if not tasks:
        raise InputError("The two runs have no task in common.")
    found = [one for task in tasks for one in _of_task(*tables, task)]
    return sorted(found, key=lambda c: (not c.worse, c.task, c.method, c.metric))


def _of_task(first: Table, second: Table, task: str) -> Iterator[Changed]:
    for table, worse in ((second, True), (first, False)):
        other = first if worse else second
        known = {(f["task"], f["method"]) for f in other.failures}
        for failure in table.failures:
            key = (failure["task"], failure["method"])
            if failure["task"] == task and key not in known:
                known.add(key)
                yield Changed(task, failure["metric"], key[1], math.nan, math.nan, math.nan, math.nan, worse)
    for metric, methods in first.values.get(task, {}).items():
        higher = first.about[task, metric]["higher"]
        if higher is None:
            continue
        for method, values in methods.items():
            now = second.values.get(task, {}).get(metric, {}).get(method)
            if now is not None and (one := _changed(task, metric, method, values, now, higher)) is not None:
                yield one


def _changed(task: str, metric: str, method: str, before: Values, after: Values, higher: bool) -> Changed | None:
    gap = as_difference(after, before, higher)
    lost = sum(math.isnan(after[k]) and not math.isnan(before[k]) for k in set(before) & set(after))
    if lost == 0 and (gap.n == 0 or abs(gap.mean) <= _SAME):
        return None
    alone = math.isnan(gap.low)  # one sample, or one seed: whatever differs is said
    if lost == 0 and not alone and not (gap.above or gap.below):
        return None
    worse = lost > 0 or gap.mean < 0
    return Changed(task, metric, method, mean_of(before), mean_of(after), gap.low, gap.high, worse)
