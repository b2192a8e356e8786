"""What is remembered while a model is frozen: plans, checked once and used by all methods of one call.

The outermost `frozen` opens the scope, so nothing outlives the moment in which the weights cannot change; but the chunk
sizes that fitted into memory are kept for as long as the model lives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

_fits: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()
_held: ContextVar[dict[Any, Any] | None] = ContextVar("interp_plugins_scope", default=None)


def remembered() -> dict[Any, Any]:
    """The scope's memory; outside of any scope an empty one that nobody keeps."""
    held = _held.get()
    return {} if held is None else held


@contextlib.contextmanager
def remembering(owner: Any = None) -> Iterator[None]:
    """Open a scope, unless one is open; what fitted into memory is kept with the owner, the model."""
    if _held.get() is not None:
        yield
        return
    held = dict(_fits.get(owner, {})) if owner is not None else {}
    token = _held.set(held)
    try:
        yield
    finally:
        _held.reset(token)
        fits = {key: value for key, value in held.items() if key[0] == "fits"}
        if owner is not None and fits:
            _fits[owner] = fits
