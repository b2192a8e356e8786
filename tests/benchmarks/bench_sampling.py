"""Error against passes for every method that samples, with and without its variance reduction.

    python -m tests.benchmarks.bench_sampling FILE.png [SCALE [METHOD ...]]

EfficientNet-Lite0 with its ImageNet weights, one photograph of 64 x 64 pixels, its top class, baseline zero; 8 x 8
cells where features are needed. The error is the relative L2 distance of a map to a reference with other random
numbers, `REFERENCE` passes and the variance reduction, which has an error of its own. One seed per point, so single
points scatter. SCALE multiplies all passes: 1 is a first look of a minute or two on an idle core, in which few maps
have settled; 8 takes about ten.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr import (
    HSIC,
    RISE,
    GradientShap,
    KernelShap,
    Lime,
    NoiseTunnel,
    Occlusion,
    Saliency,
    ShapleyValueSampling,
    Sobol,
)
from interp_plugins.attr.shared.grid_features import grid_mask
from interp_plugins.core.report import collect
from interp_plugins.demo import lite0, save_photographs
from tests.benchmarks.bench_tolerance import photograph

CELLS = 64
BUDGETS = (64, 128, 256)
REFERENCE = 768
NOISE = {"nt_type": "smoothgrad", "stdevs": 0.3}
# Method, its fixed arguments, the argument that counts draws, passes per draw, the variance reduction and its passes.
METHODS: dict[str, tuple[Any, dict[str, Any], str, int, dict[str, Any], int]] = {
    "NoiseTunnel": (NoiseTunnel, NOISE, "nt_samples", 3, {"antithetic": True}, 6),
    "GradientShap": (GradientShap, {"stdevs": 0.1}, "n_samples", 3, {"stratified": True}, 12),
    "Shapley": (ShapleyValueSampling, {}, "n_samples", CELLS, {"antithetic": True}, 2 * CELLS),
    "KernelShap": (KernelShap, {}, "n_samples", 1, {"stratified": True}, 1),
    "Lime": (Lime, {}, "n_samples", 1, {}, 1),
    "RISE": (RISE, {"center": True, "grid_size": 7}, "n_samples", 1, {"orthogonal": True}, 1),
    "Sobol": (Sobol, {}, "n_samples", CELLS + 1, {}, CELLS + 1),
    "HSIC": (HSIC, {}, "n_samples", 1, {}, 1),
}


def measure(x: Tensor, name: str, scale: int) -> dict[str, list[tuple[int, float]]]:
    """Passes and error per setting of a method."""
    cls, fixed, draws, each, reduced, each_reduced = METHODS[name]
    net = lite0()
    with torch.no_grad():
        target = int(net(x)[0].argmax())
    method = cls(Saliency(net)) if cls is NoiseTunnel else cls(net)
    how = {"target": target, **fixed}
    if cls in (ShapleyValueSampling, KernelShap, Lime, Sobol, HSIC):
        how["feature_mask"] = grid_mask(x, (8, 8))
    if cls is NoiseTunnel:
        how["abs"] = False
    else:
        how |= {"baselines": torch.zeros_like(x), "progress": False}

    def run(passes: int, seed: int, more: dict[str, Any], cost: int) -> tuple[int, Tensor]:
        count = max(2 if cls is Sobol else 1, passes // cost)
        return count * cost, method.attribute(x, seed=seed, **{draws: count}, **how, **more).double()

    _, truth = run(scale * REFERENCE, 99, reduced, each_reduced)
    settings = {"plain": ({}, each), **({" ".join(reduced): (reduced, each_reduced)} if reduced else {})}
    return {
        label: [
            (passes, float((found - truth).norm() / truth.norm()))
            for passes, found in (run(scale * b, b, more, cost) for b in BUDGETS)
        ]
        for label, (more, cost) in settings.items()
    }


def occlusion(x: Tensor) -> dict[str, list[tuple[int, float]]]:
    """The same for windows of 8 x 8 every 4 pixels: by `tol`."""
    net = lite0()
    with torch.no_grad():
        target = int(net(x)[0].argmax())
    how = {"sliding_window_shapes": (3, 8, 8), "strides": (3, 4, 4), "target": target, "progress": False}
    truth, points = Occlusion(net).attribute(x, **how), []
    for tol in (0.6, 0.3, 0.15):
        with collect() as report:
            found = Occlusion(net).attribute(x, tol=tol, **how)
        points.append((report["n_windows"][0], float((found - truth).norm() / truth.norm())))
    return {"tol": points}


def draw(found: dict[str, dict[str, list[tuple[int, float]]]], path: str, scale: int) -> None:
    """One small log-log plot per method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator

    passes = [scale * b for b in BUDGETS]
    rows = -(-len(found) // 3)
    fig, axes = plt.subplots(rows, 3, figsize=(9, 2.6 * rows), sharey=True, layout="constrained", squeeze=False)
    for ax in axes.flat[len(found) :]:
        ax.remove()
    for ax, (name, curves) in zip(axes.flat, found.items()):
        for (label, points), style in zip(curves.items(), ("o-", "s--")):
            ax.loglog(*zip(*points), style, label=label, markersize=4)
        first = next(iter(curves.values()))[0]
        ax.loglog(passes, [first[1] * (first[0] / b) ** 0.5 for b in passes], ":", color="0.6", label="1 / sqrt(n)")
        ax.set_title(name, fontsize=10)
        ax.set_xticks(passes, [str(b) for b in passes])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.grid(True, which="both", alpha=0.3)
        ax.legend(fontsize=7)
    fig.supxlabel("passes", fontsize=9)
    fig.supylabel("relative L2 error of the map", fontsize=9)
    fig.savefig(path, dpi=110)


def main(path: str, scale: int, names: list[str]) -> None:
    """Print a line per setting and write the plot."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        x = photograph(save_photographs(Path(folder), ("chelsea",))[0])
    x = torch.nn.functional.interpolate(x, (64, 64), mode="area")
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name in names or [*METHODS, "Occlusion"]:
        found[name] = occlusion(x) if name == "Occlusion" else measure(x, name, scale)
        for label, points in found[name].items():
            cells = " | ".join(f"{passes}: {error:.3f}" for passes, error in points)
            print(f"| {name} | {label} | {cells} |", flush=True)
    draw(found, path, scale)


if __name__ == "__main__":
    main(sys.argv[1], int((sys.argv[2:] or [1])[0]), sys.argv[3:])
