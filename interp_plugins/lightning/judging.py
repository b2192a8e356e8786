"""Numbers of metrics beside the pictures: how good the maps are while the model trains, within a limit of rows."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from interp_plugins.api.asking import AskedBatch, ask_once
from interp_plugins.api.callbacks import check_count
from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.placement import moved
from interp_plugins.lightning.batch import ModelInput
from interp_plugins.lightning.run import as_function
from interp_plugins.lightning.subject import ExplainedModule
from interp_plugins.metrics.columns import Column, columns_of
from interp_plugins.metrics.registry import ASKING, REPEATING
from interp_plugins.metrics.sheet import shared_rows

BUDGET = 1000
_TAKEN = ("maps", "order", "scores")


class Judging:
    """Metrics that a callback computes of its maps.

    Args:
        metrics: names, (name, parameters), `metric(...)` objects, or a mapping name -> parameters; None: none.
        budget: rows that one run may send through the model for them.
        seed: of all draws.

    Raises:
        InputError: a metric that needs masks or truth, or asks the method again.
    """

    def __init__(self, metrics: Any, budget: int, seed: int):
        check_count("metric_budget", budget, 0)
        self.columns: list[Column] = [] if metrics is None else columns_of(metrics)
        self.budget, self.seed, self._said = budget, seed, False
        for column in self.columns:
            if column.info.needs not in _TAKEN:
                why = "asks the method again" if column.info.needs in REPEATING else f"needs {column.info.needs}"
                raise InputError(
                    f"{column.name} {why}, which a callback does not: call interp_plugins.evaluate(model, loader, ...) "
                    "on the trained model."
                )

    @property
    def names(self) -> tuple[str, ...]:
        """What is logged beside the other numbers."""
        return tuple(column.label for column in self.columns)

    def found(
        self,
        exps: Explanations,
        subject: ExplainedModule,
        sample: ModelInput,
        *,
        context: AbstractContextManager[Any] | None = None,
        target: Any = None,
        output: Any = None,
        batch_size: int | None = None,
    ) -> list[dict[str, float]]:
        """Means and intervals of every metric, an entry per explanation: `name`, `name_ci_low`, `name_ci_high`.

        Args:
            exps: what was found of the samples.
            subject: the module that was explained.
            sample: the samples.
            context: in which the module runs (autocast); None: as it is.
            target: what was asked, where it is no class.
            output: which part of the output was explained.
            batch_size: rows per pass.
        """
        if not self.columns:
            return [{} for _ in exps]
        asking = any(column.info.needs in ASKING for column in self.columns)
        with context or contextlib.nullcontext():
            asked = [_asked(exp, subject, sample, target, output, self.seed) if asking else None for exp in exps]
            n = self._affordable(exps, asked, batch_size) if asking else len(exps[0])
            with shared_rows():
                return [self._of(exp, one, n, batch_size) for exp, one in zip(exps, asked)]

    def _affordable(self, exps: Explanations, asked: Sequence[AskedBatch | None], batch_size: int | None) -> int:
        """For how many samples the budget lasts; it is said once where that is not all."""
        with shared_rows(dry_run=True) as counted:
            for exp, one in zip(exps, asked):
                self._of(exp, one, len(exp), batch_size)
        total, n = counted.rows, len(exps[0])
        found = n if total <= self.budget else self.budget * n // total
        if found < n and not self._said:
            self._said = True
            warnings.warn(
                f"The metrics ask {total} rows for {n} samples, and metric_budget={self.budget}: those that ask the "
                f"model judge {found} of them. Raise metric_budget, or give fewer metrics, methods or steps.",
                InterpWarning,
                stacklevel=2,
            )
        return found

    def _of(self, exp: Explanation, asked: AskedBatch | None, n: int, batch_size: int | None) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for column in self.columns:
            part, given = exp, {}
            if column.info.needs in ASKING:
                if n == 0 or asked is None:
                    continue
                part = exp if n == len(exp) else exp[:n]
                inner = asked.asked.target.at(torch.arange(n)) if n < len(exp) else asked.asked.target
                given = {"model": asked.func, "target": inner}
                if batch_size is not None and "batch_size" in column.info.parameters:
                    given["batch_size"] = batch_size
            score = column.made(self.seed).of(part, ids=list(range(len(part))), **given)
            low, high = score.ci()
            values = {column.label: score.mean, f"{column.label}_ci_low": low, f"{column.label}_ci_high": high}
            numbers |= {name: value for name, value in values.items() if math.isfinite(value)}
        return numbers


def _asked(
    exp: Explanation, subject: ExplainedModule, sample: ModelInput, target: Any, output: Any, seed: int
) -> AskedBatch:
    """The module as metrics ask it, and what was explained of it."""
    if sample.sizes is not None:
        raise InputError("Metrics that ask the model need pictures of one size.")
    with torch.inference_mode(False), torch.no_grad():
        inputs = tuple(x.to(subject.device) for x in sample.inputs)
        more: Mapping[str, Any] = moved(dict(sample.kwargs), subject.device)
    classes = None if exp.target is None else torch.tensor(exp.target)
    return ask_once(
        as_function(subject.module, sample),
        inputs if len(inputs) > 1 else inputs[0],
        target if classes is None else classes,
        forward_kwargs=more or None,
        output=output,
        input_spec=exp.spec,
        seed=seed,
    )
