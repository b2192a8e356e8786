"""The registry of metrics: one decorator that says all that is known of a metric, and one look-up that reads it.

`register_metric` stands above a metric's function; the table of docs/metrics.md, `metric`, and the tests that hold for
every metric read it from here. A metric of one's own is one file with one decorator.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from interp_plugins.core.errors import unknown

Record = tuple[int, Any]  # of a sample: its class, and what its map is compared by
F = TypeVar("F", bound=Callable[..., Any])
Rows = Callable[[int, tuple[int, int], Mapping[str, Any]], tuple[int, int]]

KINDS = ("faithfulness", "robustness", "localisation", "truth", "complexity", "randomisation", "axioms", "agreement")
NEEDS = {
    "maps": "the maps alone",
    "masks": "maps, and where the thing lies",
    "truth": "maps, and what is true of the elements",
    "pair": "two maps of each sample",
    "order": "the model, asked about rows that follow the map",
    "scores": "the model, asked about rows that are the same for every map",
    "dataset": "the model, and all samples of the data set",
    "explainer": "the method, asked again",
    "weights": "the method, asked again of a model with random weights",
}


ASKING = ("order", "scores", "dataset", "explainer", "weights")  # these take (model, inputs, maps)
GIVEN = {"masks": "masks", "truth": "truth", "pair": "other", **dict.fromkeys(ASKING, "model")}
REPEATING = ("explainer", "weights")  # these take `explain=` as well, how maps are made


@dataclass(frozen=True)
class MetricInfo:
    """What the registry knows of a metric.

    Attributes:
        name: canonical snake_case name, that of the function.
        function: maps (and what it needs) -> float64 (N,).
        kind: of `KINDS`: what is judged.
        needs: of `NEEDS`: what the function takes before its parameters.
        higher_is_better: direction; None where neither end is better.
        chance: what a map without knowledge gets in the mean: a number, a function of the metric's own arguments that
            gives it per sample, or None where it depends on the maps.
        chance_text: the same in words, for tables.
        scale_invariant: a map times a positive number gets the same value.
        sign_invariant: a map times -1 gets the same value.
        reference: paper or source.
        cost: forward passes per sample; K is `steps`, E what one map costs. "0" for what asks no model.
        says: the formula in a few words.
        options: keyword arguments that the function hands on to an engine.
        rows: of what asks a method again: (number of samples, rows of one map forward and backward, parameters) -> rows
            forward and backward in all; None: as `cost` says.
        direction: parameters -> `higher_is_better`, where they decide; None: as it is.
        versions: what else decides the numbers, and its version.
        record: of what needs a data set: ((model, inputs, maps, baselines), parameters) -> what is kept per sample.
        compare: of what needs a data set: (records of all samples, parameters) -> values, and why there are none.
    """

    name: str
    function: Callable[..., Any]
    kind: str
    needs: str
    higher_is_better: bool | None
    chance: float | Callable[..., Any] | None
    chance_text: str
    scale_invariant: bool
    sign_invariant: bool
    reference: str
    cost: str
    says: str
    options: tuple[str, ...] = ()
    rows: Rows | None = None
    direction: Callable[[Mapping[str, Any]], bool] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    record: Callable[..., list[Record | None]] | None = None
    compare: Callable[..., tuple[list[float], list[str | None]]] | None = None

    @functools.cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the keyword-only parameters, and of the options, each once."""
        found = inspect.signature(self.function).parameters.values()
        return tuple(dict.fromkeys([*(p.name for p in found if p.kind is p.KEYWORD_ONLY), *self.options]))


_METRICS: dict[str, MetricInfo] = {}


def register_metric(
    name: str,
    *,
    kind: str,
    needs: str,
    higher_is_better: bool | None,
    chance: float | Callable[..., Any] | None = None,
    chance_text: str = "",
    scale_invariant: bool = True,
    sign_invariant: bool = False,
    reference: str,
    cost: str = "0",
    says: str,
    options: tuple[str, ...] = (),
    rows: Rows | None = None,
    direction: Callable[[Mapping[str, Any]], bool] | None = None,
    versions: Mapping[str, str] | None = None,
    record: Callable[..., list[Record | None]] | None = None,
    compare: Callable[..., tuple[list[float], list[str | None]]] | None = None,
) -> Callable[[F], F]:
    """Function decorator: make a metric known by name; `MetricInfo` documents the arguments.

    Raises:
        UnknownNameError: a kind or a need that there is not.
        ValueError: a name that another metric has.
    """
    if kind not in KINDS:
        raise unknown("kind of metric", kind, KINDS)
    if needs not in NEEDS:
        raise unknown("need of a metric", needs, NEEDS)

    def add(function: F) -> F:
        known = _METRICS.get(name)
        if known is not None and (known.function.__module__, known.function.__qualname__) != (
            function.__module__,
            function.__qualname__,
        ):
            raise ValueError(f"The name {name!r} already belongs to the metric of {known.function.__module__}.")
        text = chance_text or ("depends on the maps" if chance is None else f"{chance:g}" if _number(chance) else "")
        _METRICS[name] = MetricInfo(
            name,
            function,
            kind,
            needs,
            higher_is_better,
            chance,
            text,
            scale_invariant,
            sign_invariant,
            reference,
            cost,
            says,
            options,
            rows,
            direction,
            dict(versions or {}),
            record,
            compare,
        )
        return function

    return add


def _number(value: Any) -> bool:
    return isinstance(value, (int, float))


def metric_info(name: str) -> MetricInfo:
    """What is registered under a name.

    Raises:
        UnknownNameError: an unknown name, with the nearest known ones.

    Example:
        metric_info("gini_index").kind  # -> 'complexity'
    """
    found = _METRICS.get(name.lower().replace("-", "_").replace(" ", "_") if isinstance(name, str) else name)
    if found is None:
        raise unknown("metric", name, sorted(_METRICS))
    return found


def list_metrics(*, kind: str | None = None, needs: str | None = None) -> list[str]:
    """Names of the registered metrics, sorted.

    Args:
        kind: only those that judge this: "faithfulness", "robustness", "localisation", "truth", "complexity",
            "randomisation", "axioms", "agreement".
        needs: only those that take this: "maps", "masks", "truth", "pair", "order", "scores", "dataset",
            "explainer", "weights".

    Raises:
        UnknownNameError: a kind or a need that there is not.

    Example:
        list_metrics(kind="truth")[0]  # -> 'impossible_mass'
    """
    if kind is not None and kind not in KINDS:
        raise unknown("kind of metric", kind, KINDS)
    if needs is not None and needs not in NEEDS:
        raise unknown("need of a metric", needs, NEEDS)
    return sorted(m.name for m in _METRICS.values() if kind in (None, m.kind) and needs in (None, m.needs))
