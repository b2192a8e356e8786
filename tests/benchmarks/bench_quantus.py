"""Nine jobs of Quantus 0.6 beside ours: seconds of the processor, interleaved, one thread, medians of rounds.

ROAD is asked about grey pictures: with three channels Quantus's ends with an IndexError.

Quantus is in no extra, since it asks for older packages: `pip install --no-deps --target FOLDER quantus==0.6.0`.

PYTHONPATH=.:FOLDER python -m tests.benchmarks.bench_quantus [ROUNDS] [small | resnet18] [JOB ...]
"""

from __future__ import annotations

import importlib
import itertools
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp_plugins.metrics import judge_together, metric_info

METHODS = 5  # whose maps the jobs without a method of their own are also timed for
N, SIDE = 8, 64
PATCHES = (torch.arange(SIDE)[:, None] // 4 * (SIDE // 4) + torch.arange(SIDE) // 4)[None, None]


def network(name: str, channels: int = 3) -> nn.Module:
    """ResNet-18 with ten classes, or four convolutions that cost a thirtieth of it."""
    torch.manual_seed(0)
    if name == "resnet18":
        from torchvision.models import resnet18

        net = resnet18(num_classes=10)
        net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        return net.eval()
    widths, layers = (channels, 16, 32, 32, 64), []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


def gradient(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
    """Gradients of the targets, as Quantus asks for maps."""
    x = torch.as_tensor(np.asarray(inputs), dtype=torch.float32).requires_grad_()
    model.eval()
    scores = model(x).gather(1, torch.as_tensor(np.asarray(targets)).long()[:, None])
    return torch.autograd.grad(scores.sum(), x)[0].numpy()


class Data:
    """Eight pictures, their masks, and maps of five methods."""

    def __init__(self, model: nn.Module, channels: int = 3):
        draw = torch.Generator().manual_seed(1)
        self.x = torch.rand(N, channels, SIDE, SIDE, generator=draw)
        with torch.no_grad():
            self.y = model(self.x).argmax(1)
        self.masks = torch.zeros(N, SIDE, SIDE, dtype=torch.bool)
        self.masks[:, 16:48, 16:48] = True
        first = torch.from_numpy(gradient(model, self.x, self.y))
        self.maps: dict[str, Tensor] = {"gradient": first}
        for k in range(1, METHODS):
            self.maps[f"method {k}"] = first + k * first.std() * torch.randn(first.shape, generator=draw)


def theirs(job: str, model: nn.Module, data: Data, maps: Tensor) -> None:
    """One job of one method by Quantus."""
    quantus: Any = importlib.import_module("quantus")

    quiet: dict[str, Any] = {"disable_warnings": True, "display_progressbar": False}
    made = {
        "FaithfulnessCorrelation, 100 subsets of 224": lambda: quantus.FaithfulnessCorrelation(**quiet),
        "RegionPerturbation, 8 x 8": lambda: quantus.RegionPerturbation(patch_size=8, regions_evaluation=64, **quiet),
        "Infidelity, patches of 4, one draw": lambda: quantus.Infidelity(
            perturb_patch_sizes=[4], n_perturb_samples=1, **quiet
        ),
        "MaxSensitivity, 20 neighbours": lambda: quantus.MaxSensitivity(nr_samples=20, **quiet),
        "RelativeInputStability, 20 neighbours": lambda: quantus.RelativeInputStability(nr_samples=20, **quiet),
        "MPRT, from the top": lambda: quantus.MPRT(**quiet),
        "ROAD, grey, nine percentages": lambda: quantus.ROAD(percentages=list(range(10, 100, 10)), **quiet),
        "RelevanceRankAccuracy": lambda: quantus.RelevanceRankAccuracy(**quiet),
        "Sparseness": lambda: quantus.Sparseness(**quiet),
    }[job]()
    made(
        model=model,
        x_batch=data.x.numpy(),
        y_batch=data.y.numpy(),
        a_batch=None if JOBS[job][0] in AGAIN else (maps.mean(1, keepdim=True) if "Rank" in job else maps).numpy(),
        s_batch=data.masks[:, None].numpy(),
        device="cpu",
        explain_func=gradient,
        batch_size=N,
    )


def ours(job: str, model: nn.Module, data: Data, maps: dict[str, Tensor]) -> None:
    """The same job of one method or of several."""
    if (name := JOBS[job][0]) in SHARED:
        judge_together(model, data.x, maps, {name: JOBS[job][1]}, target=data.y, ids=range(N))
        return
    function, params = metric_info(name).function, JOBS[job][1]
    for one in maps.values():
        if name in AGAIN:
            function(model, data.x, explain="saliency", target=data.y, **params)
        else:
            function(one, data.masks) if name == "relevance_rank" else function(one)


AGAIN = ("sensitivity_avg", "relative_input_stability", "parameter_randomisation")  # their methods are asked again
SHARED = ("faithfulness_correlation", "region_perturbation", "infidelity", "road")
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "FaithfulnessCorrelation, 100 subsets of 224": ("faithfulness_correlation", {"n_subsets": 100, "subset_size": 224}),
    "RegionPerturbation, 8 x 8": ("region_perturbation", {"window": 8}),
    "Infidelity, patches of 4, one draw": ("infidelity", {"perturb": "singles", "features": PATCHES}),
    "MaxSensitivity, 20 neighbours": ("sensitivity_avg", {"n_neighbours": 20}),
    "RelativeInputStability, 20 neighbours": ("relative_input_stability", {"n_neighbours": 20}),
    "MPRT, from the top": ("parameter_randomisation", {}),
    "ROAD, grey, nine percentages": ("road", {}),
    "RelevanceRankAccuracy": ("relevance_rank", {}),
    "Sparseness": ("gini_index", {}),
}


def seconds(call: Callable[[], Any]) -> float:
    """Seconds of the processor."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def main(rounds: int, net: str, wanted: list[str]) -> None:
    """Print a row of a Markdown table for every job, or for those whose names begin so."""
    torch.set_num_threads(1)
    asked = {c: (m := network(net, c), Data(m, c)) for c in (1, 3)}
    print("| Job | Quantus, a method | here, a method | share | here, five methods | share of five |", flush=True)
    print("|---|---|---|---|---|---|")
    for job in JOBS:
        if wanted and not job.startswith(tuple(wanted)):
            continue
        model, data = asked[1 if "grey" in job else 3]
        first = dict(list(data.maps.items())[:1])
        runs = [
            partial(theirs, job, model, data, first["gradient"]),
            partial(ours, job, model, data, first),
        ]
        if JOBS[job][0] not in AGAIN:  # asked for five methods, these cost five times one
            runs.append(partial(ours, job, model, data, data.maps))
        taken: list[list[float]] = [[] for _ in runs]
        try:
            for lap in range(rounds + 1):  # the first is a warm-up
                for times, run in zip(taken, runs, strict=True):
                    times.append(seconds(run))
                    if lap == 0:
                        times.clear()
        except Exception as err:
            print(f"| {job} | {type(err).__name__}: {str(err)[:80]} | | | | |", flush=True)
            continue
        one, mine, *many = (statistics.median(t) for t in taken)
        five = [f"{t:.3g} | {t / (METHODS * one):.2f}" for t in many] or ["five times one |"]
        print(f"| {job} | {one:.3g} | {mine:.3g} | {mine / one:.2f} | {five[0]} |", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2] if len(sys.argv) > 2 else "small", sys.argv[3:])
