"""The examples run as a reader would run them: the notebook on the trained network, the script on a copy of PETS."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.examples.notebooks import EXAMPLES, executed, said
from tests.thorough import thorough

PICTURES = ("integrated_gradients.png", "noise_tunnel.png", "occlusion.png", "explanations.html")


@pytest.mark.slow
def test_the_notebook_explains_a_photograph_where_pets_cannot_be_had(tmp_path: Path) -> None:
    notebook = executed("fastai_pets", tmp_path, "vision")
    for name in PICTURES:
        assert (tmp_path / name).stat().st_size > 10_000
    assert "tiger cat" in said(notebook)


@thorough
@pytest.mark.slow
def test_the_script_trains_on_pets_where_it_can_be_had(tmp_path: Path) -> None:
    images = tmp_path / "pets" / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(20):
        name = f"Birman_{i}.jpg" if i % 2 else f"pug_{i}.jpg"
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(images / name)
    shutil.copy(EXAMPLES / "fastai_pets.py", tmp_path)
    # The data set is a small copy, and the body starts untrained: both downloads are left out, nothing else.
    start = (
        "import functools, runpy\n"
        "import fastai.vision.all as v\n"
        f"v.untar_data = lambda url: v.Path({str(tmp_path / 'pets')!r})\n"
        "v.vision_learner = functools.partial(v.vision_learner, pretrained=False)\n"
        "v.resnet34 = v.resnet18\n"
        "runpy.run_path('fastai_pets.py', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in PICTURES:
        assert (tmp_path / name).stat().st_size > 10_000
