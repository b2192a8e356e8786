"""Two processes over gloo: nothing hangs, nothing changes, one process writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("ddp_script.py")
ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available() or sys.platform != "linux", reason="needs gloo and fork")
def test_L7_L8_two_processes(tmp_path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    without, csv, none, several = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert without["files"] == [] and without["history"] == 0
    for found in (csv, none, several):
        assert found["weights"] == found["other"]["weights"] == without["weights"]
        assert (found["history"], found["other"]["history"]) == (12, 0)  # 3 methods, 2 stages, 2 epochs
    for found in (csv, none):
        runs = [name.split("-epoch")[0].removeprefix("attribution-") for name in found["files"]]
        every = ("train-run0002", "train-run0004", "validate-run0001", "validate-run0003")
        assert runs == [run for run in every for _ in range(3)]  # a picture per method
    assert csv["drift"] == several["drift"] == ["3"]
    assert several["files"] == []  # the other loggers took the pictures
    assert several["pictures"] == [2] * 6 + [4] * 6 and several["numbers"] == [1, 1, 3, 3]
