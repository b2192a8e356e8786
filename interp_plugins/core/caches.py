"""What is remembered of a model: while it is frozen, and for as long as it lives.

The outermost `frozen` opens the scope. Plans, checked once and used by all methods of one call, do not outlive it: the
weights may change then. What can be checked again, or does not depend on weights, is kept until the model goes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

_of_models: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()
_held: ContextVar[tuple[dict[Any, Any], dict[Any, Any]] | None] = ContextVar("interp_plugins_scope", default=None)


def call_cache() -> dict[Any, Any]:
    """The scope's memory; outside of any scope an empty one that nobody keeps."""
    held = _held.get()
    return {} if held is None else held[0]


def model_cache() -> dict[Any, Any]:
    """The memory of the model that the scope was opened for; the scope's own where there is no model."""
    held = _held.get()
    return {} if held is None else held[1]


@contextlib.contextmanager
def cache_scope(owner: Any = None) -> Iterator[None]:
    """Open a scope for an owner, the model, unless one is open."""
    if _held.get() is not None:
        yield
        return
    token = _held.set(({}, {} if owner is None else _of_models.setdefault(owner, {})))
    try:
        yield
    finally:
        _held.reset(token)
