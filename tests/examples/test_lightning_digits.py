"""The Lightning example runs as a reader would run it, and what its text says of the curves is so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.notebooks import executed
from tests.thorough import thorough


@thorough
@pytest.mark.slow
def test_the_notebook_trains_and_draws_the_drift(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    executed("lightning_digits", tmp_path)
    for name in ("last_epoch.png", "drift.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    log = tmp_path / "logs" / "digits" / "version_0"
    events = EventAccumulator(str(log), size_guidance={"images": 0})
    events.Reload()
    methods = ("integrated_gradients", "occlusion")
    epochs = [len(events.Images(f"attribution/validate/{method}")) for method in methods]
    assert epochs == [len(events.Scalars("val_acc"))] * 2
    assert sum(epochs) == len(list((log / "attributions").glob("*.png")))
    assert events.Scalars("val_acc")[-1].value > 0.9

    def curve(method: str, measure: str) -> list[float]:
        return [event.value for event in events.Scalars(f"attribution/validate/{method}/{measure}")]

    gradients, covered = curve("integrated_gradients", "cosine_to_previous"), curve("occlusion", "cosine_to_previous")
    ranks = curve("integrated_gradients", "rank_correlation_to_previous")
    assert len(gradients) == epochs[0] - 1
    assert gradients[0] < 0.9 and min(gradients[2:]) > 0.95  # the strong pixels settle early
    assert all(a < b for a, b in zip(gradients, covered))  # patches move less than pixels
    assert all(a < b for a, b in zip(ranks, gradients)) and ranks[0] < ranks[-1]  # the faint ones move longer
    sparse = curve("integrated_gradients", "sparseness")
    assert max(sparse) - min(sparse) < 0.05 and min(sparse) > 0.8
    assert max(curve("integrated_gradients", "completeness_error")) < 0.02
