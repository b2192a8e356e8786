"""From rows to a leaderboard: means with intervals, who is apart from whom, ranks over tasks, error against passes.

There is no overall number: six columns, ranks within each, and how far its metrics agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.benchmark.judging import COLUMNS
from interp_plugins.benchmark.ranks import critical_difference, friedman, letters, rank_interval, rank_rows
from interp_plugins.benchmark.registry import task_info
from interp_plugins.benchmark.runs import Row, Run
from interp_plugins.metrics.statistics import PairedDifference, bootstrap, holm, paired, sign_flip

SCHEMA = 1
DRAWS = 1000  # of a bootstrap: a leaderboard has thousands of intervals
_DIGITS = 5  # of means that are ranked: rounding errors are no merit
EXACT = 1e-6  # relative error of single precision
_NOISE = "control.random"
GROUPS = {"all data": None, "tables": "tabular", "pictures": "image", "series": "series", "texts": "text"}
Values = dict[tuple[int, int], float]  # (seed, sample) -> value


class Table:
    """The values of a run, by task, metric and method.

    Args:
        rows: of a run.

    Attributes:
        values: task -> metric -> method -> (seed, sample) -> value, NaN where there is none.
        about: (task, metric) -> column, direction, whether it ranks, chance.
        failures: task, seed, method and reason of what could not be built or explained.
        costs: task -> method -> forward, backward passes and seconds a sample.
        games: method -> the game it claims.
    """

    def __init__(self, rows: Iterable[Row]):
        self.values: dict[str, dict[str, dict[str, Values]]] = {}
        self.about: dict[tuple[str, str], dict[str, Any]] = {}
        self.failures: list[dict[str, Any]] = []
        self.costs: dict[str, dict[str, list[float]]] = {}
        self.games: dict[str, str | None] = {}
        for row in rows:
            self._add(row)

    def _add(self, row: Row) -> None:
        task, metric, method = row["task"], row["metric"], row["method"]
        if metric in ("build", "explain"):
            self.failures.append({k: row[k] for k in ("task", "seed", "method", "metric", "reason")})
        if row["column"] is None:
            return
        value = math.nan if row["value"] is None else row["value"]
        of_metric = self.values.setdefault(task, {}).setdefault(metric, {})
        of_metric.setdefault(method, {})[row["seed"], row["sample"]] = value
        self.costs.setdefault(task, {})[method] = [row["forward"], row["backward"], row["seconds"]]
        self.games[method] = row["game"]
        known = self.about.setdefault(
            (task, metric), {"column": row["column"], "higher": row["higher"], "league": row["league"], "chances": []}
        )
        if row["chance"] is not None:
            known["chances"].append(row["chance"])

    def league(self, task: str, column: str) -> list[str]:
        """The metrics by which methods are ranked in a column of a task."""
        found = [(m, self.about[task, m]) for m in self.values.get(task, {})]
        return [m for m, a in found if a["column"] == column and a["league"] and a["higher"] is not None]


def as_difference(one: Values, other: Values, higher: bool, draws: int = DRAWS) -> PairedDifference:
    """How much better one is than the other, sample by sample, seeds drawn first where there are several."""
    keys = sorted(set(one) & set(other))
    sign = 1.0 if higher else -1.0
    gaps = torch.tensor([sign * (one[k] - other[k]) for k in keys], dtype=torch.float64)
    return paired(gaps, groups=_groups(keys), draws=draws)


def _groups(keys: Sequence[tuple[int, int]]) -> list[int] | None:
    seeds = [seed for seed, _ in keys]
    return seeds if len(set(seeds)) > 1 else None


def usual(name: str) -> bool:
    """Whether an entrant ranks: controls do not, nor methods at several settings of their knob."""
    return not name.startswith("control.") and ":" not in name


def leaderboard(run: Run) -> dict[str, Any]:
    """Everything that the page and the tables show, as plain JSON values; seconds aside, the same for equal runs.

    Args:
        run: of `read`.

    Example:
        from interp_plugins import benchmark

        plan = benchmark.Benchmark(("functions.max",), methods=("ig",), size="tiny")
        found = benchmark.leaderboard(benchmark.read(benchmark.run(plan, "a_third_run")))
        found["tasks"]["functions.max"]["metrics"]["truth_cosine"]["methods"]["integrated_gradients"]["n"]  # -> 4
    """
    table = Table(run.rows)
    tasks = {task: _task(table, task) for task in run.plan.names if task in table.values}
    return {
        "schema": SCHEMA,
        "plan": run.plan.identity,
        "made": {k: v for k, v in run.made.items() if k != "time"},
        "missing_units": len(run.missing),
        "tasks": tasks,
        "columns": {c: _column(table, c) for c in COLUMNS},
        "agreement": {c: _agreement(table, c) for c in COLUMNS},
        "passes": error_against_passes(table),
        "failures": _counted(table.failures),
    }


def _counted(failures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Failures of one kind together; a task that was not built is one, whoever was to enter it."""
    found: dict[tuple[str, str, str], int] = {}
    for one in failures:
        key = (one["task"], "" if one["metric"] == "build" else one["method"], one["reason"])
        found[key] = found.get(key, 0) + 1
    return [{"task": t, "method": m, "reason": r, "times": n} for (t, m, r), n in found.items()]


def _task(table: Table, task: str) -> dict[str, Any]:
    info = task_info(task)
    metrics = {}
    primary = next(iter(table.league(task, "truth") or table.league(task, "faithfulness")), None)
    for name, methods in table.values[task].items():
        about = table.about[task, name]
        chances = about["chances"]
        metrics[name] = {
            "column": about["column"],
            "higher": about["higher"],
            "league": about["league"],
            "chance": math.fsum(chances) / len(chances) if chances else None,
            "methods": _methods(methods, about["higher"], name == primary),
        }
    costs = {m: dict(zip(("forward", "backward", "seconds"), c)) for m, c in table.costs[task].items()}
    return {
        "says": info.says,
        "truth": info.truth_kind,
        "kind": info.kind,
        "license": info.license,
        "primary": primary,
        "metrics": metrics,
        "costs": costs,
    }


def _methods(methods: Mapping[str, Values], higher: bool | None, grouped: bool) -> dict[str, Any]:
    means = {m: mean_of(v) for m, v in methods.items()}
    sign = 1.0 if higher or higher is None else -1.0
    order = sorted(methods, key=lambda m: (math.isnan(means[m]), -sign * means[m] if means[m] == means[m] else 0, m))
    ranked = [m for m in order if usual(m) and not math.isnan(means[m])]
    best = ranked[0] if ranked and higher is not None else None
    shown = groups_of(methods, ranked, bool(higher)) if grouped and higher is not None else {}
    found = {}
    for name in order:
        values = methods[name]
        entry: dict[str, Any] = {"mean": _plain(means[name]), "n": len(values)}
        entry["undefined"] = sum(math.isnan(v) for v in values.values())
        entry["low"], entry["high"] = (_plain(v) for v in _interval(values))
        if best is not None and name != best:
            entry["to_best"] = _short(as_difference(values, methods[best], bool(higher)))
        if _NOISE in methods and name != _NOISE and higher is not None:
            gap = as_difference(values, methods[_NOISE], bool(higher))
            entry["beats_noise"] = gap.above
        if name in shown:
            entry["letters"] = shown[name]
        found[name] = entry
    return found


def groups_of(methods: Mapping[str, Values], ranked: Sequence[str], higher: bool) -> dict[str, str]:
    """Letters of methods that a sign-flip test, adjusted after Holm over all pairs, does not tell apart."""
    pairs = [(a, b) for i, a in enumerate(ranked) for b in ranked[i + 1 :]]
    ps = []
    for a, b in pairs:
        keys = sorted(set(methods[a]) & set(methods[b]))
        gaps = torch.tensor([methods[a][k] - methods[b][k] for k in keys], dtype=torch.float64)
        ps.append(sign_flip(gaps[~gaps.isnan()], draws=2000))
    adjusted = holm(ps)
    return letters(ranked, {pair: p <= 0.05 for pair, p in zip(pairs, adjusted)})


def mean_of(values: Values) -> float:
    """The mean of the seeds' means; NaN where nothing is defined."""
    by_seed: dict[int, list[float]] = {}
    for (seed, _), value in sorted(values.items()):
        if not math.isnan(value):
            by_seed.setdefault(seed, []).append(value)
    means = [math.fsum(v) / len(v) for v in by_seed.values()]
    return math.fsum(means) / len(means) if means else math.nan


def _interval(values: Values) -> tuple[float, float]:
    keys = [k for k, v in sorted(values.items()) if not math.isnan(v)]
    if len(keys) < 2:
        return math.nan, math.nan
    return bootstrap(torch.tensor([values[k] for k in keys], dtype=torch.float64), groups=_groups(keys), draws=DRAWS)


def _short(one: PairedDifference) -> dict[str, Any]:
    found = {"mean": one.mean, "low": one.low, "high": one.high, "p": one.p, "won": one.won, "lost_pairs": one.left_out}
    return {k: _plain(v) for k, v in found.items()}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


# -- over tasks -------------------------------------------------------------------------------------------------------


def _column(table: Table, column: str) -> dict[str, Any]:
    """Ranks in a column, for each kind of data and for all of them: methods that entered every task."""
    found = {}
    for group, kind in GROUPS.items():
        tasks = [t for t in table.values if table.league(t, column) and kind in (None, task_info(t).kind)]
        one = _ranked(table, column, tasks) if tasks else None
        if one is not None:
            found[group] = one
    return found


def _complete(table: Table, column: str, tasks: Sequence[str]) -> list[str]:
    """The methods that have a value in every task of a column."""
    sets = []
    for task in tasks:
        columns = [table.values[task][m] for m in table.league(task, column)]
        sets.append({m for one in columns for m, v in one.items() if usual(m) and not math.isnan(mean_of(v))})
    return sorted(set.intersection(*sets)) if sets else []


def _ranked(table: Table, column: str, tasks: Sequence[str]) -> dict[str, Any] | None:
    methods = _complete(table, column, tasks)
    if len(methods) < 2:
        return None
    blocks = torch.stack([_task_ranks(table, column, task, methods) for task in tasks])
    samples = [
        torch.stack([_oriented(table, task, metric, methods) for metric in table.league(task, column)])
        for task in tasks
    ]
    test = friedman(-blocks) if len(tasks) > 1 else None
    means = blocks.mean(0).tolist()
    intervals = rank_interval(samples, draws=DRAWS, decimals=_DIGITS)
    return {
        "tasks": list(tasks),
        "friedman_p": None if test is None else test.p,
        "kendall_w": None if test is None else test.w,
        "critical_difference": critical_difference(len(methods), len(tasks)),
        "methods": {
            m: {"rank": means[i], "low": intervals[i][0], "high": intervals[i][1]}
            for i, m in sorted(enumerate(methods), key=lambda pair: means[pair[0]])
        },
    }


def _task_ranks(table: Table, column: str, task: str, methods: Sequence[str]) -> Tensor:
    """The mean over the column's metrics of the ranks in a task, (k,)."""
    ranks = []
    for metric in table.league(task, column):
        means = [mean_of(table.values[task][metric].get(m, {})) for m in methods]
        sign = 1.0 if table.about[task, metric]["higher"] else -1.0
        oriented = torch.tensor([-math.inf if math.isnan(v) else sign * v for v in means], dtype=torch.float64)
        ranks.append(rank_rows(oriented[None].round(decimals=_DIGITS))[0])
    return torch.stack(ranks).mean(0)


def _oriented(table: Table, task: str, metric: str, methods: Sequence[str]) -> Tensor:
    """Values (samples, k) of a metric, larger is better."""
    values = table.values[task][metric]
    keys = sorted({k for one in table.values[task].values() for m in methods for k in one.get(m, {})})
    sign = 1.0 if table.about[task, metric]["higher"] else -1.0
    return torch.tensor([[sign * values.get(m, {}).get(k, math.nan) for m in methods] for k in keys])


def _agreement(table: Table, column: str) -> float | None:
    """Kendall's W of a column's metrics: whether they order methods alike, the mean over tasks."""
    found = []
    for task in table.values:
        metrics = table.league(task, column)
        methods = _complete(table, column, [task])
        if len(metrics) < 2 or len(methods) < 3:
            continue
        rows = [_oriented(table, task, metric, methods).nanmean(0) for metric in metrics]
        scores = torch.stack(rows)
        if not bool(scores.isnan().any()):
            found.append(friedman(scores).w)
    return math.fsum(found) / len(found) if found else None


def error_against_passes(table: Table) -> dict[str, Any]:
    """Mean relative error to known values and passes a sample, over the tasks whose two games agree.

    Returns:
        "methods": name -> passes, error, on how many tasks; "front": those that no other beats in both.
    """
    sums: dict[str, list[tuple[float, float]]] = {}
    for task, metrics in table.values.items():
        if "truth_error" not in metrics or not table.about[task, "truth_error"]["league"]:
            continue
        for method, values in metrics["truth_error"].items():
            forward, backward, _ = table.costs[task][method]
            if not math.isnan(error := mean_of(values)) and not method.startswith("control."):
                sums.setdefault(method, []).append((forward + backward, error))
    most = max((len(v) for v in sums.values()), default=0)
    found = {
        m: {
            "passes": math.fsum(p for p, _ in v) / len(v),
            "error": math.fsum(e for _, e in v) / len(v),
            "tasks": len(v),
        }
        for m, v in sorted(sums.items())
        if len(v) == most
    }
    front = [m for m, one in found.items() if not any(_beats(o, one) for o in found.values())]
    return {"methods": found, "front": sorted(front, key=lambda m: found[m]["passes"])}


def _beats(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether one is at least as good in both, and better in one; errors below rounding are none."""
    mine, theirs = ((o["passes"], max(o["error"], EXACT)) for o in (one, other))
    return mine[0] <= theirs[0] and mine[1] <= theirs[1] and mine != theirs


def rounded(value: Any) -> Any:
    """Plain JSON values with numbers of six digits, as a file holds them."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def as_csv(found: Mapping[str, Any]) -> str:
    """A leaderboard as a table: a line per task, metric and method."""
    names = ("mean", "low", "high", "n", "undefined", "beats_noise", "letters")
    lines = [",".join(("task", "metric", "column", "method", *names, "passes"))]
    for task, one in found["tasks"].items():
        for metric, about in one["metrics"].items():
            for method, entry in about["methods"].items():
                cost = one["costs"][method]
                values = [task, metric, about["column"], method, *(entry.get(n) for n in names)]
                values.append(cost["forward"] + cost["backward"])
                lines.append(",".join(_cell(v) for v in values))
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return f'"{text}"' if "," in text else text
