"""`MetricWatch`: how good the maps are while a model trains, within a limit of rows.

The callbacks of all frameworks stand on it. They explain, and hand over their samples with the maps as the core gave
them; what is found is what `interp_plugins.evaluate` finds of the same samples, on the same draws and baseline.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from interp_plugins.api.asking import AskedBatch, Given, ask_each, asked_of_rows
from interp_plugins.api.callbacks import check_count
from interp_plugins.api.samples import SampleBatch
from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.tensors import as_tuple, like
from interp_plugins.metrics.columns import Column, columns_of
from interp_plugins.metrics.evaluation import Evaluation
from interp_plugins.metrics.maps import Mapped, asked_of, references_of
from interp_plugins.metrics.registry import ASKING, REPEATING
from interp_plugins.metrics.sheet import shared_rows

BUDGET = 1000
_TAKEN = ("maps", "order", "scores")

Watched = tuple[SampleBatch, Explanations]  # samples, and an explanation per method and target as `explain` gave them


@dataclass(frozen=True)
class _Part:
    """Samples with their maps, and what is asked of them, target by target; None where nothing is asked."""

    batch: SampleBatch
    exps: Explanations
    asked: Sequence[AskedBatch] | None


class MetricWatch:
    """Metrics that a callback computes of its maps, run after run.

    Args:
        metrics: names, (name, parameters), `metric(...)` objects, or a mapping name -> parameters; None: none.
        budget: rows that the metrics of one run may send through the model.
        seed: of all draws.

    Raises:
        InputError: a metric that needs masks or truth, or asks the method again; a budget that is no number of rows.
        UnknownNameError: a metric or a parameter that there is not.

    Example:
        from interp_plugins.api.samples import SampleBatch
        from interp_plugins.metrics.watching import MetricWatch

        exps = explain(model, x, "saliency")
        MetricWatch("entropy", budget=0, seed=0).numbers([(SampleBatch(model, x, (0, 1)), exps)])[0]["entropy"] > 0
    """

    def __init__(self, metrics: Any, budget: int, seed: int):
        check_count("metric_budget", budget, 0)
        self.columns: list[Column] = [] if metrics is None else columns_of(metrics)
        self.budget, self.seed, self._said = budget, seed, False
        for column in self.columns:
            if column.info.needs not in _TAKEN:
                repeats = column.info.needs in REPEATING
                why = "asks the method again, which a callback does not"
                why = why if repeats else f"needs {column.info.needs}, which a callback does not have"
                raise InputError(
                    f"{column.name} {why}: call interp_plugins.evaluate(model, loader, ...) "
                    "or learn.evaluate_explanations(...) on the trained model."
                )

    @property
    def names(self) -> tuple[str, ...]:
        """What is logged beside the other numbers."""
        return tuple(column.label for column in self.columns)

    def numbers(self, watched: Sequence[Watched], batch_size: int | None = None) -> list[dict[str, float]]:
        """Means and intervals of every metric, an entry per explanation: `name`, `name_ci_low`, `name_ci_high`.

        A number that is not defined is left out. Where the rows that are asked would be more than the budget, the
        metrics that ask the model judge the first so many samples, which is said once.

        Args:
            watched: the samples in one or several batches, each with the same methods and targets.
            batch_size: rows per pass; None: automatic.
        """
        found: list[dict[str, float]] = [{} for _ in watched[0][1]] if watched else []
        reading = [c for c in self.columns if c.info.needs not in ASKING]
        asking = [c for c in self.columns if c.info.needs in ASKING]
        if reading:
            self._into(found, reading, [_Part(*one, None) for one in watched], batch_size)
        if asking:
            parts = [_Part(*one, self._asked(one[0])) for one in watched]
            if few := self._affordable(asking, parts, batch_size):
                self._into(found, asking, few, batch_size)
        return found

    def _asked(self, batch: SampleBatch, target: Any = None) -> list[AskedBatch]:
        wanted = batch.target if target is None else target
        return ask_each(batch.model, batch.inputs, wanted, seed=self.seed, **asked_of(batch.options))

    def _affordable(self, columns: Sequence[Column], parts: list[_Part], batch_size: int | None) -> list[_Part]:
        """The first samples for which the budget lasts; it is said once where these are not all."""
        n = total = sum(len(part.batch) for part in parts)
        asked = rows = self._rows(columns, parts, batch_size)
        few = parts
        while n and rows > self.budget:
            n = min(n - 1, n * self.budget // rows)
            few = list(self._first(parts, n))
            rows = self._rows(columns, few, batch_size)
        if n < total and not self._said:
            self._said = True
            warnings.warn(
                f"The metrics ask {asked} rows for {total} samples, and metric_budget={self.budget}: those that ask "
                f"the model judge {n} of them. Raise metric_budget, or give fewer metrics, methods or steps.",
                InterpWarning,
                stacklevel=2,
            )
        return few

    def _first(self, parts: Iterable[_Part], n: int) -> Iterator[_Part]:
        """The first n samples; what is asked of them is what was asked of all."""
        for part in parts:
            size = len(part.batch)
            if n >= size:
                yield part
            elif n > 0:
                rows = list(range(n))
                same = [Given(asked_of_rows(one.asked, rows)) for one in part.asked or ()]
                batch = part.batch.rows(rows)
                yield _Part(batch, Explanations([exp[:n] for exp in part.exps]), self._asked(batch, same))
            n -= size

    def _rows(self, columns: Sequence[Column], parts: Sequence[_Part], batch_size: int | None) -> int:
        with shared_rows(dry_run=True) as counted:
            self._judged(columns, parts, batch_size)
        return counted.rows

    def _judged(self, columns: Sequence[Column], parts: Sequence[_Part], batch_size: int | None) -> Evaluation:
        made = Evaluation(
            None, [(c.name, dict(c.params)) for c in columns], seed=self.seed, options={"batch_size": batch_size}
        )
        for part in parts:
            for mapped in self._mapped(part):
                made.judge(mapped)
        return made

    def _mapped(self, part: _Part) -> Iterator[Mapped]:
        """The maps of each target with the model as metrics ask it; all maps together where they ask nothing."""
        named = list(zip(part.exps.labels, part.exps))
        if part.asked is None:
            yield Mapped(part.batch, None, dict(named), {}, None, {})
        for k, subject in enumerate(part.asked or ()):
            xs, given = as_tuple(subject.inputs), part.batch.options.get("baselines")
            references = references_of(given, xs, named[0][1].spec, subject.inputs, part.batch, self.seed)
            maps = {label: replace(exp, inputs=subject.inputs) for label, exp in named[k :: len(part.asked or ())]}
            yield Mapped(part.batch, subject, maps, {}, like(subject.inputs, references), {})

    def _into(
        self,
        found: list[dict[str, float]],
        columns: Sequence[Column],
        parts: Sequence[_Part],
        batch_size: int | None,
    ) -> None:
        scores = self._judged(columns, parts, batch_size).scores()
        for label, numbers in zip(parts[0].exps.labels, found, strict=True):
            for column in columns:
                score = scores[label, column.label]
                low, high = score.ci()
                values = {column.label: score.mean, f"{column.label}_ci_low": low, f"{column.label}_ci_high": high}
                numbers |= {name: value for name, value in values.items() if math.isfinite(value)}
