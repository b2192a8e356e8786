"""Trained nets and real data for benchmarks of error: tables, digits, a photograph, a pair of sentences.

A `Case` is a score of one sample: the model, its input, what stands for nothing, and which elements are perturbed
together. `game` is the same as a function of coalitions, which is what other libraries take.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp_plugins.benchmark import data
from interp_plugins.benchmark.nets import cnn, mlp
from interp_plugins.benchmark.training import fit


@dataclass(frozen=True)
class Case:
    """One sample of a trained net.

    Attributes:
        net: (N, ...) -> (N, classes).
        x: (1, ...).
        baseline: (1, ...).
        target: the class.
        mask: of the features, (1, ...), numbered from zero.
        pool: rows that baselines are drawn from, (B, ...).
    """

    net: nn.Module
    x: Tensor
    baseline: Tensor
    target: int
    mask: Tensor
    pool: Tensor

    @property
    def d(self) -> int:
        """Features."""
        return int(self.mask.max()) + 1

    @property
    def players(self) -> np.ndarray:
        """The features that differ from their baseline."""
        return self.mask.expand_as(self.x)[self.x != self.baseline].unique().numpy()

    @property
    def masked(self) -> dict[str, Any]:
        """Arguments of perturbation methods."""
        return {"baselines": self.baseline, "target": self.target, "feature_mask": self.mask}

    def game(self, coalitions: np.ndarray) -> np.ndarray:
        """The score of coalitions (M, d), in passes of 64 rows."""
        z = torch.as_tensor(np.asarray(coalitions, dtype=np.float32)).bool().reshape(-1, self.d)
        found = []
        with torch.no_grad():
            for some in z.split(64):
                kept = some[:, self.mask[0].flatten()].reshape(len(some), *self.mask.shape[1:])
                found.append(self.net(torch.where(kept, self.x, self.baseline))[:, self.target])
        return torch.cat(found).double().numpy()

    def of(self, maps: Tensor) -> Tensor:
        """Values of features (d,), of a map that has a feature's value at each of its elements."""
        flat, where = maps.detach().double().flatten(), self.mask.expand_as(maps).flatten()
        return torch.zeros(self.d).double().scatter(0, where, flat)


@cache
def table(name: str) -> Case:
    """A net of two hidden layers on "adult" or "california", a row, the mean as baseline."""
    x, y, _ = data.table(name)
    x, y = x[:8000], y[:8000]
    torch.manual_seed(0)
    net = fit(mlp(x.shape[1], 2, 64), x, y, epochs=3, lr=3e-3)
    row = x[:1]
    return Case(net, row, torch.zeros_like(row), int(net(row).argmax()), torch.arange(x.shape[1])[None], x[100:200])


@cache
def digit() -> Case:
    """A small convolutional net on MNIST's digits, 49 cells of 4 x 4, black as baseline."""
    x, y = data.digits()
    torch.manual_seed(0)
    net = fit(cnn(1, 10, 28), x[:4000], y[:4000], epochs=2, lr=3e-3)
    place = torch.arange(28) // 4
    mask = (place[:, None] * 7 + place)[None, None]
    return Case(net, x[4000:4001], torch.zeros(1, 1, 28, 28), int(net(x[4000:4001]).argmax()), mask, x[4100:4150])


@cache
def photograph(size: int = 96) -> Case:
    """EfficientNet-Lite0 and the cat at so many pixels, 64 cells, black as baseline."""
    from interp_plugins.demo import lite0, save_photographs
    from tests.benchmarks.bench_tolerance import photograph as read

    with tempfile.TemporaryDirectory() as folder:
        x = read(save_photographs(Path(folder), ("chelsea",))[0])
    x, net = nn.functional.interpolate(x, (size, size), mode="area"), lite0().requires_grad_(False)
    place = torch.arange(size) * 8 // size
    pool = torch.cat([torch.full_like(x, v) for v in (-1.0, 0.0)])
    with torch.no_grad():
        target = int(net(x).argmax())
    return Case(net, x, torch.full_like(x, -1.0), target, (place[:, None] * 8 + place)[None, None], pool)


class Alike(nn.Module):
    """How alike a sentence's word vectors (N, T, 384) make it to another sentence, (N, 1)."""

    def __init__(self, bert: nn.Module, other: Tensor):
        super().__init__()
        self.bert, self.other = bert, other

    def forward(self, vectors: Tensor) -> Tensor:
        states = self.bert(inputs_embeds=vectors).last_hidden_state.mean(1)
        return (nn.functional.normalize(states, dim=1) * self.other).sum(1, keepdim=True)


@cache
def sentence() -> Case:
    """MiniLM and a pair of sentences: word pieces as features, the special ones with neighbours; zeros for nothing."""
    from tests.benchmarks.minilm_pairs import minilm, sentences

    ids, mask, other = sentences()
    bert = minilm().bert.requires_grad_(False)
    with torch.no_grad():
        x = bert.embeddings.word_embeddings(ids[:1, : int(mask[0].sum())])
    features = (torch.arange(x.shape[1]).clamp(1, x.shape[1] - 2) - 1)[None, :, None]
    noise = torch.randn(20, *x.shape[1:], generator=torch.Generator().manual_seed(0)) * x.std()
    return Case(Alike(bert, other[:1]), x, torch.zeros_like(x), 0, features, noise)


CASES = {
    "adult": lambda: table("adult"),
    "california": lambda: table("california"),
    "digit": digit,
    "lite0": photograph,
    "minilm": sentence,
}
