"""The registry of metrics: one decorator that says all that is known of a metric, and one look-up that reads it.

`register_metric` stands above a metric's function; the table of docs/metrics.md, `metric`, and the tests that hold for
every metric read it from here. A metric of one's own is one file with one decorator.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from interp_plugins.core.errors import unknown

F = TypeVar("F", bound=Callable[..., Any])

KINDS = ("faithfulness", "localisation", "truth", "complexity", "agreement")
NEEDS = {
    "maps": "the maps alone",
    "masks": "maps, and where the thing lies",
    "truth": "maps, and what is true of the elements",
    "pair": "two maps of each sample",
    "order": "the model, asked about rows that follow the map",
}


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
        cost: forward passes per sample; K is `steps`. "0" for what asks no model.
        says: the formula in a few words.
        options: keyword arguments that the function hands on to an engine.
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

    @functools.cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the keyword-only parameters, and of the options."""
        found = inspect.signature(self.function).parameters.values()
        return (*(p.name for p in found if p.kind is p.KEYWORD_ONLY), *self.options)


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
        kind: only those that judge this: "faithfulness", "localisation", "truth", "complexity", "agreement".
        needs: only those that take this: "maps", "masks", "truth", "pair", "order".

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
