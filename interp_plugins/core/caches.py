"""What is remembered of a model: while it is frozen, and for as long as it lives.

The outermost `frozen` opens the scope. Plans, checked once and used by all methods of one call, do not outlive it: the
weights may change then. What can be checked again, or does not depend on weights, is kept until the model goes.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class ByIdentity(Generic[V]):
    """Something per object, for as long as the object lives; equality and hashes of the objects play no part."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[weakref.ref[Any], V]] = {}

    def get(self, owner: Any, new: V) -> V:
        """What belongs to an object: `new`, unless something else was there before."""
        held, key = self._held, id(owner)
        try:
            mine = (weakref.ref(owner, lambda gone: held.pop(key, None)), new)
        except TypeError:  # no weak references to it
            return new
        return held.setdefault(key, mine)[1]  # one step, whatever other threads do


_of_models: ByIdentity[dict[Any, Any]] = ByIdentity()
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
    token = _held.set(({}, {} if owner is None else _of_models.get(owner, {})))
    try:
        yield
    finally:
        _held.reset(token)


@contextlib.contextmanager
def own_scope() -> Iterator[None]:
    """Open a scope that knows nothing of the one around it, and leaves nothing behind: for a model that was changed."""
    token = _held.set(({}, {}))
    try:
        yield
    finally:
        _held.reset(token)
