"""Holds for every task at its smallest size: it builds, truth wins, noise gets its chance, batches change nothing."""

import dataclasses
import math
import sys

import pytest
import torch

from interp_plugins.benchmark import Problem, entrant, entrants, list_tasks, register_task, registry, task_info
from interp_plugins.benchmark.entrants import Entrant, control_map
from interp_plugins.benchmark.judging import judge, measures
from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.metrics import metric_info
from tests.benchmark.conftest import tiny
from tests.thorough import THOROUGH

HERE = [name for name in list_tasks() if not task_info(name).missing]
METHODS = ("saliency", "input_x_gradient")


def league(problem):
    return [m for m in measures(problem.kind, problem.truth_kind, ("truth",)) if m.league]


def mean(values):
    found = [v for v in values if not math.isnan(v)]
    return sum(found) / len(found) if found else math.nan


@pytest.mark.parametrize("name", HERE)
def test_it_is_what_its_card_says(name):
    info, problem = task_info(name), tiny(name)
    assert len(problem) == info.samples["tiny"] and problem.kind == info.kind and info.says and info.license


@pytest.mark.parametrize("name", HERE if THOROUGH else ["functions.max", "tables.wine", "watermark.whole"])
def test_a_seed_is_a_net(name):
    problem, again = tiny(name), task_info(name).build(0, "tiny")
    assert torch.equal(problem.inputs, again.inputs) and torch.equal(problem.targets, again.targets)
    assert torch.equal(problem.scores(problem.inputs), again.scores(again.inputs)), "the same seed, another net"


@pytest.mark.parametrize("name", [n for n in HERE if task_info(n).truth_kind != "none"])
def test_truth_is_best_or_tied(name):
    problem = tiny(name)
    entered = [e for e in entrants(METHODS, problem.kind, problem.truth_kind)]
    found = {e.name: e.explain(problem, 0, "fast").maps for e in entered}
    games = {e.name: e.game for e in entered}
    for measure in league(problem):
        means = {n: mean(v.value for v in judge(measure, problem, maps, games[n])) for n, maps in found.items()}
        known = {n: v for n, v in means.items() if not math.isnan(v)}
        sign = 1 if metric_info(measure.metric).higher_is_better else -1
        best = max(known, key=lambda n: sign * known[n])
        assert sign * known["control.truth"] >= sign * known[best] - 1e-6, (measure.name, best, known)


def repeated(problem, times):
    """The same samples again and again, as samples of their own."""
    several = {"inputs": problem.inputs, "targets": problem.targets, "parts": problem.parts, "truth": problem.truth}
    for name, value in several.items():
        if isinstance(value, dict):
            several[name] = {k: torch.cat([v] * times) for k, v in value.items()}
        elif value is not None:
            several[name] = torch.cat([value] * times)
    return dataclasses.replace(problem, **several)


@pytest.mark.parametrize("name", [n for n in HERE if task_info(n).truth_kind != "none"])
def test_noise_gets_its_chance(name):
    problem = tiny(name)
    times = max(20, 20_000 // problem.inputs.numel())
    many = repeated(problem, times)
    maps = control_map("control.random", many, 0)
    for measure in league(problem):
        verdicts = judge(measure, many, maps, "shapley")
        if verdicts[0].chance is None:
            continue
        gaps = (
            torch.tensor([v.value - v.chance for v in verdicts], dtype=torch.float64).reshape(times, -1).nanmean(1)
        )  # a map without mass is undefined
        chance = mean(v.chance for v in verdicts)  # few draws hit a small mask, or none: of hits the spread is known
        least = math.sqrt(chance * (1 - chance) / len(verdicts)) if measure.metric == "pointing_game" else 0.0
        error = max(float(gaps.std()) / math.sqrt(times), least)
        assert abs(float(gaps.mean())) <= 3 * error, (measure.name, float(gaps.mean()), error)


@pytest.mark.parametrize("name", ["functions.product", "tables.wine", "watermark.whole", "disconnected"])
def test_a_block_is_judged_as_it_is_among_others(name):
    problem = tiny(name)
    for one in ("control.random", "control.edges", "control.truth", "input_x_gradient"):
        if not entrant(one).fits(problem.kind, problem.truth_kind):
            continue
        whole = entrant(one).explain(problem, 3).maps
        parts = [problem.rows(slice(0, 1)), problem.rows(slice(1, 4))]
        assert torch.allclose(torch.cat([entrant(one).explain(p, 3).maps for p in parts]), whole, atol=1e-5)
        for measure in measures(problem.kind, problem.truth_kind):
            together = [v.value for v in judge(measure, problem, whole, "shapley")]
            alone = [v.value for p, m in zip(parts, (whole[:1], whole[1:])) for v in judge(measure, p, m, "shapley")]
            assert alone == pytest.approx(together, abs=1e-6, nan_ok=True), measure.name


def test_methods_are_judged_by_the_game_they_claim():
    problem = tiny("functions.max")
    (measure,) = [m for m in measures("tabular", "values") if m.name == "truth_error"]
    for method, error in (("integrated_gradients", 0), ("shapley_values", 0), ("deep_lift", math.nan)):
        one = entrant(method)
        found = judge(measure, problem, one.explain(problem, 0).maps, one.game)
        assert mean(v.value for v in found) == pytest.approx(error, abs=1e-5, nan_ok=True)
    assert "claims neither" in (found[0].reason or "")


def test_a_task_from_elsewhere_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from interp_plugins.benchmark import Problem, register_task\n"
        "N = {'tiny': 2, 'small': 4, 'full': 8}\n"
        "@register_task('elsewhere.sum', truth_kind='values', kind='tabular', samples=N, says='a sum', trained=False)\n"
        "def sum_of_two(seed, size):\n"
        "    x = torch.rand(N[size], 2)\n"
        "    net = nn.Linear(2, 1, bias=False).requires_grad_(False)\n"
        "    net.weight[:] = 1.0\n"
        "    y = torch.zeros(len(x), dtype=torch.long)\n"
        "    return Problem(net, x, y, 'values', {'shapley': x, 'aumann_shapley': x})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    __import__("elsewhere")
    try:
        assert "elsewhere.sum" in list_tasks() and list_tasks("elsewhere") == ["elsewhere.sum"]
        problem = task_info("elsewhere.sum").build(1, "small")
        (cosine, *_) = league(problem)
        answer = entrant("ig").explain(problem, 0)
        assert mean(v.value for v in judge(cosine, problem, answer.maps, None)) == pytest.approx(1.0)
        assert answer.backward > 0
    finally:
        del sys.modules["elsewhere"]


def test_wrong_names_are_said():
    with pytest.raises(UnknownNameError, match=r"task 'functions\.maxx'.*Did you mean 'functions\.max'"):
        task_info("functions.maxx")
    with pytest.raises(UnknownNameError, match="family of tasks 'nothing'"):
        list_tasks("nothing")
    with pytest.raises(UnknownNameError, match=r"control 'control\.randomm'"):
        entrant("control.randomm")
    with pytest.raises(InputError, match="name=value"):
        entrant("ig:50")
    with pytest.raises(UnknownNameError, match="size of a task 'big'"):
        task_info("functions.max").build(0, "big")
    with pytest.raises(UnknownNameError, match="metric or column"):
        measures("tabular", "values", ("truthh",))
    with pytest.raises(ValueError, match="already belongs to"):
        register_task("functions.max", truth_kind="none", kind="image", samples=dict(tiny=1, small=1, full=1), says="")(
            lambda seed, size: tiny("functions.max")
        )
    with pytest.raises(InputError, match="2 targets, masks or truths"):
        Problem(torch.nn.Identity(), torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))


def test_a_map_of_one_s_own_is_an_entrant():
    problem = tiny("functions.product")
    mine = Entrant("mine", lambda p, seed: p.inputs * 2)
    assert mine.fits("text", "none") and torch.equal(mine.explain(problem, 0).maps, problem.inputs * 2)
    with pytest.raises(InputError, match="no finite map"):
        Entrant("bad", lambda p, seed: p.inputs[:1]).explain(problem, 0)
