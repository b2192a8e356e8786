"""LightningCLI: every parameter from YAML, as class_path and init_args."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("jsonargparse")

from pytorch_lightning.cli import LightningCLI

from interp_plugins.api.explain import DEFAULT_METHODS
from interp_plugins.lightning import AttributionCallback

ALL = {
    "methods": {"ig": {"n_steps": 3}, "occlusion": {"sliding_window_shapes": [1, 2, 2], "strides": [1, 2, 2]}},
    "n_samples": 2,
    "every_n_epochs": 1,
    "target": [0, 2],
    "layer": None,
    "module": None,
    "input_key": None,
    "input_fn": "cli_parts.picture_of",
    "label_key": None,
    "label_fn": "cli_parts.label_of",
    "id_key": "label",
    "output_key": None,
    "output_fn": "cli_parts.logits_of",
    "dataloader_idx": 0,
    "stages": ["validate", "train"],
    "fixed_samples": True,
    "loggers": "both",
    "dirpath": None,
    "report": "html",
    "class_names": ["a", "b", "c"],
    "mean": [0.5],
    "std": [0.25],
    "autocast": False,
    "batch_size": 8,
    "seed": 3,
    "tag": "why",
    "on_error": "raise",
    "method_kwargs": {"baselines": "mean", "perturbations_per_eval": 2},
    "against": None,
    "metrics": ["gini_index"],
    "metric_budget": 100,
}
PLAIN = {"n_samples": 1, "loggers": "none", "on_error": "raise", "output_key": "logits"}
VARIANTS: dict[str, dict[str, Any]] = {
    "name": {"methods": "saliency"},
    "list of names": {"methods": ["saliency", "ig"], "method_kwargs": {"n_steps": 3}},
    "target index": {"methods": "saliency", "target": 1},
    "target name": {"methods": "saliency", "target": "b", "class_names": ["a", "b", "c"]},
    "ground truth": {"methods": "saliency", "target": "label"},
    "target function": {"methods": "saliency", "target": "cli_parts.margin"},
    "layer": {"methods": ["gradcam", "layer_activation"], "layer": "body.0"},
    "module and layer": {"methods": "gradcam", "module": "body", "layer": "0", "output_key": None},
    "input key": {"methods": "saliency", "input_key": "x"},
    "options of a method": {"methods": {"noise_tunnel": {"nt_samples": 2, "attribution_method": "saliency"}}},
}
VARIANTS["module and layer"]["target"] = "cli_parts.total"  # the body's output is a map, without classes


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Train through the command line; the callback that ran."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.delitem(sys.modules, "cli_parts", raising=False)

    def start(*init_args: dict[str, Any], cli: Any = LightningCLI) -> Any:
        config = {
            "trainer": {
                "accelerator": "cpu",
                "devices": 1,
                "max_epochs": 1,
                "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path)}},
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "enable_checkpointing": False,
                "callbacks": [
                    {"class_path": "interp_plugins.lightning.AttributionCallback", "init_args": one}
                    for one in init_args
                ],
            },
            "model": {"class_path": "cli_parts.Module", "init_args": {"width": 4}},
            "data": {"class_path": "cli_parts.Data"},
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        found = cli(args=["fit", "--config", str(path)])
        return [c for c in found.trainer.callbacks if isinstance(c, AttributionCallback)]

    return start


def test_L18_every_parameter_can_be_said_in_yaml(run, tmp_path) -> None:
    parameters = list(inspect.signature(AttributionCallback).parameters)
    assert list(ALL) == parameters
    (callback,) = run(ALL)
    assert callback.n_runs == 2 and callback.tag == "why"
    methods = ["integrated_gradients"] * 2 + ["occlusion"] * 2
    assert callback.last.methods == methods
    ig, _, occlusion, _ = callback.last
    assert ig.params["n_steps"] == 3 and occlusion.params["strides"] == (1, 2, 2)
    assert occlusion.params["perturbations_per_eval"] == 2 and ig.seed == 3 and ig.spec.mean == (0.5,)
    assert [e.target_label[0] for e in callback.last] == ["a", "c", "a", "c"]
    assert len(list(tmp_path.rglob("why-*.png"))) == 4  # two stages, two methods
    assert {p.name for p in tmp_path.rglob("*.html")} == {"why-validate.html", "why-train.html"}
    saved = yaml.safe_load(next(tmp_path.rglob("version_0/config.yaml")).read_text())
    arguments = saved["trainer"]["callbacks"][0]["init_args"]
    assert arguments["input_fn"] == "cli_parts.picture_of" and arguments["target"] == [0, 2]
    assert arguments["methods"] == ALL["methods"]


@pytest.mark.parametrize("case", VARIANTS)
def test_L18_each_form_of_a_parameter(case, run) -> None:
    (callback,) = run({**PLAIN, **VARIANTS[case]})
    assert callback.n_runs == 1 and len(callback.last) == (2 if isinstance(VARIANTS[case]["methods"], list) else 1)
    first = callback.last[0]
    if case == "target name":
        assert first.target == (1,) and first.target_label == ("b",)
    if "layer" in VARIANTS[case]:
        assert first.layer in ("body.0", "0")


def test_L18_defaults_and_two_callbacks(run) -> None:
    first, second = run({**PLAIN, "method_kwargs": {"n_steps": 2}}, {**PLAIN, "methods": "saliency", "tag": "second"})
    assert first.last.methods == list(DEFAULT_METHODS) and second.last.methods == ["saliency"]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"n_sample": 3}, "n_sample"),
        ({"loggers": "file"}, "'auto', *'files', *'both', *'none'"),
        ({"methods": "integrated_gradient"}, "Did you mean 'integrated_gradients'"),
    ],
    ids=str,
)
def test_L18_what_is_wrong_is_said_before_training(wrong, text, run, capsys) -> None:
    with pytest.raises((SystemExit, ValueError)) as caught:  # parsing ends the program, building raises
        run({**PLAIN, **wrong})
    assert re.search(text, capsys.readouterr().err + str(caught.value))
