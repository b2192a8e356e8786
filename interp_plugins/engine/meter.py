"""What ran faster in a call, and what was left to the plain model and why: short texts for `Explanation.meta`.

    {"used": ["planned: folded 36, channels-last, first layer out of the loop, winograd 13"],
     "dropped": ["incremental: hooks on layer3"]}

They go through `core.report`, so they cost a look-up where nobody collects. A reason is told where something faster was
in question; methods that never ask for it leave both lists empty.
"""

from __future__ import annotations

import warnings
from typing import Any

from interp_plugins.core.batching import is_out_of_memory
from interp_plugins.core.caches import model_cache
from interp_plugins.core.errors import AccelerationWarning, OutOfMemoryError
from interp_plugins.core.report import current

# What a model's own code may raise when it is copied, traced, or run on one row or piece by piece.
EXPECTED = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)
# What it may raise there when our own code calls it piece by piece: shapes and types that do not fit together.
PIECE_BY_PIECE = (RuntimeError, ValueError, TypeError)
_LONGEST = 120  # characters of an exception's text

Meter = dict[str, list[str]]


def used(what: str, how: str = "") -> None:
    """Note that something faster ran, and how."""
    _tell("used", what, how)


def dropped(what: str, why: str) -> None:
    """Something faster was in question, and the plain model did its work."""
    _tell("dropped", what, why)


def read(report: Any) -> Meter:
    """What was told while a report was collected, in lists of its own."""
    found = report.get("engine", {})
    return {kind: list(found.get(kind, ())) for kind in ("used", "dropped")}


def _tell(kind: str, what: str, text: str) -> None:
    report = current()
    if report is None:
        return
    listed = report.setdefault("engine", {"used": [], "dropped": []})[kind]
    line = f"{what}: {text}" if text else what
    if line not in listed:
        listed.append(line)


def ran_out(error: BaseException) -> bool:
    """Whether memory ran out: that says nothing of the model, so it is never remembered of it."""
    return isinstance(error, OutOfMemoryError) or is_out_of_memory(error)


def reason(error: Exception, what: str, expected: tuple[type[Exception], ...] = EXPECTED) -> str:
    """What to say of an exception that ended an acceleration; with a warning, if it was none of those expected.

    Args:
        error: what was raised.
        what: the acceleration, which the warning names.
        expected: what may be raised where nothing is wrong with the acceleration.
    """
    if ran_out(error):
        return "memory ran out"
    lines = str(error).strip().splitlines() or [""]
    text = type(error).__name__ + (f": {lines[0][:_LONGEST]}" if lines[0] else "")
    if not isinstance(error, expected):
        told: set[str] = model_cache().setdefault("acceleration warnings", set())
        if what not in told:
            told.add(what)
            warnings.warn(
                f"{what} raised {text}. The plain model does its work, so the result is right, and slower; "
                "acceleration(False) leaves the attempt out. Please report this.",
                AccelerationWarning,
                stacklevel=2,
            )
    return text


def percent(share: float) -> str:
    """A share as a short text: in per cent, above 100 % in times."""
    return (
        f"{100 * share:.2g} %" if share == share and share < 100 else f"{share:.2g} times" if share == share else "NaN"
    )
