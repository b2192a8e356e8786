"""Loops in lower precision against float32: CPU time, the map's error, the stated one, and rank correlation.

    .venv/bin/python -m tests.benchmarks.bench_precision W1 kernel-shap --rounds 5
    .venv/bin/python -m tests.benchmarks.bench_precision lite0-ig --precision bfloat16 --threads 1

Speed is measured on networks of random weights, errors also on the trained EfficientNet-Lite0 and a photograph. A name
with " forced" behind it (`"lite0-occlusion forced"`) runs in lower precision even where scores drown in it.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from interp_plugins import acceleration, attr
from interp_plugins.core.report import collect
from interp_plugins.demo import lite0, save_photographs
from interp_plugins.engine.plan import lowered
from tests.benchmarks.measured import Table, span
from tests.benchmarks.workloads import network, picture, superpixels

TABLE = Table(
    "precision",
    "Lower precision",
    "`python -m tests.benchmarks.bench_precision`: bfloat16 asked for, against this library's own float32; resnet18 "
    "and resnet34 with random weights, EfficientNet-Lite0 trained, of a photograph. More than 1 is faster in bfloat16. "
    "**Speed needs hardware**: a CPU with AMX or AVX-512 BF16, or tensor cores; elsewhere bfloat16 is imitated, rows "
    'say how far maps are off, and their ratios only what it costs to ask for it there (`"auto"` does not take it). '
    'Where a row ran in float32, differences drowned; "forced" says what they would have come to.',
    ("ran in", "float32 / lower", "map off by", "stated", "rank correlation"),
    (),
)


def photograph(device: str, size: int) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    """The trained network, chelsea, and its most probable class."""
    from PIL import Image
    from torchvision import transforms as T

    net, folder = lite0().eval().to(device), tempfile.mkdtemp()
    save_photographs(folder)
    steps = [
        T.Resize(size * 8 // 7, T.InterpolationMode.BICUBIC),
        T.CenterCrop(size),
        T.ToTensor(),
        T.Normalize([0.5] * 3, [0.5] * 3),
    ]
    x = T.Compose(steps)(Image.open(Path(folder) / "chelsea.png").convert("RGB"))[None].to(device)
    with torch.no_grad():
        return net, x, {"target": int(net(x).argmax()), "progress": False}


def workloads(device: str, size: int = 224) -> dict[str, Callable[[], Callable[[], Tensor]]]:
    """What runs, by name: the first call builds it; photographs have so many pixels a side."""
    asked: dict[str, Any] = {"target": 3, "progress": False}
    masked = {**asked, "feature_mask": superpixels(224, 8, device)}

    def of(name: str, pixels: int, run: Callable[[nn.Module, Tensor], Tensor], n: int = 1) -> Callable[[], Any]:
        def build() -> Callable[[], Tensor]:
            net, x = network(name, device), picture(pixels, device, n)
            return lambda: run(net, x)

        return build

    def trained(run: Callable[..., Tensor]) -> Callable[[], Any]:
        def build() -> Callable[[], Tensor]:
            net, x, kwargs = photograph(device, size)
            return lambda: run(net, x, **kwargs)

        return build

    window = {"sliding_window_shapes": (3, 15, 15), "strides": (3, 14, 14)}
    ig, shap = attr.IntegratedGradients, attr.KernelShap
    return {
        "W1": of("resnet34", 224, lambda m, x: ig(m).attribute(x, n_steps=50, **asked)),
        "W2": of("resnet34", 224, lambda m, x: attr.NoiseTunnel(ig(m)).attribute(
            x, nt_samples=3, n_steps=25, stdevs=0.0, **asked)),
        "W7": of("resnet18", 64, lambda m, x: ig(m).attribute(x, n_steps=32, **asked), 20),
        "kernel-shap": of("resnet18", 224, lambda m, x: shap(m).attribute(x, n_samples=200, seed=0, **masked)),
        "lime": of("resnet18", 224, lambda m, x: attr.Lime(m).attribute(x, n_samples=200, seed=0, **masked)),
        "rise": of("resnet18", 224, lambda m, x: attr.RISE(m).attribute(x, n_samples=200, seed=0, **asked)),
        "score-cam": of("resnet18", 224, lambda m, x: attr.ScoreCAM(m, m.get_submodule("layer3")).attribute(
            x, **asked)),
        "occlusion": of("resnet34", 224, lambda m, x: attr.Occlusion(m).attribute(x, **window, **asked)),
        "lite0-ig": trained(lambda m, x, **kw: ig(m).attribute(x, baselines=-1.0, n_steps=50, **kw)),
        "lite0-kernel-shap": trained(lambda m, x, **kw: shap(m).attribute(
            x, baselines=-1.0, n_samples=200, seed=0, feature_mask=superpixels(size, 8, device), **kw)),
        "lite0-gradient-shap": trained(lambda m, x, **kw: attr.GradientShap(m).attribute(
            x, torch.full_like(x, -1.0), n_samples=50, stdevs=0.1, seed=0, **kw)),
        "lite0-conductance": trained(lambda m, x, **kw: attr.LayerConductance(m, "blocks.4").attribute(
            x, baselines=-1.0, n_steps=50, **kw)),
        "lite0-blur-ig": trained(lambda m, x, **kw: attr.BlurIG(m).attribute(x, n_steps=50, **kw)),
        "lite0-noise-tunnel": trained(lambda m, x, **kw: attr.NoiseTunnel(ig(m)).attribute(
            x, nt_samples=3, n_steps=25, stdevs=0.1, seed=0, baselines=-1.0, **kw)),
        "lite0-score-cam": trained(lambda m, x, **kw: attr.ScoreCAM(m, "blocks.5").attribute(x, **kw)),
        "lite0-rise": trained(lambda m, x, **kw: attr.RISE(m).attribute(x, n_samples=200, seed=0, **kw)),
        "lite0-occlusion": trained(lambda m, x, **kw: attr.Occlusion(m).attribute(x, **window, **kw)),
    }  # fmt: skip


@contextlib.contextmanager
def forced(on: bool) -> Iterator[None]:
    """Lower precision for scores whose differences drown in it, for the length of a `with` block."""
    before = lowered.DROWNED, lowered.RANKS
    if on:
        lowered.DROWNED, lowered.RANKS = float("inf"), -1.0
    try:
        yield
    finally:
        lowered.DROWNED, lowered.RANKS = before


def measure(name: str, run: Callable[[], Tensor], precision: str, rounds: int) -> None:
    """Rounds of both in turn; one line."""
    ratios = []
    for _ in range(rounds + 1):
        began = time.process_time()
        exact = run()
        middle = time.process_time()
        with acceleration(precision=precision), collect() as report:
            found = run()
        ratios.append((middle - began) / (time.process_time() - middle))
    ratios = ratios[1:] or ratios  # in the first, kernels are made
    rank = spearmanr(found.flatten().cpu(), exact.flatten().cpu()).statistic
    said = report.get("precision", {"ran": "float32"})
    stated = f"{said['map_error']:.4f}" if "map_error" in said else ""
    away = float((found - exact).norm() / exact.norm())
    timed = span(ratios) if rounds else "not timed" if _fast(found.device.type) else "not timed: no AMX"
    TABLE.add(name, [said["ran"], timed, f"{away:.4f}", stated, f"{rank:.4f}"], rounds)


def _fast(device: str) -> bool:
    """Whether there is hardware for lower precision: a speed without it says nothing."""
    return device != "cpu" or any(torch.cpu.get_capabilities().get(one) for one in ("amx_bf16", "avx512_bf16"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5, help="0: one run of each, for the error alone")
    parser.add_argument("--size", type=int, default=224, help="of the photograph")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    built = workloads(options.device, options.size)
    for name in options.names or built:
        more = [f"{options.size} pixels"] * (options.size != 224) + [options.device] * (options.device != "cpu")
        label = ", ".join([name, *more])
        with forced(name.endswith(" forced")):
            measure(label, built[name.removesuffix(" forced")](), options.precision, options.rounds)


if __name__ == "__main__":
    main()
