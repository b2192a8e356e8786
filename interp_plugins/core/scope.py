"""What is remembered while a model is frozen: plans, checked once and used by all methods of one call.

The outermost `frozen` opens the scope, so nothing outlives the moment in which the weights cannot change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

_held: ContextVar[dict[Any, Any] | None] = ContextVar("interp_plugins_scope", default=None)


def remembered() -> dict[Any, Any]:
    """The scope's memory; outside of any scope an empty one that nobody keeps."""
    held = _held.get()
    return {} if held is None else held


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Open a scope, unless one is open."""
    if _held.get() is not None:
        yield
        return
    token = _held.set({})
    try:
        yield
    finally:
        _held.reset(token)
