"""Gradients of queries and training items at every checkpoint: the loop that all methods by gradient share."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.batching import chunks, progress_bar
from interp_plugins.core.factors import Factors, LookedUp, Outer, merged
from interp_plugins.core.persample import Checks, Measure, SampleGradients, parameters_of, sample_gradients
from interp_plugins.core.report import note
from interp_plugins.core.weights import Checkpoint, LoadFunction, with_weights
from interp_plugins.influence.walk import Items, ItemWalk

_FACTORS = 2**24  # elements of factors of the samples that go through together
_QUERIES = 2**26  # elements of queries' gradients that are held at once
_MOST = 512


@dataclass
class GradientPasses:
    """A model, some of its weights, and moments of its training.

    Attributes:
        model: an `nn.Module` or a callable around one.
        checkpoints: the moments.
        names: of the weights; None: all that are trained.
        modules: whose weights count, instead.
        load: as for `core.weights.with_weights`.
        batch_size: samples per pass; None: as many as fit.
        progress: None: a bar for long work.
        fallbacks: weights that were differentiated sample by sample, and how.
        checks: what was found when gradients were compared with plain ones, at the first checkpoint of a question.
    """

    model: Any
    checkpoints: Sequence[Checkpoint]
    names: Sequence[str] | None = None
    modules: Any = None
    load: LoadFunction | None = None
    batch_size: int | None = None
    progress: bool | None = None
    fallbacks: dict[str, str] = field(default_factory=dict)
    checks: Checks = field(default_factory=Checks)

    def __post_init__(self) -> None:
        self.chosen = list(parameters_of(self.model, self.names, self.modules))
        self._size: int | None = self.batch_size

    @contextlib.contextmanager
    def at(self, checkpoint: Checkpoint) -> Iterator[tuple[SampleGradients, float]]:
        """The model at one moment, for the length of a `with` block; and its learning rate."""
        with with_weights(self.model, checkpoint, self.load) as lr, sample_gradients(self.model, self.chosen) as made:
            made.fallbacks.update(self.fallbacks)
            made.checks = self.checks
            try:
                yield made, lr
            finally:
                self.fallbacks.update(made.fallbacks)
                if self.fallbacks:
                    note(sample_by_sample=dict(self.fallbacks))

    def factors(self, gradients: SampleGradients, items: Items, measure: Measure) -> Iterator[tuple[int, Factors]]:
        """(begin, gradients) of the samples of a batch, in chunks that fit."""

        def work(begin: int, end: int) -> Factors:
            part = items.rows(begin, end)
            return gradients.of(part.inputs, part.labels, measure, part.kwargs)

        begin = 0
        if self._size is None:  # what a sample's factors take is seen on a few
            begin = min(len(items), 16)
            found = work(0, begin)
            self._size = max(1, min(_MOST, _FACTORS // max(1, size_of(found) // begin)))
            yield 0, found
        if begin < len(items):
            for start, _, found in chunks(len(items) - begin, self._size, lambda a, b: work(begin + a, begin + b)):
                yield begin + start, found

    def queries(self, gradients: SampleGradients, queries: Sequence[Items], measure: Measure) -> list[Factors]:
        """Gradients of all queries."""
        return [found for items in queries for _, found in self.factors(gradients, items, measure)]

    def products(
        self,
        walk: ItemWalk,
        queries: Sequence[Items],
        loss: Measure,
        asked: Measure,
        progress: bool | None = None,
        cosine: bool = False,
    ) -> Tensor:
        """Sum over checkpoints of lr * <gradient of a query, gradient of an item>, (Q, N).

        Args:
            walk: the training items.
            queries: what is asked of.
            loss: of the items.
            asked: of the queries.
            progress: None: a bar for long work.
            cosine: divide by the lengths of both gradients.
        """
        total: Tensor | None = None
        n, self.checks = walk.size, Checks()
        bar = progress_bar(
            (n or 0) * len(self.checkpoints), "influence", self.progress if progress is None else progress
        )
        try:
            for checkpoint in self.checkpoints:
                with self.at(checkpoint) as (gradients, lr):
                    found = self._at_one(gradients, walk, queries, loss, asked, bar, cosine) * lr
                total = found if total is None else total + found
        finally:
            bar.close()
        assert total is not None
        return total

    def _at_one(
        self, gradients: SampleGradients, walk: ItemWalk, queries: Sequence[Items], loss: Measure, asked: Measure,
        bar: Any, cosine: bool,
    ) -> Tensor:  # fmt: skip
        held: list[Factors] = []
        rows: list[Tensor] = []
        for items in queries:
            for _, found in self.factors(gradients, items, asked):
                held.append(found)
                if sum(q.n for q in held) * sum(math.prod(s) for s in found.shapes.values()) > _QUERIES:
                    rows.append(self._against(gradients, walk, held, loss, bar, cosine))
                    held = []
        if held:
            rows.append(self._against(gradients, walk, held, loss, bar, cosine))
        return torch.cat(rows)

    def _against(
        self, gradients: SampleGradients, walk: ItemWalk, held: Sequence[Factors], loss: Measure, bar: Any, cosine: bool
    ) -> Tensor:
        asked = merged(held)
        lengths = asked.squares().sqrt() if cosine else None
        columns = []
        for items in walk:
            for _, found in self.factors(gradients, items, loss):
                part = found.dots(asked)
                if lengths is not None:
                    part = part / (found.squares().sqrt()[:, None] * lengths).clamp_min(torch.finfo(part.dtype).tiny)
                columns.append(part.cpu())
                bar.update(found.n)
        return torch.cat(columns).T.contiguous()

    def reduced(
        self,
        walk: ItemWalk,
        measure: Measure,
        make: Callable[[Factors, float], Tensor],
        *,
        progress: bool | None = None,
        inner: Callable[[list[Tensor]], Tensor] = sum,  # type: ignore[assignment]
    ) -> Tensor:
        """What a function makes of every item's gradients (N, ...), put together over the checkpoints.

        Args:
            walk: the items.
            measure: what of them is differentiated.
            make: (gradients, learning rate) -> (B, ...).
            progress: None: a bar for long work.
            inner: how checkpoints are put together: their sum, or side by side.
        """
        per: list[Tensor] = []
        self.checks = Checks()
        bar = progress_bar(
            (walk.size or 0) * len(self.checkpoints), "influence", self.progress if progress is None else progress
        )
        try:
            for checkpoint in self.checkpoints:
                with self.at(checkpoint) as (gradients, lr):
                    rows = []
                    for items in walk:
                        for _, found in self.factors(gradients, items, measure):
                            rows.append(make(found, lr).cpu())
                            bar.update(found.n)
                    per.append(torch.cat(rows))
        finally:
            bar.close()
        return inner(per)


def size_of(found: Factors) -> int:
    """Elements that the factors of a batch take."""
    total = 0
    for parts in found.parts.values():
        for part in parts:
            tensors = (
                (part.a, part.d) if isinstance(part, Outer) else (part.d,) if isinstance(part, LookedUp) else (part.g,)
            )
            total += sum(t.numel() for t in tensors)
    return total
