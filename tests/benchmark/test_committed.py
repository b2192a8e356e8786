"""What docs/benchmark/README.md says is so in the files beside it, and the files are what this code reads."""

import json
import statistics
from pathlib import Path

import pytest

from interp_plugins.benchmark import list_tasks
from interp_plugins.benchmark.leaderboard import SCHEMA

FOLDER = Path(__file__).parents[2] / "docs" / "benchmark"
NAMES = ("small", "photographs", "sentences")
SMALL, PHOTOGRAPHS, SENTENCES = (
    json.loads((FOLDER / name / "leaderboard.json").read_text(encoding="utf-8")) for name in NAMES
)


def truths(found):
    """Task, metric and what is known of it, for all metrics that rank by truth."""
    for task, one in found["tasks"].items():
        for name, about in one["metrics"].items():
            if about["column"] == "truth" and about["league"]:
                yield task, name, about


def rank(found, group, method):
    return found["columns"]["truth"][group]["methods"][method]["rank"]


def test_the_files_are_whole():
    assert SMALL["schema"] == PHOTOGRAPHS["schema"] == SCHEMA and SMALL["missing_units"] == 0
    assert SMALL["plan"]["seeds"] == [0, 1, 2]
    assert {*SMALL["tasks"], *PHOTOGRAPHS["tasks"]} <= set(list_tasks())
    assert len(SMALL["tasks"]) == 38 and len(SMALL["plan"]["methods"]) == 39 and PHOTOGRAPHS["failures"] == []
    assert SENTENCES["missing_units"] == 0 and SENTENCES["failures"] == []
    for name in NAMES:
        page = (FOLDER / name / "index.html").read_text(encoding="utf-8")
        assert "interp-plugins benchmark run" in page and "<script" not in page


@pytest.mark.parametrize("found", [SMALL, PHOTOGRAPHS, SENTENCES], ids=NAMES)
def test_the_truth_is_best_or_tied_everywhere(found):
    for task, name, about in truths(found):
        sign = 1 if about["higher"] else -1
        means = {m: sign * one["mean"] for m, one in about["methods"].items() if one["mean"] is not None}
        assert means["control.truth"] >= max(means.values()) - 1e-4, (task, name)


def noise(found):
    """How many cases there are, and which are off."""
    off, cases = [], 0
    for task, name, about in truths(found):
        noise = about["methods"]["control.random"]
        if about["chance"] is not None and noise["low"] is not None:
            cases += 1
            error = (noise["high"] - noise["low"]) / 3.92
            off += [(task, name)] * (abs(noise["mean"] - about["chance"]) > 3 * error + 1e-9)
    return cases, off


def test_noise_is_at_its_chance():
    assert noise(SMALL) == (84, [])
    assert noise(PHOTOGRAPHS) == (12, []) and noise(SENTENCES) == (4, [])


def test_which_method():
    errors = {m: one["error"] for m, one in SMALL["passes"]["methods"].items()}
    told = {
        "integrated_gradients:n_steps=10": 0.27,
        "integrated_gradients": 0.16,
        "integrated_gradients:n_steps=50": 0.05,
        "integrated_gradients:n_steps=200": 0.006,
        "kernel_shap:n_samples=10": 0.25,
        "kernel_shap:n_samples=50": 0.0,
        "input_x_gradient": 1.5,
        "lime": 0.11,
        "lime:n_samples=1000": 0.11,
    }
    assert {m: errors[m] for m in told} == pytest.approx(told, rel=0.1, abs=1e-3)
    assert max(rank(SMALL, "series", m) for m in ("deep_lift", "guided_ig", "occlusion")) < 5.55
    assert (
        rank(SMALL, "texts", "occlusion") < 5.25 < rank(SMALL, "texts", "lrp") < 6.05 < rank(SMALL, "texts", "saliency")
    )
    cams = [rank(SMALL, "pictures", m) for m in SMALL["plan"]["methods"] if m.endswith(("cam", "plus_plus"))]
    assert statistics.median(cams) > 38 * 2 / 3 and max(cams) < 33
    cells = PHOTOGRAPHS["tasks"]["grid.two"]["metrics"]["relevance_mass"]
    values = {m: round(one["mean"], 2) for m, one in cells["methods"].items()}
    assert values["grad_cam"] == 0.76 and values["occlusion"] == values["guided_grad_cam"] == 0.8
    assert values["integrated_gradients"] == 0.41 and cells["chance"] == 0.25
    boxes = PHOTOGRAPHS["tasks"]["real.photographs"]["metrics"]["relevance_mass"]["methods"]
    told = {"grad_cam": 0.56, "occlusion": 0.59, "guided_grad_cam": 0.63, "integrated_gradients": 0.34}
    assert {m: round(boxes[m]["mean"], 2) for m in told} == told
    words = SENTENCES["tasks"]["text.minilm"]["metrics"]["relevance_mass"]["methods"]
    told = {"integrated_gradients": 0.75, "lrp": 0.71, "deep_lift": 0.71, "input_x_gradient": 0.04}
    assert {m: round(words[m]["mean"], 2) for m in told} == told
    shapes = SMALL["tasks"]["vqa.colour"]["metrics"]["relevance_mass"]["methods"]
    told = {"integrated_gradients": 0.68, "deep_lift": 0.7, "augmented": 0.71, "control.input": 0.15}
    assert {m: round(shapes[m]["mean"], 2) for m in told} == told


def test_who_is_no_better_than_noise():
    failed: dict[str, int] = {}
    for one in SMALL["tasks"].values():
        if one["primary"] is None or one["metrics"][one["primary"]]["column"] != "truth":
            continue
        for method, entry in one["metrics"][one["primary"]]["methods"].items():
            failed[method] = failed.get(method, 0) + (entry.get("beats_noise") is False)
    assert [failed[m] for m in ("saliency", "guided_backprop", "deconvolution")] == [6, 9, 9]
    once = ("kernel_shap", "shapley_value_sampling", "owen", "integrated_gradients", "feature_ablation", "occlusion")
    scene = SMALL["tasks"]["object_scene.scene"]["metrics"]["relevance_mass"]["methods"]
    assert [failed[m] for m in once] == [1] * 6 and not any(scene[m]["beats_noise"] for m in once)
    assert round(scene["occlusion"]["mean"], 2) == 0.75 and round(scene["saliency"]["mean"], 2) == 0.93
    assert sum(one.get("beats_noise") is False and m in SMALL["plan"]["methods"] for m, one in scene.items()) == 32
    alike = SMALL["tasks"]["real.digits"]["metrics"]["parameter_randomisation"]["methods"]
    told = {"integrated_gradients": 0.99, "lrp": 0.99, "grad_cam": 0.0, "kernel_shap": 0.29, "saliency": 0.41}
    assert {m: round(alike[m]["mean"], 2) for m in told} == told
    last = list(SMALL["columns"]["truth"]["all data"]["methods"])
    assert {"saliency", "deconvolution"} == set(last[-2:]) and "guided_backprop" in last[-5:]
    faithful = list(SMALL["columns"]["faithfulness"]["all data"]["methods"])
    assert set(faithful[:2]) == {"guided_ig", "integrated_gradients"} and faithful[-1] == "saliency"


def test_two_games_are_two_answers():
    task = SMALL["tasks"]["functions.max"]["metrics"]
    for game, right, wrong in (
        ("shapley", "kernel_shap", "integrated_gradients"),
        ("aumann_shapley", "integrated_gradients", "kernel_shap"),
    ):
        methods = task[f"truth_error[{game}]"]["methods"]
        assert methods[right]["mean"] < 0.005 < 0.1 < methods[wrong]["mean"]
