"""What a run reports beside its maps (passes used, error reached), collected without changing any return value.

Under "engine" stand the texts of `engine.meter`: what ran faster, and what was left to the plain model and why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

_current: ContextVar[dict[str, Any] | None] = ContextVar("interp_plugins_report", default=None)
_ADDED = ("forward_passes", "backward_passes", "compiled_rows")


@contextlib.contextmanager
def collect() -> Iterator[dict[str, Any]]:
    """Collect what the methods called inside report.

    Example:
        with collect() as report:
            IntegratedGradients(model).attribute(x, target=3, tol=0.01)
        report["map_error"], report["backward_passes"]
    """
    report: dict[str, Any] = {}
    token = _current.set(report)
    try:
        yield report
    finally:
        _current.reset(token)


def collecting() -> bool:
    """Whether anyone listens: for what is worth computing only then."""
    return _current.get() is not None


def current() -> dict[str, Any] | None:
    """The report that is being collected, if one is."""
    return _current.get()


def note(**facts: Any) -> None:
    """Report facts; passes add up over calls, other facts are replaced."""
    report = _current.get()
    if report is not None:
        for key, value in facts.items():
            report[key] = report.get(key, 0) + value if key in _ADDED else value
