"""Concept vectors against Captum's, factors against scikit-learn's: `python -m tests.benchmarks.bench_concepts`.

Seconds of the processor, one thread, the calls of a round one after the other, medians of five rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from captum.concept import DefaultClassifier as CaptumClassifier
from sklearn.decomposition import NMF
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins.concept.factor import factorise
from interp_plugins.concept.significance import compared_with_shuffled

CALLS = dict[str, Callable[[], Any]]


def vectors() -> CALLS:
    """100 examples of a flattened layer of 62,720 numbers, asked for 64 inputs."""
    draw = torch.Generator().manual_seed(0)
    z, grads = torch.randn(100, 62_720, generator=draw), torch.randn(64, 62_720, generator=draw)
    labels = torch.arange(100) // 50
    loader = DataLoader(TensorDataset(z, labels), batch_size=50)
    rows = [("concept", "layer", z[:50], z[50:], grads)]
    return {
        "Captum: one vector": lambda: CaptumClassifier().train_and_eval(loader),
        "ours: mean difference, 1,000 shuffles": lambda: compared_with_shuffled(rows, "mean", 30, 1000, 0),
        "ours: ridge, 1,000 shuffles": lambda: compared_with_shuffled(rows, "ridge", 30, 1000, 0),
    }


def activations(n: int) -> Tensor:
    """Activations of a trained EfficientNet-Lite0 for n crops of photographs, pooled (n, 1280)."""
    from skimage import data

    from interp_plugins.demo.network import lite0

    net = lite0()
    draw = torch.Generator().manual_seed(0)
    pictures = [torch.from_numpy(getattr(data, name)().copy()) for name in ("chelsea", "coffee", "astronaut", "rocket")]
    crops = []
    for i in range(n):
        whole = pictures[i % 4].permute(2, 0, 1).float() / 127.5 - 1
        top, left = (int(torch.randint(size - 100, (1,), generator=draw)) for size in whole.shape[1:])
        part = whole[None, :, top : top + 100, left : left + 100]
        crops.append(torch.nn.functional.interpolate(part, (224, 224), mode="bilinear"))
    with torch.no_grad():
        return torch.cat([net.forward_features(c).mean((2, 3)) for c in torch.cat(crops).split(32)])


def factors(a: Tensor) -> CALLS:
    """Ten atoms: ours, scikit-learn's defaults, and its settings in CRAFT's code."""
    array = a.numpy()

    def theirs(**options: Any) -> float:
        model = NMF(10, **options)
        u = model.fit_transform(array)
        return float(((array - u @ model.components_) ** 2).sum() / (array**2).sum()) ** 0.5

    return {
        "scikit-learn": lambda: theirs(),
        "scikit-learn as in CRAFT": lambda: theirs(alpha_W=1e-2),
        "ours": lambda: (1 - factorise(a, 10).explained) ** 0.5,
    }


def report(title: str, calls: CALLS, rounds: int) -> None:
    """Time the calls of a round one after the other."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    said: dict[str, Any] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            said[name] = call()
            spent[name].append(time.process_time() - start)
    first = statistics.median(next(iter(spent.values())))
    print(title)
    for name, seconds in spent.items():
        middle = statistics.median(seconds)
        error = f", relative error {said[name]:.4f}" if isinstance(said[name], float) else ""
        print(f"  {name:38} {middle:7.3f} s, {middle / first:5.2f} of the first{error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    report("100 examples x 62,720", vectors(), rounds)
    for n in (80, 980):
        a = activations(n)
        report(f"Ten atoms of {n} crops x 1,280", factors(a), rounds)


if __name__ == "__main__":
    main()
