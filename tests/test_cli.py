"""The command line and the demo, as a user runs them."""

from __future__ import annotations

from pathlib import Path

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
