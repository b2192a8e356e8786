"""The command line and the demo, as a user runs them."""

from __future__ import annotations

import json
import re
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from interp_plugins.cli import app

runner = CliRunner()


def test_methods_lists_names_aliases_and_sources() -> None:
    result = runner.invoke(app, ["methods", "--needs", "perturbation", "--site", "input"])
    assert result.exit_code == 0
    assert "occlusion" in result.output and "occl" in result.output
    assert "integrated_gradients" not in result.output


def test_an_unknown_filter_is_said_with_a_suggestion() -> None:
    result = runner.invoke(app, ["methods", "--needs", "gradients"])
    assert result.exit_code == 2
    assert "Did you mean 'gradient'?" in result.output


def test_explain_says_what_is_missing(tmp_path: Path) -> None:
    result = runner.invoke(app, ["explain", str(tmp_path / "none.pkl"), "cat.png"])
    assert result.exit_code == 2
    assert "learn.export()" in result.output


def test_a_file_that_holds_no_learner_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import nn

    monkeypatch.setattr("sys.path", [*sys.path])
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "weights.pkl")
    (tmp_path / "half.pkl").write_bytes((tmp_path / "weights.pkl").read_bytes()[:500])
    (tmp_path / "words.pkl").write_text("hello")
    (tmp_path / "foreign.pkl").write_bytes(b"\x80\x02cno_such_package\nNet\n.")
    for name in ("weights", "half", "words", "foreign"):
        result = runner.invoke(app, ["robust", str(tmp_path / f"{name}.pkl"), str(tmp_path)])
        said = "needs a module" if name == "foreign" else "cannot be loaded as a Learner"
        assert result.exit_code == 2 and said in " ".join(result.output.split()), (name, result.output)
    result = runner.invoke(app, ["robust", str(tmp_path / "weights.pkl"), str(tmp_path), "--method", "gradcm"])
    assert result.exit_code == 2 and "Did you mean 'gradcam'" in result.output, result.output


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seven pictures, one of which cannot be read, and a file of four."""
    import torch
    from torch import nn

    from interp_plugins import explain
    from interp_plugins.core.spec import InputSpec
    from interp_plugins.store import explain_dataset

    class Pictures(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return 7

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            if i == 3:
                raise OSError("cannot be read")
            return torch.full((3, 8, 8), i / 7), i % 2

    root = tmp_path_factory.mktemp("kept")
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 2))
    spec = InputSpec(kind="image", vocab=("dark", "<b>light</b>"))
    explain_dataset(net, Pictures(), root / "run", methods=("saliency", "ig"), n_steps=3, input_spec=spec)
    x = torch.rand(4, 3, 8, 8)
    explain(net, x, methods=("saliency", "ig"), n_steps=3, input_spec=spec).save(root / "four.safetensors")
    return root


def blocks(html: str, kind: str) -> list[Any]:
    found = re.findall(rf'id="insights-{kind}[-0-9]*">(.*?)</script>', html)
    return [json.loads(text) for text in found]


def test_report_writes_a_run_as_one_page(kept: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    result = runner.invoke(app, ["report", str(kept / "run"), "--out", str(out), "--title", "<i>Run"])
    assert result.exit_code == 0, result.output
    assert "6 samples" in result.output
    html = out.read_text(encoding="utf-8")
    (about,) = blocks(html, "data")
    assert about["title"] == "<i>Run" and len(about["samples"]) == 6 and not about["live"]
    assert {s["labelText"] for s in about["samples"]} == {"dark", "<b>light</b>"}
    assert all(s["models"][0]["correct"] is not None for s in about["samples"])
    titles = [[record["title"] for record in records] for records in blocks(html, "maps")]
    assert titles == [["Saliency", "Integrated Gradients"]] * 6


def test_report_takes_a_file_and_some_of_its_samples(kept: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = runner.invoke(app, ["report", str(kept / "four.safetensors"), "--out", str(out), "--samples", "3"])
    assert result.exit_code == 0 and "The first 3 of 4 samples" in result.output
    assert [len(records) for records in blocks(out.read_text(encoding="utf-8"), "maps")] == [2, 2, 2]


def test_report_takes_the_wrong_ones_the_worst_first(kept: Path, tmp_path: Path) -> None:
    def samples(*options: str) -> list[dict[str, Any]]:
        done = runner.invoke(app, ["report", str(kept / "run"), "--out", str(tmp_path / "page.html"), *options])
        assert done.exit_code == 0, done.output
        (about,) = blocks((tmp_path / "page.html").read_text(encoding="utf-8"), "data")
        found: list[dict[str, Any]] = about["samples"]
        return found

    everything = samples()
    wrong = [s for s in everything if not s["models"][0]["correct"]]
    assert 0 < len(wrong) < 6 and samples("--wrong") == wrong
    unsure = sorted(wrong, key=lambda s: s["models"][0]["probability"])
    assert samples("--wrong", "--order", "unsure") == unsure
    assert samples("--wrong", "--order", "unsure", "--samples", "1") == unsure[:1]
    assert samples("--order", "name") == sorted(everything, key=lambda s: s["name"])


def test_the_wrong_ones_of_a_file_are_those_whose_label_it_knows(kept: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from interp_plugins.core.explanation import Explanations

    exps = Explanations.load(kept / "four.safetensors")
    said = [str(p) for p in exps[0].prediction_label or ()]
    known = {"label": ["no such", *said[1:3], "no such"], "loss": [0.5, 0.1, 0.2, 3.0]}
    told = Explanations([replace(exp, meta={**exp.meta, "per_sample": known}) for exp in exps])
    told.save(tmp_path / "told.safetensors")
    options = ["--wrong", "--order", "loss", "--out", str(tmp_path / "page.html")]
    done = runner.invoke(app, ["report", str(tmp_path / "told.safetensors"), *options])
    assert done.exit_code == 0, done.output
    (about,) = blocks((tmp_path / "page.html").read_text(encoding="utf-8"), "data")
    assert [s["models"][0]["loss"] for s in about["samples"]] == [3.0, 0.5]
    done = runner.invoke(app, ["report", str(kept / "four.safetensors"), *options])
    assert done.exit_code == 2 and "the truth of no sample is known" in " ".join(done.output.split())
    done = runner.invoke(app, ["report", str(kept / "run"), "--order", "los"])
    assert done.exit_code == 2 and "Did you mean 'loss'?" in done.output


def test_insights_serves_saved_explanations_on_this_machine(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from interp_plugins.insights.server import Server

    pages = []

    def look(server: Server) -> None:  # in the place of waiting for Ctrl-C
        with urllib.request.urlopen(server.url) as answer:
            pages.append(answer.read().decode())
        server.stop()

    monkeypatch.setattr(Server, "wait", look)
    result = runner.invoke(app, ["insights", str(kept / "run"), "--no-browser"])
    assert result.exit_code == 0, result.output
    assert "http://127.0.0.1:" in result.output and "token=" in result.output and 'id="insights"' in pages[0]


@pytest.mark.parametrize("command", ["report", "insights"])
@pytest.mark.parametrize(
    ("what", "text"),
    [("nothing", "There is nothing at"), ("folder", "No run of explanations at"), ("text.safetensors", "not a file")],
)
def test_what_holds_no_explanations_is_said(command: str, what: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.safetensors").write_text("no explanation")
    result = runner.invoke(app, [command, str(tmp_path / what)])
    assert result.exit_code == 2 and text in " ".join(result.output.split()), result.output


@pytest.mark.slow
def test_suspects_influence_and_concepts_of_an_exported_learner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, Learner, get_image_files, parent_label
    from PIL import Image
    from torch import nn

    for i in range(12):
        file = tmp_path / "pictures" / ("dark", "light")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 40 + 150 * (i % 2) + i, dtype=np.uint8)).save(file)
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label)
    dls = block.dataloaders(tmp_path / "pictures", bs=4, num_workers=0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    Learner(dls, net, loss_func=nn.CrossEntropyLoss(), path=tmp_path).export("small.pkl")
    out = tmp_path / "out" / "page.html"
    common = ["--out", str(out), "--k", "3", "--n", "4"]

    result = runner.invoke(app, ["suspects", str(tmp_path / "small.pkl"), str(tmp_path / "pictures"), *common])
    assert result.exit_code == 0 and "12 items" in result.output, result.output
    assert out.read_text(encoding="utf-8").count("<article") == 4
    assert out.with_suffix(".csv").read_text(encoding="utf-8").count("\n") == 13
    asked = ["neurons", str(tmp_path / "small.pkl"), "2", "--data", str(tmp_path / "pictures"), "--channel", "0-1,3"]
    result = runner.invoke(app, [*asked, "--out", str(out), "--steps", "3"])
    assert result.exit_code == 0 and "2:0, 2:1, 2:3" in result.output, result.output
    assert out.read_text(encoding="utf-8").count("<article") == 3 and out.with_suffix(".safetensors").is_file()
    result = runner.invoke(app, [*asked, "--out", str(out), "--examples"])
    assert result.exit_code == 0 and result.output.startswith("Examples(2:0"), result.output
    for channels in ("some", "5-1"):
        result = runner.invoke(app, [*asked[:-1], channels, "--out", str(out)])
        assert result.exit_code == 2 and f"numbers and ranges (0-15,20) or all, got '{channels}'" in result.output
    result = runner.invoke(app, ["suspects", str(tmp_path / "none.pkl"), str(tmp_path)])
    assert result.exit_code == 2 and "learn.export()" in result.output

    asked, page = str(tmp_path / "pictures" / "light" / "3.png"), tmp_path / "influence.html"
    given = ["--train", str(tmp_path / "pictures"), "--k", "2", "--maps", "saliency", "--out", str(page)]
    given += ["--index", str(tmp_path / "small.index")]
    result = runner.invoke(app, ["influence", str(tmp_path / "small.pkl"), asked, *given])
    assert result.exit_code == 0 and "1 query of 12 training items" in result.output, result.output
    assert "Glow" in page.read_text(encoding="utf-8") and page.with_suffix(".csv").is_file()
    result = runner.invoke(app, ["influence", str(tmp_path / "small.pkl"), asked, "--train", str(tmp_path / "empty")])
    assert result.exit_code == 2 and "No picture in" in result.output

    given = ["--n", "2", "--all", "--layer", "3", "--out", str(tmp_path / "concepts.html")]
    result = runner.invoke(app, ["concepts", str(tmp_path / "small.pkl"), str(tmp_path / "pictures"), *given])
    assert result.exit_code == 0 and "2 concepts" in result.output, result.output
    assert "How certain they are" in (tmp_path / "concepts.html").read_text(encoding="utf-8")

    given = ["--method", "saliency", "--n-random", "2", "--steps", "2", "--out", str(tmp_path / "robust.html")]
    result = runner.invoke(app, ["robust", str(tmp_path / "small.pkl"), asked, *given])
    assert result.exit_code == 0 and "ExplanationRobustness(1 samples" in result.output, result.output
    assert "Which maps hold" in (tmp_path / "robust.html").read_text(encoding="utf-8")
    assert (tmp_path / "robust-predictions.html").is_file()

    def stopped(*args: Any, **options: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
        signal.raise_signal(signal.SIGINT)

    given[-1] = str(tmp_path / "again.html")
    for verb, said in {"explanation_robustness": "Written so far: ", "attack": "Nothing of it was finished."}.items():
        monkeypatch.setattr(Learner, verb, stopped)
        result = runner.invoke(app, ["robust", str(tmp_path / "small.pkl"), asked, *given])
        assert result.exit_code == 130 and f"Stopped by Ctrl-C. {said}" in result.output, result.output
        assert not (tmp_path / "again.html").exists() and (tmp_path / "again-predictions.html").is_file()


@pytest.mark.slow
def test_explain_takes_an_exported_learner(tmp_path: Path) -> None:
    from fastai.vision.all import ImageDataLoaders, Learner, Resize
    from torch import nn

    from interp_plugins.demo import save_photographs

    files = save_photographs(tmp_path / "photographs", ("chelsea", "coffee"))
    dls = ImageDataLoaders.from_lists(
        tmp_path, files * 4, ["cat", "cup"] * 4, valid_pct=0.5, seed=0, item_tfms=Resize(32), bs=2, num_workers=0
    )
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    Learner(dls, net, loss_func=nn.CrossEntropyLoss(), path=tmp_path).export("small.pkl")
    out = tmp_path / "out"
    common = [str(tmp_path / "small.pkl"), str(files[0]), "--method", "ig", "--out", str(out)]

    result = runner.invoke(app, ["explain", *common, "--target", "cat"])
    assert result.exit_code == 0, result.output
    assert (out / "chelsea.png").stat().st_size > 10_000
    assert "Integrated Gradients" in (out / "explanations.html").read_text(encoding="utf-8")

    result = runner.invoke(app, ["explain", *common, "--target", "cut"])
    assert result.exit_code == 2
    assert "Unknown label 'cut'" in result.output and "Did you mean" in result.output


@pytest.mark.slow
def test_the_demo_explains_a_photograph_through_both_frameworks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp_plugins.demo import run

    monkeypatch.setattr(run, "PICTURES", ("chelsea",))
    monkeypatch.setattr(run, "METHODS", {"ig": {"n_steps": 40}, "occlusion": {"strides": (3, 15, 15)}})
    found = dict(run.run(tmp_path, say=lambda text: None))
    for framework in ("fastai", "Lightning"):
        maps = found[framework]
        assert maps.methods == ["integrated_gradients", "occlusion"]
        assert maps["ig"].target_label == ("tiger cat",)
        assert 0.3 < float(maps["ig"].probability[0]) < 0.5
        assert float(maps["ig"].relative_delta[0]) < 0.3
        assert len(list(run.table_rows(framework, maps))) == 2
    assert (tmp_path / "fastai" / "chelsea.png").exists()
    assert list((tmp_path / "lightning").rglob("*.png"))
    assert list((tmp_path / "lightning").rglob("events.out.tfevents*"))
    assert "tiger cat" in (tmp_path / "explanations.html").read_text(encoding="utf-8")
