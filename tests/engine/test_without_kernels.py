"""What stands on private operators of torch must not be needed: numeric tests again, in a process that refuses it.

`make test-all` runs every test so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("engine/test_plan.py", "engine/test_winograd.py", "attr/test_paths.py")
METHODS = (
    "integrated_gradients", "gradient_shap", "blur_ig", "layer_conductance", "layer_integrated_gradients",
    "feature_ablation", "shapley_value_sampling", "kernel_shap", "lime", "occlusion",
)  # fmt: skip
PRECISION = "conformance/test_results.py::test_half_and_single_precision_agree_with_double"


@pytest.mark.skipif(os.environ.get("INTERP_PLUGINS_KERNELS") == "off", reason="everything runs without them here")
def test_numbers_are_right_without_kernels() -> None:
    asked = [*FILES, *(f"{PRECISION}[{name}]" for name in METHODS)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-x", *(f"tests/{name}" for name in asked)],
        cwd=ROOT,
        env=os.environ | {"INTERP_PLUGINS_KERNELS": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert "Winograd's kernels: refused by the tests" in done.stdout
