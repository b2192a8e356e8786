"""The notebooks on judging maps run as a reader would run them, and what they tell is true of what they print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.examples.notebooks import executed, said
from tests.thorough import thorough


def printed_by(name: str, path: Path) -> str:
    return said(executed(name, path))


@thorough
@pytest.mark.slow
def test_maps_are_trusted_for_reasons(tmp_path: Path) -> None:
    printed = printed_by("fastai_trust", tmp_path)
    for name in ("maps.png", "scores.png", "comparison.png", "corner.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    low = float(re.findall(r"above the digit itself: [\d.]+ \[([-\d.]+),", printed)[0])
    assert low > 0, "the difference is beyond its interval"
    assert "untrained network: None" in printed and "None of 3 methods" in printed
    assert re.search(r"best method for the trained network: (integrated_gradients|input_x_gradient)", printed)
    shares = {m: int(s) for m, s in re.findall(r"(\w[\w.]+) +in the corner +(\d+)%", printed)}
    assert shares["integrated_gradients"] > 40 > 10 > shares["control.random"]


@pytest.mark.slow
def test_scores_grow_with_the_training(tmp_path: Path) -> None:
    printed = printed_by("lightning_scores", tmp_path)
    for name in ("scores.png", "evaluated.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    curves = {
        m: [float(v) for v in re.findall(r"'([-\d.]+)'", row)]
        for m, row in re.findall(r"(\w+) +srg by epoch: (.*)", printed)
    }
    assert len(curves) == 3 and all(curve[-1] > curve[0] for curve in curves.values())
    assert all(a < b for a, b in zip(curves["saliency"], curves["input_x_gradient"])), "the same order in every epoch"
    means = {m: float(v) for m, v in re.findall(r"([\w.]+) +srg ([-\d.]+) \[", printed)}
    assert means["integrated_gradients"] > 2 * means["control.input"] > means["saliency"]
    assert "sparseness of 64 maps: 0.9" in printed
