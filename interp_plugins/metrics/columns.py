"""What `evaluate` judges by: metrics by name, with parameters, or as objects; which of them where none is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.tensors import describe
from interp_plugins.metrics.accumulate import Metric
from interp_plugins.metrics.registry import MetricInfo, metric_info

ALWAYS = ("srg", "gini_index")
WITH_MASKS = ("relevance_mass", "mask_auc", "pointing_game")
WITH_TRUTH = ("truth_rank", "truth_auc")


@dataclass(frozen=True)
class Column:
    """A metric with its parameters, as a column of `Scores`.

    Attributes:
        label: the metric's name, with its parameters where it stands there several times.
        name: of the metric.
        params: its parameters.
    """

    label: str
    name: str
    params: Mapping[str, Any]

    @property
    def info(self) -> MetricInfo:
        """What the registry knows of the metric."""
        return metric_info(self.name)

    def made(self, seed: int) -> Metric:
        """A fresh metric; it draws by `seed` where nothing else was said."""
        own = {} if seed == 0 or "seed" not in self.info.parameters else {"seed": seed}
        return Metric(self.name, **{**own, **self.params})


def columns_of(metrics: Any, *, masks: bool = False, truth: bool = False) -> list[Column]:
    """Metrics in any form, as columns.

    Args:
        metrics: a name, a `Metric`, (name, parameters), several of these, or a mapping name -> parameters; None or
            "default": `srg` and `gini_index`, and where masks or truth are given those that need them.
        masks: whether there are masks.
        truth: whether the truth is known.

    Raises:
        InputError: none, or one twice.
        InputTypeError: something else.
        UnknownNameError: a metric or a parameter that there is not.
    """
    if metrics is None or (isinstance(metrics, str) and metrics == "default"):
        metrics = (*ALWAYS, *WITH_MASKS * masks, *WITH_TRUTH * truth)
    if isinstance(metrics, (str, Metric)) or _is_pair(metrics):
        metrics = [metrics]
    if isinstance(metrics, Mapping):
        metrics = [(name, params or {}) for name, params in metrics.items()]
    if not isinstance(metrics, Sequence):
        raise InputTypeError(
            "metrics must be a name, a metric(...), (name, parameters), a list of these, or a mapping name -> "
            f"parameters; got {describe(metrics)}."
        )
    many = [_one(given) for given in metrics]
    if not many:
        raise InputError("metrics is empty; name at least one (list_metrics()), or None for the default.")
    several = {name for name, k in Counter(name for name, _ in many).items() if k > 1}
    found = [Column(_label(name, params) if name in several else name, name, params) for name, params in many]
    twice = [label for label, k in Counter(c.label for c in found).items() if k > 1]
    if twice:
        raise InputError(f"The metric {twice[0]} is asked for twice, with the same parameters.")
    for column in found:
        _check(column)
    return found


def _check(column: Column) -> None:
    column.made(0)  # unknown parameters are said here
    if column.info.needs == "pair":
        raise InputError(
            f"{column.name} compares two maps of each sample, and methods are judged one by one: "
            "agreement_matrix(exps, measure) compares every two of several."
        )


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], Mapping)


def _one(given: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(given, Metric):
        return given.name, dict(given.params)
    if isinstance(given, str):
        return metric_info(given).name, {}
    if _is_pair(given):
        return metric_info(given[0]).name, dict(given[1])
    raise InputTypeError(f"A metric is a name, a metric(...) or (name, parameters), got {describe(given)}.")


def _label(name: str, params: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in params.items())})" if params else name
