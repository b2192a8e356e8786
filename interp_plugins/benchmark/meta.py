"""Metrics judged before they judge: what each notices, and whether it finds the order of methods that is true.

On tasks whose truth is known every metric is given the maps of methods and maps that must lose to them. A metric that
cannot tell noise, a map that ignores the model, or that of a net with shuffled weights from a good map says nothing by
its numbers; one whose order of methods is that of the truth may be used where there is no truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.benchmark.contenders import (
    BLIND,
    NEGATED,
    NOISE,
    PLAIN,
    SCALED,
    SHARES,
    SHUFFLED,
    Contender,
    methods_of,
    rivals,
)
from interp_plugins.benchmark.entrants import entrant
from interp_plugins.benchmark.judging import Measure, channels, judge, measures
from interp_plugins.benchmark.problem import Problem, TaskError
from interp_plugins.benchmark.ranks import rank_rows
from interp_plugins.benchmark.registry import task_info
from interp_plugins.core.errors import InterpError
from interp_plugins.core.guard import frozen
from interp_plugins.metrics import list_metrics, metric_info, shared_rows
from interp_plugins.metrics.registry import REPEATING

SCHEMA = 1
TASKS = (
    "functions.product",
    "functions.polynomial",
    "transparent.additive",
    "tetris.moved_white",
    "series.rare_channel",
    "watermark.whole",
)
AGAIN = ("functions.polynomial", "transparent.additive", "tetris.moved_white")  # where asking again and again is cheap
OF = {"masks": ("mask",), "truth": ("values", "support")}  # what a metric needs -> kinds of truth that are that
FEW = 6  # samples of metrics that ask a method again
NUMBERS = ("noise", "blind", "weights", "mixing", "sign", "scale", "order", "halves", "rows")
SMALLER: dict[str, dict[str, Any]] = {  # parameters that keep the work small
    "srg": {"steps": 10},
    "infidelity": {"n_perturb_samples": 50},
    "sensitivity_n": {"n_subsets": 30},
    "mu_fidelity": {"n_subsets": 50},
    "faithfulness_correlation": {"n_subsets": 50},
    "monotonicity_correlation": {"n_draws": 3},
    **{name: {"n_draws": 2} for name in ("dummy", "non_sensitivity")},
    **{name: {"n_neighbours": 4} for name in ("continuity", "local_lipschitz", "sensitivity_avg", "sensitivity_max")},
    **{f"relative_{what}_stability": {"n_neighbours": 4} for what in ("input", "output", "representation")},
}


@dataclass(frozen=True)
class Judged:
    """What a metric says of every contender of a task.

    Attributes:
        values: contender -> (N,), larger is better.
        rows: that went forward, a sample, for all contenders together.
    """

    values: dict[str, Tensor]
    rows: float


def meta_evaluation(
    tasks: Sequence[str] = TASKS, metrics: Iterable[str] | None = None, *, size: str = "small", seed: int = 0
) -> dict[str, Any]:
    """Judge metrics on tasks.

    Args:
        tasks: names; their truth must be known.
        metrics: names; None: all but those of two maps.
        size: of the tasks.
        seed: of nets and draws.

    Returns:
        Plain JSON values: per metric and task the numbers of `NUMBERS`, or why it could not be tried there, and per
        metric their means over the tasks.

    Example:
        from interp_plugins.benchmark.meta import meta_evaluation

        found = meta_evaluation(("transparent.additive",), ["faithfulness_estimate"], size="tiny")
        found["metrics"]["faithfulness_estimate"]["mean"]["noise"] > 0.5  # -> True
    """
    names = [n for n in list_metrics() if metric_info(n).needs != "pair"] if metrics is None else list(metrics)
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for task in tasks:
        problem = task_info(task).build(seed, size)
        methods = methods_of(problem, seed)
        truth = _true_order(problem, methods)
        best = max(truth, key=truth.__getitem__)
        good = next(one for one in methods if one.name == best)
        many = [*methods, *rivals(problem, good, seed)]
        for name in names:
            found[name][task] = _of_task(name, task, problem, many, truth, best)
    every = {name: {"tasks": by_task, "mean": _over_tasks(by_task)} for name, by_task in found.items()}
    return {"schema": SCHEMA, "tasks": list(tasks), "size": size, "seed": seed, "metrics": every}


METHODS = tuple(entrant(name).name for name in PLAIN)


def values(measure: Measure, problem: Problem, one: Contender) -> Tensor:
    """(N,) what a metric says, larger is better; NaN where it is undefined."""
    verdicts = judge(measure, problem, one.maps, one.game, again=one.again)
    found = torch.tensor([v.value for v in verdicts], dtype=torch.float64)
    return -found if metric_info(measure.metric).higher_is_better is False else found


def _true_order(problem: Problem, methods: Sequence[Contender]) -> dict[str, float]:
    """Method -> the mean of its ranks by the metrics of the truth, oriented so that larger is nearer.

    Raises:
        TaskError: a method cannot be compared with the truth of this task.
    """
    ranks = []
    for measure in measures(problem.kind, problem.truth_kind, ("truth",)):
        if measure.league:
            means = torch.tensor([_mean(values(measure, problem, one)) for one in methods], dtype=torch.float64)
            if bool(means.isnan().any()):
                raise TaskError(
                    f"{measure.name} is not defined for all methods: their order by the truth is not known."
                )
            ranks.append(rank_rows(means[None].round(decimals=5))[0])
    found = -torch.stack(ranks).mean(0)
    return dict(zip((one.name for one in methods), found.tolist()))


def _of_task(
    name: str, task: str, problem: Problem, many: Sequence[Contender], truth: Mapping[str, float], best: str
) -> dict[str, Any]:
    """The numbers of a metric on a task, or why there are none."""
    info = metric_info(name)
    if info.needs in REPEATING:
        if task not in AGAIN:
            return {"why": "not asked: the method is asked again on two tasks alone"}
        problem = problem.rows(slice(0, FEW))
        many = [_made_anew(one, problem) for one in many]
    if info.needs in OF and problem.truth_kind not in OF[info.needs]:
        return {"why": f"the truth of this task is of another kind ({problem.truth_kind})"}
    column = "truth" if info.needs in OF else "faithfulness"
    measure = Measure(name, column, {**SMALLER.get(name, {}), **channels(name, problem.kind)})
    try:
        judged = _judged(measure, problem, many)
    except (InterpError, RuntimeError) as err:
        return {"why": " ".join(str(err).split())[:160]}
    found = numbers(judged, truth, best, ranks=info.higher_is_better is not None and column != "truth")
    return {**found, "best": best}


def _made_anew(one: Contender, problem: Problem) -> Contender:
    """A contender with the maps that come when it is asked for them: noise is the same for every input then."""
    again: Any = one.again.method
    n = len(problem)
    maps = again(problem.model, problem.inputs, problem.targets) if one.again.is_function else one.maps[:n]
    return Contender(one.name, maps, one.again, one.game)


def _judged(measure: Measure, problem: Problem, many: Sequence[Contender]) -> Judged:
    found = {}
    with frozen(problem.model), shared_rows() as asked:
        for one in many:
            found[one.name] = values(measure, problem, one)
    return Judged(found, asked.rows / len(problem))


def numbers(judged: Judged, truth: Mapping[str, float], best: str, ranks: bool = True) -> dict[str, float | None]:
    """What a metric notices on a task.

    Args:
        judged: what it says of every contender.
        truth: contender -> how near to the truth it is, larger is nearer.
        best: the method that is nearest.
        ranks: whether its order of methods is to be compared with that of the truth.

    Returns:
        By `NUMBERS`: "noise", "blind", "weights", "sign": how often a sample of the best method's maps gets a better
        value than one of noise, of the hardest map that ignores the model, of a net with shuffled weights, of the map
        turned over (.5: not told apart); "mixing": Kendall's tau of the value and the share of noise mixed in, as it
        should fall; "scale": the largest relative change when the map is scaled; "order": tau of the order of methods
        and that of the truth; "halves": tau of the orders on two halves of the samples; "rows": of a
        sample, for all contenders together.
    """
    good, known = judged.values[best], judged.values
    blind = [above(good, known[name]) for name in BLIND if name in known]
    means = {name: _mean(known[name]) for name in METHODS if name in known}
    mixed = [_mean(good), *(_mean(known[f"noise {share:.0%}"]) for share in SHARES)]
    halves = [{n: _mean(known[n][start::2]) for n in means} for start in (0, 1)]
    gap = (known[SCALED] - good).abs().max() / good.abs().max().clamp_min(1e-12)
    found = {
        "noise": above(good, known[NOISE]),
        "blind": min((v for v in blind if not math.isnan(v)), default=math.nan),
        "weights": above(good, known[SHUFFLED]) if SHUFFLED in known else math.nan,
        "mixing": -kendall(mixed, list(range(len(mixed)))),
        "sign": above(good, known[NEGATED]),
        "scale": float(gap),
        "order": kendall(list(means.values()), [truth[n] for n in means]) if ranks else math.nan,
        "halves": kendall(*(list(half.values()) for half in halves)) if ranks else math.nan,
        "rows": judged.rows,
    }
    return {name: None if math.isnan(value) else value for name, value in found.items()}


def above(good: Tensor, bad: Tensor) -> float:
    """How often one of the good values is larger than one of the bad ones, ties half; NaN without any."""
    a, b = good[~good.isnan()], bad[~bad.isnan()]
    if not len(a) or not len(b):
        return math.nan
    wins = (a[:, None] > b[None]).double() + 0.5 * (a[:, None] == b[None]).double()
    return float(wins.mean())


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau b of two lists, pairs with NaN left out; NaN where one of them is constant."""
    x, y = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    defined = ~(x.isnan() | y.isnan())
    i, j = torch.triu_indices(int(defined.sum()), int(defined.sum()), 1)
    p, q = (v[defined][i] - v[defined][j] for v in (x, y))
    p, q = (torch.where(v.abs() <= 1e-9, 0.0, v).sign() for v in (p, q))
    size = math.sqrt(float(p.abs().sum()) * float(q.abs().sum()))
    return float((p * q).sum()) / size if size else math.nan


def _mean(found: Tensor) -> float:
    defined = found[~found.isnan()]
    return float(defined.mean()) if len(defined) else math.nan


def _over_tasks(by_task: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the tasks on which a number is known; of "scale" the largest."""
    found: dict[str, Any] = {"tasks": sum("why" not in one for one in by_task.values())}
    for name in NUMBERS:
        known = [one[name] for one in by_task.values() if one.get(name) is not None]
        found[name] = (max(known) if name == "scale" else math.fsum(known) / len(known)) if known else None
    return found
