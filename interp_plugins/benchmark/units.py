"""One unit of a benchmark's work: a task, a seed, an entrant, a block of samples, and the rows that come of them.

`run_unit` is a function of its arguments alone, so that any scheduler can map it over `Benchmark.units()`.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from interp_plugins.benchmark.entrants import Answer, Entrant, by_budget, entrant, entrants
from interp_plugins.benchmark.judging import Measure, Verdict, judge, measures
from interp_plugins.benchmark.problem import SIZES, Problem, TaskError
from interp_plugins.benchmark.registry import list_tasks, task_info
from interp_plugins.core.errors import InputError, InterpError, unknown
from interp_plugins.core.random import sample_seed
from interp_plugins.core.registry import Budget
from interp_plugins.metrics import metric_info
from interp_plugins.metrics.registry import ASKING, REPEATING

BLOCK = 16  # samples of a unit
BUDGETS: dict[str, Budget] = {
    "tiny": "fast",
    "small": "fast",
    "full": "normal",
}  # size -> the budget that methods run with
NOISE, NOISES = "control.random", 16  # its maps a sample, whose verdicts are averaged: what chance gets is then known
ASKED_NOISES = 4  # of them are judged by metrics that ask the model about each
REPEATED = {"tiny": 2, "small": 4, "full": 16}  # samples of a task about which methods are asked again, many times
DEAR = {"tiny": 100, "small": 300, "full": 2000}  # passes a sample, above which they are not
LARGE = {"tiny": 1e6, "small": 1e6, "full": math.inf}  # weights of a net, above which no method is
SEEDS = {"tiny": (0,), "small": (0, 1, 2), "full": (0, 1, 2, 3, 4)}  # of the nets, where none are named
_THUMB = 48  # pixels of a side that are kept of maps, for the report
TINY = ("saliency", "input_x_gradient", "integrated_gradients", "kernel_shap", "grad_cam", "occlusion")


@dataclass(frozen=True)
class UnitSpec:
    """What is done as a whole.

    Attributes:
        task: registered name.
        seed: of the net and of the method's draws.
        size: of the task.
        method: name of the entrant, with its parameters.
        start: first sample.
        stop: the sample after the last.
        metrics: names of metrics or columns; None: all.
        pictures: whether small copies of the maps are kept for the report.
        again: whether metrics judge that ask a method again; of several seeds, those of the first.
    """

    task: str
    seed: int
    size: str
    method: str
    start: int
    stop: int
    metrics: tuple[str, ...] | None = None
    pictures: bool = False
    again: bool = True


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark is: tasks, entrants, metrics, seeds, size.

    Args:
        tasks: names of tasks or of families; None: all.
        methods: names of entrants ("ig", "ig:n_steps=10"); None: the usual ones. Controls always enter.
        metrics: names of metrics or columns; None: all.
        seeds: of the nets; tasks without a trained net use the first alone. None: 0 for the size "tiny", 0 to 2 for
            "small", 0 to 4 for "full".
        size: "tiny", "small" or "full".
        knobs: whether methods that have one enter at several settings of it, on tasks whose values are known.

    Raises:
        UnknownNameError: a name that there is not.
        InputError: no seeds.

    Example:
        from interp_plugins.benchmark import Benchmark

        plan = Benchmark(("functions.max",), methods=("ig", "saliency"), size="tiny")
        [unit.method for unit in plan.units()][:3]  # -> ['integrated_gradients', 'saliency', 'control.random']
    """

    tasks: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    size: str = "small"
    knobs: bool = False

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise unknown("size of a task", self.size, SIZES)
        if self.seeds is None:  # said once, so that a plan that is read again is the same
            object.__setattr__(self, "seeds", SEEDS[self.size])
        if not self.nets:
            raise InputError("seeds is empty: give at least one.")
        for name in self.names:
            info = task_info(name)
            measures(info.kind, info.truth_kind, self.metrics, self.size)
        for one in self.methods or ():
            entrant(one)

    @property
    def nets(self) -> tuple[int, ...]:
        """The seeds: those that were named, or as many as the size asks for."""
        return self.seeds or ()

    @property
    def names(self) -> list[str]:
        """The tasks, families resolved, each once."""
        return list(dict.fromkeys(n for one in (self.tasks or (None,)) for n in list_tasks(one)))

    @property
    def identity(self) -> dict[str, Any]:
        """What two runs must share to be one."""
        return {
            "tasks": self.names,
            "methods": list(self.methods) if self.methods is not None else None,
            "metrics": list(self.metrics) if self.metrics is not None else None,
            "seeds": list(self.nets),
            "size": self.size,
            "knobs": self.knobs,
        }

    def entered(self, task: str) -> list[Entrant]:
        """The entrants of a task."""
        info = task_info(task)
        named = TINY if self.methods is None and self.size == "tiny" else self.methods
        found = entrants(named, info.kind, info.truth_kind)
        known = {one.name for one in found}
        if self.knobs and info.truth_kind == "values":
            found += [one for one in by_budget() if one.name not in known]
        return found

    def units(self) -> list[UnitSpec]:
        """The work, in an order that builds each problem once."""
        found = []
        for task in self.names:
            info = task_info(task)
            n = info.samples[self.size]
            for seed in self.nets if info.trained else self.nets[:1]:
                for one in self.entered(task):
                    for start in range(0, n, BLOCK):
                        stop, first = min(n, start + BLOCK), seed == self.nets[0]
                        kept = (first and ":" not in one.name, first)  # pictures, and what asks methods again
                        found.append(UnitSpec(task, seed, self.size, one.name, start, stop, self.metrics, *kept))
        return found


@functools.lru_cache(maxsize=1)
def _built(task: str, seed: int, size: str) -> Problem | str:
    """The problem, or why there is none; the units of one problem follow each other."""
    try:
        return task_info(task).build(seed, size)
    except (TaskError, ImportError) as err:
        return str(err)


def run_unit(unit: UnitSpec) -> list[dict[str, Any]]:
    """The rows of a unit: one per metric and sample; one with its reason where the entrant or the task failed."""
    base = {"task": unit.task, "size": unit.size, "seed": unit.seed, "method": unit.method}
    problem = _built(unit.task, unit.seed, unit.size)
    if isinstance(problem, str):
        return [{**base, "metric": "build", "reason": problem}]
    problem, one = problem.rows(slice(unit.start, unit.stop)), entrant(unit.method)
    try:
        answers = _answers(one, problem, unit)
    except Exception as err:  # an entrant that breaks is a row of its own, and the others go on
        return [{**base, "metric": "explain", "reason": f"{type(err).__name__}: {' '.join(str(err).split())}"[:300]}]
    answer = answers[0]
    cost = {"forward": answer.forward, "backward": answer.backward, "seconds": answer.seconds, "note": answer.note}
    base |= {"params": json.dumps(dict(one.params), sort_keys=True), "game": one.game, **cost}
    rows = [
        {**base, **row}
        for measure in measures(problem.kind, problem.truth_kind, unit.metrics, unit.size)
        if metric_info(measure.metric).needs not in REPEATING or (unit.again and not one.params)
        for row in _judged(measure, problem, answers, one, unit.size)
    ]
    passes = answer.forward + answer.backward
    rows += [
        {**base, "metric": "passes", "column": "cost", "sample": unit.start + i, "value": passes, "higher": False}
        for i in range(len(problem))
    ]
    return rows + (_pictures(base, problem, answer, unit.start) if unit.pictures else [])


def _answers(one: Entrant, problem: Problem, unit: UnitSpec) -> list[Answer]:
    """The entrant's maps; of noise several, which are others in every task, so that tasks have no luck in common."""
    budget = BUDGETS[unit.size]
    if one.method != NOISE:
        return [one.explain(problem, unit.seed, budget)]
    return [one.explain(problem, sample_seed(unit.seed, f"{unit.task}, map {k}"), budget) for k in range(NOISES)]


def _averaged(verdicts: Sequence[Verdict]) -> Verdict:
    """What several maps of one sample get in the mean; those for which a metric is undefined are left out."""
    values = [v.value for v in verdicts if not math.isnan(v.value)]
    return replace(verdicts[0], value=math.fsum(values) / len(values), reason=None) if values else verdicts[0]


def _first(problem: Problem, answers: Sequence[Answer], many: int) -> tuple[Problem, list[Answer]]:
    """What of a block is among the first samples of its task."""
    n = min(max(0, many - problem.first), len(problem))
    cut = [replace(a, maps=a.maps[:n], exp=None if a.exp is None else a.exp[:n]) for a in answers] if n else []
    return problem.rows(slice(0, n)), cut


def _verdicts(measure: Measure, problem: Problem, answers: Sequence[Answer], one: Entrant) -> list[Verdict]:
    asks = metric_info(measure.metric).needs in ASKING
    try:
        found = [judge(measure, problem, a.maps, one.game, a.exp) for a in answers[: ASKED_NOISES if asks else None]]
    except InterpError as err:  # a model without weights, say, cannot be asked with others
        return [Verdict(math.nan, " ".join(str(err).split())[:300], None)] * len(problem)
    return [_averaged(v) for v in zip(*found, strict=True)]


def _too_dear(problem: Problem, passes: float, size: str) -> str | None:
    """Why a method is not asked again and again about a problem; None where it is."""
    if passes > DEAR[size]:
        return f"{passes:.0f} passes a sample: above {DEAR[size]} a method is not asked again in the size {size!r}"
    model = problem.model
    weights = sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else 0
    if weights > LARGE[size]:
        return f"{weights:,} weights: above {LARGE[size]:,.0f} no method is asked again in the size {size!r}"
    return None


def _judged(
    measure: Measure, problem: Problem, answers: Sequence[Answer], one: Entrant, size: str
) -> list[dict[str, Any]]:
    info = metric_info(measure.metric)
    passes = answers[0].forward + answers[0].backward
    if info.needs in REPEATING:
        problem, answers = _first(problem, answers, REPEATED[size])
    why = _too_dear(problem, passes, size) if info.needs in REPEATING else None
    if why is not None:
        verdicts = [Verdict(math.nan, why, None)] * len(problem)
    else:
        verdicts = _verdicts(measure, problem, answers, one) if len(problem) else []
    about = {
        "metric": measure.name,
        "column": measure.column,
        "metric_params": json.dumps(dict(measure.params), sort_keys=True),
        "higher": info.higher_is_better,
        "league": measure.league and (problem.games_agree or measure.column != "truth"),
    }
    return [
        {
            **about,
            "sample": problem.first + i,
            "value": None if math.isnan(v.value) else v.value,
            "reason": v.reason,
            "chance": v.chance,
        }
        for i, v in enumerate(verdicts)
    ]


def _pictures(base: Mapping[str, Any], problem: Problem, answer: Answer, start: int) -> list[dict[str, Any]]:
    """Small copies of the maps, and beside noise, which every task has, of the inputs."""
    kept = [("map", answer.maps.sum(1, keepdim=True) if problem.kind == "image" else answer.maps)]
    if base["method"] == "control.random":
        kept.append(("input", problem.inputs))
    rows = []
    for what, tensor in kept:
        small = thumbnail(tensor, problem.kind)
        for i, one in enumerate(small):
            shape = json.dumps(list(one.shape))
            data = one.numpy().astype("<f2").tobytes()
            rows.append({**base, "metric": what, "sample": start + i, "map": data, "shape": shape})
    return rows


def thumbnail(tensor: Tensor, kind: str) -> Tensor:
    """Pictures of at most 48 pixels a side, other data as they are, scaled so that half precision holds them."""
    found = tensor.detach().double()
    if kind == "image" and max(found.shape[2:]) > _THUMB:
        found = adaptive_avg_pool2d(found, (min(_THUMB, found.shape[2]), min(_THUMB, found.shape[3])))
    largest = found.flatten(1).abs().amax(1).clamp_min(1e-30)
    return found / largest.reshape(-1, *[1] * (found.ndim - 1)) if kind != "text" else found


def threads() -> dict[str, Any]:
    """What can change the last bits of a run, beside versions."""
    return {"threads": torch.get_num_threads(), "processors": os.cpu_count()}
