"""Judging maps: which metrics a problem allows, in which column they stand, and their rows for each sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp_plugins.benchmark.problem import Problem
from interp_plugins.core.errors import unknown
from interp_plugins.core.explanation import Explanation
from interp_plugins.metrics import Explainer, list_metrics, metric, metric_info
from interp_plugins.metrics.registry import ASKING, REPEATING

COLUMNS = ("truth", "faithfulness", "robustness", "randomisation", "complexity", "cost")


@dataclass(frozen=True)
class Measure:
    """A metric as the benchmark uses it.

    Attributes:
        metric: registered name.
        column: of `COLUMNS`.
        params: of the metric.
        game: which of the two truths it compares with; None: that of the game that the method claims.
        league: whether methods are ranked by it; no metric without a direction ranks.
    """

    metric: str
    column: str
    params: Mapping[str, Any] = field(default_factory=dict)
    game: str | None = None
    league: bool = True

    @property
    def name(self) -> str:
        """As tables show it."""
        return self.metric if self.game is None else f"{self.metric}[{self.game}]"


@dataclass(frozen=True)
class Verdict:
    """What a measure says of one sample: a value, or the reason why it has none; and what chance would get."""

    value: float
    reason: str | None
    chance: float | None


OF_TRUTH = {
    "values": ("truth_cosine", "truth_rank", "truth_error"),
    "support": ("impossible_mass", "truth_auc"),
    "mask": ("relevance_mass", "relevance_rank", "pointing_game", "mask_auc"),
    "parts": ("truth_cosine", "truth_rank"),
    "none": (),
}
# What asks the method again multiplies what a method costs: `measures` leaves it out of the smallest size.
OTHERS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "faithfulness": (("srg", {"steps": 10}),),
    "robustness": (("sensitivity_avg", {"n_neighbours": 3}),),
    "randomisation": (("parameter_randomisation", {}),),
    "complexity": (("gini_index", {}), ("effective_size", {})),
}


def measures(
    problem_kind: str, truth_kind: str, wanted: Sequence[str] | None = None, size: str = "tiny"
) -> list[Measure]:
    """What maps of a problem are judged by.

    Args:
        problem_kind: of data.
        truth_kind: of `TRUTH_KINDS`.
        wanted: names of metrics or of columns; None: all, for size "tiny" without those that ask a method again.
        size: of the task.

    Raises:
        UnknownNameError: a name that is neither.
    """
    found = [Measure(name, "truth", channels(name, problem_kind)) for name in OF_TRUTH[truth_kind]]
    if truth_kind == "values":
        found += [Measure("truth_error", "truth", {}, game, False) for game in ("shapley", "aumann_shapley")]
    for column, several in OTHERS.items():
        found += [
            Measure(name, column, {**params, **channels(name, problem_kind)}, league=column != "complexity")
            for name, params in several
            if not (problem_kind == "text" and metric_info(name).needs == "explainer")  # ids have no neighbours
        ]
    if wanted is None:
        return [one for one in found if size != "tiny" or metric_info(one.metric).needs not in REPEATING]
    for name in wanted:
        if name not in COLUMNS and name not in list_metrics():
            raise unknown("metric or column", name, [*COLUMNS, *list_metrics()])
    return [one for one in found if one.column in wanted or one.metric in wanted]


def channels(name: str, kind: str) -> dict[str, Any]:
    """Pictures are judged by place; series and tables element by element, since their channels differ in meaning.

    Args:
        name: of a metric.
        kind: of data.
    """
    return {"reduce": None} if kind != "image" and "reduce" in metric_info(name).parameters else {}


def judge(
    measure: Measure, problem: Problem, maps: Tensor, game: str | None, again: Explanation | Explainer | None = None
) -> list[Verdict]:
    """A verdict for each sample.

    Args:
        measure: the metric.
        problem: the samples.
        maps: (N, ...).
        game: which one the method claims.
        again: for metrics that ask a method again: the maps with all that is known of them, or how they are made;
            None: by no method, and these metrics say nothing.
    """
    info = metric_info(measure.metric)
    given: dict[str, Any] = {}
    if measure.column == "truth":
        truth = problem.truth_for(measure.game or game) if measure.game is None else problem.truth[measure.game]
        if truth is None:
            why = "the two games differ here, and the method claims neither"
            return [Verdict(math.nan, why, None)] * len(problem)
        maps, truth = _alike(problem, maps, truth, measure.metric)
        given = {"masks" if info.needs == "masks" else "truth": truth}
    elif info.needs in REPEATING and again is None:
        return []
    elif info.needs in ASKING:
        known = {"target": problem.targets, "references": problem.baselines}
        given = {"model": problem.model} | {k: v for k, v in known.items() if k in info.parameters}
        if info.needs not in REPEATING:
            given |= {"inputs": problem.inputs, "baselines": problem.baselines}
        elif not isinstance(again, Explanation):
            given |= {"inputs": problem.inputs, "explain": again}
    one = metric(measure.metric, **measure.params)
    judged = again if info.needs in REPEATING and isinstance(again, Explanation) else maps
    one.update(judged, ids=list(range(problem.first, problem.first + len(problem))), **given)
    score = one.compute()
    chances: list[Any] = [score.chance] * len(problem)
    if measure.metric == "impossible_mass":  # noise gives impossible elements their share
        chances = given["truth"].flatten(1).double().mean(1).tolist()
    return [
        Verdict(value, score.reasons.get(key), at) for key, value, at in zip(score.ids, score.values.tolist(), chances)
    ]


def _alike(problem: Problem, maps: Tensor, truth: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Map and truth in one shape: sums over parts, one channel where the other has one."""
    if problem.truth_kind == "parts":
        assert problem.parts is not None
        places = maps.sum(1).flatten(1) if maps.ndim > problem.parts.ndim else maps.flatten(1)
        sums = torch.zeros(len(maps), truth.shape[1] + 1).scatter_add_(1, problem.parts.flatten(1), places.float())
        return sums[:, 1:], truth
    if problem.truth_kind == "support":
        can = truth if maps.shape == truth.shape else truth.any(1, keepdim=True)
        return maps, ~can if name == "impossible_mass" else can
    return maps, truth
