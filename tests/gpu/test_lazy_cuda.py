"""A process that has not used CUDA yet: what is explained on the CPU changes nothing that CUDA will draw."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, torch
from torch import nn
from interp_plugins import explain
model = nn.Linear(4, 3)
torch.manual_seed(11)
if "explain" in sys.argv:
    explain(model, torch.randn(2, 4, generator=torch.Generator()), ("saliency", "gradient_shap"), seed=3)
assert not torch.cuda.is_initialized()
print(torch.rand(3, device="cuda").tolist(), torch.rand(3).tolist())
"""


def test_draws_are_those_of_a_run_without_explaining() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, *more], env=env, stdout=subprocess.PIPE, text=True)
        for more in ([], ["explain"])
    ]
    drawn = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert drawn[0] == drawn[1] and len(drawn[0]) > 20
