"""Runs: any number of processes, interrupted and resumed, damaged and mended; leaderboards and what changed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from interp_plugins import benchmark
from interp_plugins.benchmark import Benchmark, runs, units
from interp_plugins.benchmark.leaderboard import SCHEMA, as_csv, leaderboard
from interp_plugins.core.errors import InputError, InterpWarning, UnknownNameError
from interp_plugins.store.errors import RunDiffersError, StoreError

pytest.importorskip("pyarrow")
PLAN = Benchmark(("functions.max", "functions.product"), methods=("ig", "saliency", "gradient_shap"), size="tiny")


def content(path):
    """All rows but for seconds."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in benchmark.read(path).rows]


def timeless(found):
    text = json.loads(json.dumps(found))
    for task in text["tasks"].values():
        for cost in task["costs"].values():
            cost.pop("seconds")
    return json.dumps(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return benchmark.run(PLAN, tmp_path_factory.mktemp("whole") / "run", progress=False)


def test_an_interrupted_run_goes_on_to_the_same_rows(whole, tmp_path, monkeypatch):
    calls, plain = [], runs.run_unit

    def stopping(unit):
        calls.append(unit)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return plain(unit)

    monkeypatch.setattr(runs, "run_unit", stopping)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(PLAN, tmp_path / "run", progress=False)
    assert len(benchmark.read(tmp_path / "run").missing) == len(PLAN.units()) - 4
    benchmark.run(PLAN, tmp_path / "run", progress=False)
    assert len(calls) == len(PLAN.units()) + 1 and content(tmp_path / "run") == content(whole)
    assert timeless(leaderboard(benchmark.read(tmp_path / "run"))) == timeless(leaderboard(benchmark.read(whole)))


def test_a_size_says_how_many_nets_there_are():
    for size, many in (("tiny", 1), ("small", 3), ("full", 5)):
        plan = Benchmark(("tables.wine", "functions.max"), ("ig",), size=size)
        assert plan.identity["seeds"] == list(range(many))
        seeds = {task: {u.seed for u in plan.units() if u.task == task} for task in plan.names}
        assert len(seeds["tables.wine"]) == many and seeds["functions.max"] == {0}, "a function is no net"
        assert {u.seed for u in plan.units() if u.again} == {0}


def test_methods_are_asked_again_about_some_samples_and_not_where_it_is_dear(monkeypatch):
    (unit,) = Benchmark(("functions.product",), ("ig",), ("robustness", "truth"), size="tiny").units()[:1]

    def told(unit):
        found = [row for row in units.run_unit(unit) if row["metric"] == "sensitivity_avg"]
        return [row["sample"] for row in found], [row["reason"] for row in found if row["value"] is None]

    assert told(unit) == ([0, 1], [])
    assert told(dataclasses.replace(unit, start=2)) == ([], []), "samples behind the first two"
    assert told(dataclasses.replace(unit, again=False)) == ([], [])
    monkeypatch.setitem(units.DEAR, "tiny", 5)
    samples, reasons = told(unit)
    assert (
        samples == [0, 1] and all("above 5 a method is not asked again" in one for one in reasons) and len(reasons) == 2
    )


def test_methods_are_not_asked_again_about_large_nets(monkeypatch):
    (unit,) = Benchmark(("tetris.fixed_white",), ("ig",), ("robustness",), size="tiny").units()[:1]
    asked = {row["reason"] for row in units.run_unit(unit) if row["metric"] == "sensitivity_avg"}
    monkeypatch.setitem(units.LARGE, "tiny", 2000)
    told = {row["reason"] for row in units.run_unit(unit) if row["metric"] == "sensitivity_avg"}
    assert asked == {None}
    assert told == {"2,994 weights: above 2,000 no method is asked again in the size 'tiny'"}


def test_noise_is_judged_by_many_maps_which_no_two_tasks_share(monkeypatch):
    asked, plain = [], units.Entrant.explain

    def noticed(entrant, problem, seed, budget="normal"):
        asked.append(seed)
        return plain(entrant, problem, seed, budget)

    monkeypatch.setattr(units.Entrant, "explain", noticed)
    values = {}
    for task in ("functions.max", "functions.product"):
        rows = units.run_unit(units.UnitSpec(task, 0, "tiny", units.NOISE, 0, 4, ("truth_cosine",)))
        values[task] = [row["value"] for row in rows if row["metric"] == "truth_cosine"]
    assert len(asked) == len(set(asked)) == 2 * units.NOISES
    problem = units._built("functions.max", 0, "tiny").rows(slice(0, 4))
    (measure,) = units.measures(problem.kind, problem.truth_kind, ("truth_cosine",))
    alone = [
        [v.value for v in units.judge(measure, problem, plain(units.entrant(units.NOISE), problem, s).maps, None)]
        for s in asked[: units.NOISES]
    ]
    for n, value in enumerate(values["functions.max"]):
        several = [row[n] for row in alone]
        if value is not None:
            assert value == pytest.approx(sum(several) / units.NOISES) and min(several) < value < max(several)


def test_processes_share_the_units_of_a_run(whole, tmp_path):
    state = torch.random.get_rng_state()
    for rank in (2, 0, 1):
        benchmark.run(PLAN, tmp_path / "run", rank=rank, world_size=3, progress=False)
    assert benchmark.read(tmp_path / "run").missing == [] and content(tmp_path / "run") == content(whole)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.slow
def test_a_killed_process_costs_a_unit(whole, tmp_path):
    script = (
        "import torch\n"
        "from interp_plugins import benchmark\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        f"plan = benchmark.Benchmark({PLAN.tasks!r}, {PLAN.methods!r}, size='tiny')\n"
        f"benchmark.run(plan, {str(tmp_path / 'run')!r}, progress=False)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], env={**os.environ})
    parts = tmp_path / "run" / "parts"
    until = time.monotonic() + 300
    while time.monotonic() < until and child.poll() is None and len(list(parts.glob("part-*"))) < 3:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert benchmark.read(tmp_path / "run").missing or child.returncode == 0
    benchmark.run(PLAN, tmp_path / "run", progress=False)
    assert content(tmp_path / "run") == content(whole)
    assert [p for p in parts.iterdir() if p.name.startswith(".")] == []


def test_damage_is_told_and_mended(whole, tmp_path):
    benchmark.run(PLAN, tmp_path / "run", progress=False)
    part = sorted((tmp_path / "run" / "parts").iterdir())[3]
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 1
    part.write_bytes(bytes(data))
    with pytest.warns(InterpWarning, match="damaged"):
        assert benchmark.read(tmp_path / "run").missing == [3]
    with pytest.warns(InterpWarning, match="done again"):
        benchmark.run(PLAN, tmp_path / "run", progress=False)
    assert content(tmp_path / "run") == content(whole)


def test_another_benchmark_is_refused(whole, tmp_path):
    with pytest.raises(RunDiffersError, match="seeds"):
        benchmark.run(Benchmark(PLAN.tasks, PLAN.methods, size="tiny", seeds=(1,)), whole)
    with pytest.raises(StoreError, match="no run of a benchmark"):
        benchmark.read(tmp_path)
    with pytest.raises(UnknownNameError, match="size of a task"):
        Benchmark(size="big")
    with pytest.raises(InputError, match="seeds is empty"):
        Benchmark(seeds=())
    with pytest.raises(UnknownNameError, match="method"):
        Benchmark(methods=("integrated_gradient",))


def test_a_leaderboard_says_who_is_right(whole):
    found = leaderboard(benchmark.read(whole))
    assert found["schema"] == SCHEMA and found["failures"] == [] and found["missing_units"] == 0
    product = found["tasks"]["functions.product"]["metrics"]["truth_cosine"]["methods"]
    assert next(iter(product)) in ("integrated_gradients", "control.truth")
    assert product["integrated_gradients"]["beats_noise"] and not product["control.constant"]["undefined"]
    assert product["saliency"]["to_best"]["mean"] < 0 < product["integrated_gradients"]["mean"]
    # Pairs of draws are exact for a product, so that six gradients are as right as fifty steps.
    assert found["passes"]["front"] == ["saliency", "gradient_shap"]
    ranks = found["columns"]["truth"]["all data"]
    assert ranks["tasks"] == ["functions.product"], "the games of max differ, so it does not rank"
    assert list(ranks["methods"])[:2] == ["gradient_shap", "integrated_gradients"]
    lines = as_csv(found).splitlines()
    assert lines[0].startswith("task,metric,column,method,mean") and len(lines) > 60


def test_what_cannot_be_built_or_explained_is_named(tmp_path, monkeypatch):
    from interp_plugins.benchmark import registry, units

    def refused(seed, size):
        raise benchmark.TaskError("The net is right in 10% of 5 samples; the task asks for 90%.")

    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    many = {"tiny": 2, "small": 2, "full": 2}
    benchmark.register_task("broken.task", truth_kind="none", kind="tabular", samples=many, says="never works")(refused)
    units._built.cache_clear()
    plan = Benchmark(("broken", "functions.max"), methods=("xrai", "ig"), size="tiny")
    first = next(u.method for u in plan.units() if u.task == "broken.task")
    assert first == "integrated_gradients", "xrai is for pictures"
    found = leaderboard(benchmark.read(benchmark.run(plan, tmp_path / "run", progress=False)))
    (failure,) = found["failures"]
    assert failure["task"] == "broken.task" and "10%" in failure["reason"] and failure["method"] == ""
    assert list(found["tasks"]) == ["functions.max"]


def test_a_spoiled_method_is_found(whole, tmp_path, monkeypatch):
    entrants = sys.modules["interp_plugins.benchmark.entrants"]  # the package has a function of this name
    plain = entrants.over_input
    same = benchmark.run(PLAN, tmp_path / "same", progress=False)
    assert benchmark.compare(benchmark.read(whole), benchmark.read(same)) == []
    monkeypatch.setattr(
        entrants,
        "over_input",
        lambda exp: tuple(m.flip(1) if exp.method == "integrated_gradients" else m for m in plain(exp)),
    )
    spoiled = benchmark.run(PLAN, tmp_path / "spoiled", progress=False)
    found = benchmark.compare(benchmark.read(whole), benchmark.read(spoiled))
    assert found and all(c.method == "integrated_gradients" for c in found)
    assert found[0].worse and ("functions.product", "truth_error") in {(c.task, c.metric) for c in found if c.worse}
    assert str(found[0]).startswith("worse: functions.")
    back = benchmark.compare(benchmark.read(spoiled), benchmark.read(whole))
    assert not back[0].worse and len(back) == len(found)
