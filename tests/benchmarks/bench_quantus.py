"""Nine jobs of Quantus 0.6 beside ours, for one method and for five: processor seconds of one thread, in turn.

    PYTHONPATH=.:FOLDER python -m tests.benchmarks.bench_quantus [JOB ...] [--net small resnet18] [--rounds 5]

Quantus is in no extra, since it asks for older packages: `pip install --no-deps --target FOLDER quantus==0.6.0`.
ROAD is asked about grey pictures: with three channels Quantus ends with an IndexError.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp_plugins.core.forward import Forward
from interp_plugins.metrics import judge_together, metric_info, planned_passes
from tests.benchmarks.measured import Table, span

Call = Callable[[], Any]
ASKED_AGAIN = ("saliency", "input_x_gradient", "guided_backprop", "deconvolution", "grad_cam")  # a pass each way each
METHODS = len(ASKED_AGAIN)
NETS = {"small": 8, "resnet18": 4}  # pictures for each
SIDE = 64
PATCHES = (torch.arange(SIDE)[:, None] // 4 * (SIDE // 4) + torch.arange(SIDE) // 4)[None, None]
SHORT, MOST = 0.05, 20  # calls shorter than this are repeated in a round, at most so often
TABLE = Table(
    "quantus",
    "Metrics, beside Quantus",
    "`python -m tests.benchmarks.bench_quantus`: pictures of 3 x 64 x 64 (grey ones for ROAD), eight for four "
    "convolutions and a linear layer (small), four for torchvision's resnet18 with random weights and ten classes. "
    "Processor seconds of one thread; five methods are compared with five times Quantus's one. Rows are those sent "
    "forward here, for one method and for five; the last column is the time of these rows (of one method) through the "
    "plain model and nothing else, over the whole time here. Where methods are asked again, the five are "
    f"{', '.join(ASKED_AGAIN)}.",
    (
        "Quantus, a method, s",
        "here, a method, s",
        "here / Quantus",
        "here, five, s",
        "of five: here / Quantus",
        "rows, one / five",
        "passes alone / here",
    ),
    ("quantus",),
)


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
    """Pictures, their masks, and maps of five methods."""

    def __init__(self, model: nn.Module, n: int, channels: int = 3):
        draw = torch.Generator().manual_seed(1)
        self.x = torch.rand(n, channels, SIDE, SIDE, generator=draw)
        with torch.no_grad():
            self.y = model(self.x).argmax(1)
        self.masks = torch.zeros(n, SIDE, SIDE, dtype=torch.bool)
        self.masks[:, 16:48, 16:48] = True
        first = torch.from_numpy(gradient(model, self.x, self.y))
        self.maps: dict[str, Tensor] = {}
        for k, name in enumerate(ASKED_AGAIN):
            self.maps[name] = first + k * first.std() * torch.randn(first.shape, generator=draw)


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
        batch_size=len(data.x),
    )


def ours(job: str, model: nn.Module, data: Data, maps: dict[str, Tensor]) -> None:
    """The same job of one method or of several."""
    if (name := JOBS[job][0]) in SHARED:
        judge_together(model, data.x, maps, {name: JOBS[job][1]}, target=data.y, ids=range(len(data.x)))
        return
    function, params = metric_info(name).function, JOBS[job][1]
    for method, one in maps.items():
        if name in AGAIN:
            function(model, data.x, explain=method, target=data.y, **params)
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


def rows_of(job: str, model: nn.Module, data: Data, maps: dict[str, Tensor]) -> tuple[int, int]:
    """Rows that go forward, and those of them that also go backward, here; by a dry run."""
    name, params = JOBS[job]
    if name in SHARED:
        plan = judge_together(model, data.x, maps, {name: params}, target=data.y, ids=range(len(data.x)), dry_run=True)
        return plan.forward_passes, 0
    if name in AGAIN:
        plans = [planned_passes(name, model, data.x, explain=m, target=data.y, **params) for m in maps]
        return sum(p.forward for p in plans), sum(p.backward for p in plans)
    return 0, 0


def passes_alone(model: nn.Module, data: Data, forward: int, backward: int) -> None:
    """As many rows through the model and nothing else, in passes of the size that is chosen here."""
    size = Forward.of(model, len(data.x)).rows_per_pass([data.x])
    for count, graph in ((forward - backward, False), (backward, True)):
        for at in torch.arange(count).split(size):
            x = data.x[at % len(data.x)].requires_grad_(graph)
            with torch.set_grad_enabled(graph):
                scores = model(x)
            if graph:
                torch.autograd.grad(scores[:, 0].sum(), x)


def seconds(call: Call) -> float:
    """Seconds of the processor; short calls are repeated."""
    begun, count = time.process_time(), 0
    while count == 0 or (time.process_time() - begun < SHORT and count < MOST):
        call()
        count += 1
    return (time.process_time() - begun) / count


def measure(job: str, net: str, model: nn.Module, data: Data, rounds: int) -> None:
    """A row of the table: Quantus, one method here, five here and the model's passes alone, in turn."""
    first = dict(list(data.maps.items())[:1])
    rows, many = rows_of(job, model, data, first), rows_of(job, model, data, data.maps)
    runs: list[Call] = [
        partial(theirs, job, model, data, first["saliency"]),
        partial(ours, job, model, data, first),
        partial(ours, job, model, data, data.maps),
        partial(passes_alone, model, data, *rows),
    ]
    laps = [[seconds(run) for run in runs] for _ in range(rounds + 1)][1:]  # the first is a warm-up
    there, one, five, alone = (statistics.median(column) for column in zip(*laps, strict=True))
    TABLE.add(
        f"{job}, {net}",
        [
            f"{there:.3g}",
            f"{one:.3g}",
            span([lap[1] / lap[0] for lap in laps]),
            f"{five:.3g}",
            span([lap[2] / lap[0] / METHODS for lap in laps]),
            f"{rows[0]:,} / {many[0]:,}" if rows[0] else "none",
            f"{alone / one:.2f}" if rows[0] else "",
        ],
        rounds,
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", help="only jobs whose name begins so")
    parser.add_argument("--net", choices=list(NETS), nargs="*", default=list(NETS))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for net in options.net:
        asked = {c: (m := network(net, c), Data(m, NETS[net], c)) for c in (1, 3)}
        for job in JOBS:
            if not options.jobs or job.startswith(tuple(options.jobs)):
                measure(job, net, *asked[1 if "grey" in job else 3], options.rounds)


if __name__ == "__main__":
    main()
