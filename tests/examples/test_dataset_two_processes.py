"""The data-set example runs as a reader would run it: two processes, killed, and one that finishes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from interp_plugins.store import ExplanationStore

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_are_killed_and_one_finishes(tmp_path: Path) -> None:
    small = {"CROPS": "2", "N_STEPS": "3", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    script = ROOT / "examples" / "dataset_two_processes.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, **small},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "of 4 units missing" in done.stdout  # it was killed in the middle
    store = ExplanationStore(tmp_path / "dataset_run")
    assert store.complete and store.samples == list(range(8)) and store.failed == {}
    assert not np.isnan(store.array("ig")[:]).any()
    accuracy = store.summary()["accuracy"][0]
    assert accuracy >= 0.5  # the trained network knows its photographs
    assert (tmp_path / "dataset.png").stat().st_size > 20_000
