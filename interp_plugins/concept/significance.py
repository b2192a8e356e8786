"""Does a concept's score mean something? Against the scores of examples whose labels are shuffled.

With closed forms a vector is a weighted sum of the examples' activations Z, v = Z'w, so scores of a thousand shuffled
labels are one product: (G Z') W for gradients G (N, D) and weights W (n, 1000). If concept and random examples come
from one source, the true labels are one shuffle among others, so that p is uniform whatever model, layer and inputs
are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp_plugins.concept.vectors import Gram
from interp_plugins.core.adjusted import holm
from interp_plugins.core.errors import InputError
from interp_plugins.core.random import make_generator

if TYPE_CHECKING:
    import pandas as pd

UNSTABLE = 0.5  # mean cosine of the vectors of two halves below which a vector is called unstable


@dataclass(frozen=True)
class ConceptResult:
    """A concept at a layer.

    Attributes:
        concept: its name.
        layer: name of the layer.
        score: share of inputs whose score rises with a small step towards the concept.
        magnitude: by how much it rises in the mean, for a step of length one.
        p: p-value: share of shuffled labels with a score as far from 1/2, two-sided.
        p_holm: the same after Holm's correction over all rows of the table.
        null: between which scores 95 % of shuffled labels lie.
        accuracy: share of the examples that a ridge regression tells apart when it is fitted without them.
        stability: mean cosine between the vectors of two halves of the examples, over random halvings: about 0 where
            there is nothing to be found; below .5 the vector is called unstable.
        examples: number of examples of the concept, and of random ones.
    """

    concept: str
    layer: str
    score: float
    magnitude: float
    p: float
    p_holm: float
    null: tuple[float, float]
    accuracy: float
    stability: float
    examples: tuple[int, int]

    @property
    def unstable(self) -> bool:
        """Whether other examples would give another vector."""
        return self.stability < UNSTABLE


@dataclass(frozen=True)
class ConceptTest:
    """What `TCAV.test` found: a row per concept and layer.

    Attributes:
        rows: the results.
        target: what was explained, in words.
        permutations: number of shuffled labels.
    """

    rows: tuple[ConceptResult, ...]
    permutations: int
    target: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ConceptResult]:
        return iter(self.rows)

    def __getitem__(self, i: int) -> ConceptResult:
        return self.rows[i]

    def __repr__(self) -> str:
        head = ("concept", "layer", "score", "shuffled labels", "p", "p (Holm)", "accuracy", "stability")
        lines = [head, *(_row(r) for r in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        about = f" for {self.target}" if self.target else ""
        return "\n".join([f"Concepts{about}, {self.permutations} shuffled labels:", *text])

    def to_df(self) -> pd.DataFrame:
        """A row per concept and layer."""
        import pandas as pd

        columns = [
            {**vars(r), "null_low": r.null[0], "null_high": r.null[1], "unstable": r.unstable} for r in self.rows
        ]
        return pd.DataFrame(columns).drop(columns=["null"])


def _row(r: ConceptResult) -> tuple[str, ...]:
    stable = f"{r.stability:.2f}" + (" unstable" if r.unstable else "")
    null = f"{r.null[0]:.2f} to {r.null[1]:.2f}"
    return r.concept, r.layer, f"{r.score:.2f}", null, f"{r.p:.4f}", f"{r.p_holm:.4f}", f"{r.accuracy:.2f}", stable


def compared_with_shuffled(
    asked: Sequence[tuple[str, str, Tensor, Tensor, Tensor]], direction: str, runs: int, permutations: int, seed: int
) -> ConceptTest:
    """Test concepts at layers.

    Args:
        asked: concept, layer, the concept's activations (n, D), the random ones (m, D), gradients (N, D).
        direction: of the vectors, "mean" or "ridge".
        runs: random halvings.
        permutations: shuffled labels.
        seed: of all draws.

    Raises:
        InputError: too few examples, runs or permutations.
    """
    for name, value, least in (("runs", runs, 2), ("permutations", permutations, 19)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} must be an int of at least {least}, got {value!r}.")
    found = [_one(*one, direction, runs, permutations, seed) for one in asked]
    adjusted = holm([one["p"] for one in found])
    rows = tuple(ConceptResult(**one, p_holm=p) for one, p in zip(found, adjusted, strict=True))
    return ConceptTest(rows, permutations)


def _one(
    concept: str,
    layer: str,
    ours: Tensor,
    other: Tensor,
    grads: Tensor,
    direction: str,
    runs: int,
    count: int,
    seed: int,
) -> dict[str, Any]:
    sizes = (len(ours), len(other))
    if min(sizes) < 2:
        raise InputError(
            f"{concept!r} has {sizes[0]} examples, and there are {sizes[1]} random ones: two each at least."
        )
    null = _Shuffled(ours, other, grads, direction)
    generator = make_generator(seed)
    true = null.of(null.signs[:, None])
    drawn = null.of(null.shuffled(count, generator))
    own, low, high = true.score[0], *torch.quantile(drawn.score, drawn.score.new_tensor([0.025, 0.975])).tolist()
    left_out = null.gram.left_out(null.signs[:, None])[:, 0]
    return {
        "concept": concept,
        "layer": layer,
        "score": float(own),
        "magnitude": float(true.magnitude[0]),
        "p": (1 + int(drawn.as_far_as(true).sum())) / (count + 1),
        "null": (low, high),
        "accuracy": float(((left_out > 0) == (null.signs > 0)).double().mean()),
        "stability": null.stability(runs, generator),
        "examples": sizes,
    }


@dataclass(frozen=True)
class _Scores:
    """Sign counts and magnitudes of some vectors (V,)."""

    score: Tensor
    magnitude: Tensor

    def as_far_as(self, one: _Scores) -> Tensor:
        """Which lie as far from 1/2 as a single one; of equal ones the larger magnitude counts."""
        far, its = (self.score - 0.5).abs(), (one.score[0] - 0.5).abs()
        larger = self.magnitude.abs() >= one.magnitude[0].abs() * (1 - 1e-9)
        return (far > its + 1e-9) | (((far - its).abs() <= 1e-9) & larger)


class _Shuffled:
    """Scores of vectors of the same examples under other labels."""

    def __init__(self, ours: Tensor, other: Tensor, grads: Tensor, direction: str):
        rows = torch.cat([ours, other])
        self.gram, self.direction = Gram.of(rows), direction
        self.signs = torch.cat([torch.ones(len(ours)), -torch.ones(len(other))])
        self.along = (grads.to(rows) @ self.gram.rows.T).double()  # (N, n): each gradient along each example

    def of(self, signs: Tensor) -> _Scores:
        weights = self.gram.weights(signs, self.direction)
        steps = self.along @ weights
        length = (weights * (self.gram.products @ weights)).sum(0).clamp_min(0).sqrt()
        mean = steps.mean(0) / torch.where(length > 0, length, torch.ones_like(length))
        return _Scores((steps > 0).double().mean(0), mean)

    def shuffled(self, count: int, generator: torch.Generator) -> Tensor:
        """Labels in other orders (n, count)."""
        return self.signs[torch.rand(len(self.signs), count, generator=generator).argsort(0)]

    def stability(self, runs: int, generator: torch.Generator) -> float:
        """Mean cosine between the vectors of two halves of the examples, over random halvings."""
        n = int((self.signs > 0).sum())
        first = torch.cat([_half(n, runs, generator), -_half(len(self.signs) - n, runs, generator)])
        counts = torch.cat(
            [torch.full((n,), 1.0 / n), torch.full((len(self.signs) - n,), -1.0 / (len(self.signs) - n))]
        )
        second = 2 * counts.double()[:, None] - first  # the mean of both halves is the vector of all
        dot = lambda a, b: (a * (self.gram.products @ b)).sum(0)  # noqa: E731
        length = (dot(first, first) * dot(second, second)).clamp_min(1e-300).sqrt()
        return float((dot(first, second) / length).mean())


def _half(n: int, runs: int, generator: torch.Generator) -> Tensor:
    """What each of n examples weighs in the mean of a random half (n, runs)."""
    chosen = torch.rand(n, runs, generator=generator).argsort(0).argsort(0) < n // 2
    return chosen.double() / (n // 2)


def null_interval(ours: Tensor, other: Tensor, grads: Tensor, seed: int, count: int = 1000) -> tuple[float, float]:
    """Between which sign counts 95 % of vectors of shuffled labels lie.

    Args:
        ours: activations of a concept (n, D).
        other: of the others (m, D).
        grads: of the inputs (N, D).
        seed: of the shuffles.
        count: their number.
    """
    null = _Shuffled(ours, other, grads, "mean")
    scores = null.of(null.shuffled(count, make_generator(seed))).score
    low, high = torch.quantile(scores, scores.new_tensor([0.025, 0.975])).tolist()
    return low, high
