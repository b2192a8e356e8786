"""A data-set run survives being killed: the crash script's twenty kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("crash_script.py")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the workers are forked")
def test_killed_at_twenty_random_moments_and_resumed_equals_an_unbroken_run_bit_for_bit(tmp_path: Path) -> None:
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    env = {**os.environ, **one_thread}
    command = [sys.executable, str(SCRIPT), str(tmp_path), "20"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == 20
    units_done = {count for _, _, count in found["moments"]}
    assert len(units_done) > 3  # early and late moments
