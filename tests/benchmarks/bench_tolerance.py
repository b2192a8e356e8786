"""How honest is `tol`? The estimated and the true error of integrated gradients and occlusion on the trained network.

Run: make bench PYTEST_ARGS="-k tolerance"   (about ten minutes each on two cores)
The reference of integrated gradients is a midpoint rule with 1,000 steps, itself within about half a per cent; that of
occlusion is all windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from interp_plugins.attr import IntegratedGradients, Occlusion
from interp_plugins.core.report import collect
from interp_plugins.core.spec import InputSpec
from interp_plugins.demo import PHOTOGRAPHS, lite0, save_photographs

SPEC = InputSpec(kind="image", mean=(0.5,) * 3, std=(0.5,) * 3)
REFERENCE_STEPS = 1000


def photograph(path: Path) -> torch.Tensor:
    """The network's input (1, 3, 224, 224): shorter side to 256, centre crop, mean = std = 0.5."""
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float32) / 255
    return SPEC.normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None])


def test_tolerance_estimated_against_true_error(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    net = lite0()
    method = IntegratedGradients(net)
    print(f"\n{'picture':12s} {'rule':24s} {'gradients':>9s} {'estimate':>9s} {'map error':>9s} {'completeness':>12s}")
    for path in save_photographs(tmp_path, tuple(PHOTOGRAPHS)[:3]):
        x = photograph(path)
        with torch.no_grad():
            scores, zero_scores = net(x)[0], net(torch.zeros_like(x))[0]
        target = int(scores.argmax())
        span = float(scores[target] - zero_scores[target])
        shared = {"target": target, "progress": False}
        reference = method.attribute(x, n_steps=REFERENCE_STEPS, method="riemann_middle", **shared)

        def show(rule: str, gradients: int, estimate: float | None, found: torch.Tensor, delta: torch.Tensor) -> None:
            error = float((found - reference).norm() / reference.norm())  # noqa: B023 - printed at once
            estimated = "" if estimate is None else f"{estimate:9.3f}"
            complete = abs(float(delta)) / abs(span)  # noqa: B023
            print(f"{path.stem:12s} {rule:24s} {gradients:9d} {estimated:>9s} {error:9.3f} {complete:12.4f}")  # noqa: B023

        for steps in (20, 50, 100, 200):
            found, delta = method.attribute(x, n_steps=steps, return_convergence_delta=True, **shared)
            show(f"gausslegendre {steps}", steps, None, found, delta)
        for tol in (0.2, 0.1, 0.05, 0.03):
            with collect() as report:
                found, delta = method.attribute(x, tol=tol, return_convergence_delta=True, **shared)
            show(f"tol={tol}", report["n_gradients"][0], report["map_error"][0], found, delta)
            assert report["map_error"][0] <= tol


def call_cache(net: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network, which evaluates a row once: so that all tolerances cost one run."""
    known: dict[bytes, torch.Tensor] = {}

    def model(x: torch.Tensor) -> torch.Tensor:
        keys = [hashlib.blake2b(row.numpy().tobytes(), digest_size=16).digest() for row in x]
        new = {key: i for i, key in enumerate(keys) if key not in known}
        if new:
            known.update(zip(new, net(x[list(new.values())]), strict=True))
        return torch.stack([known[key] for key in keys])

    return model


@pytest.mark.parametrize(("side", "window", "stride"), [(112, 8, 4), (224, 15, 8), (224, 15, 4)])
def test_occlusion_estimated_against_true_error(tmp_path: Path, side: int, window: int, stride: int) -> None:
    print(f"\n{'picture':12s} {'windows':>14s} {'tol':>5s} {'evaluated':>12s} {'estimate':>9s} {'map error':>9s}")
    for path in save_photographs(tmp_path, tuple(PHOTOGRAPHS)):
        x = torch.nn.functional.interpolate(photograph(path), (side, side), mode="area")
        occlusion = Occlusion(call_cache(lite0()))
        with torch.no_grad():
            target = int(occlusion.forward_func(x)[0].argmax())
        how = {"sliding_window_shapes": (3, window, window), "strides": (3, stride, stride), "target": target}
        reference = occlusion.attribute(x, progress=False, **how)
        for tol in (0.5, 0.3, 0.2, 0.1, 0.05):
            with collect() as report:
                found = occlusion.attribute(x, tol=tol, progress=False, **how)
            error = float((found - reference).norm() / reference.norm())
            windows, evaluated = f"{side}, {window} / {stride}", f"{report['n_windows'][0]}"
            estimate = report["map_error"][0]
            print(f"{path.stem:12s} {windows:>14s} {tol:5} {evaluated:>12s} {estimate:9.3f} {error:9.3f}", flush=True)
            assert error <= 1.5 * tol
