"""Stopping work from outside: whoever waits for a result says when it is not wanted any more, and loops ask.

Every pass of a model and every chunk of a loop asks first (`core/forward.py`, `core/batching.py`), so a method that is
not wanted any more ends before its next pass, and everything that it changed is put back on the way out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_asked: ContextVar[Callable[[], bool] | None] = ContextVar("interp_plugins_cancel", default=None)


class Cancelled(BaseException):
    """The result is not wanted any more. No `Exception`, so that nothing which works around errors goes on."""


@contextlib.contextmanager
def cancellable(unwanted: Callable[[], bool]) -> Iterator[None]:
    """Let what runs in a `with` block end by `Cancelled` as soon as `unwanted()` is true; blocks may be nested.

    Args:
        unwanted: whether the result is not wanted any more; called often, from the thread that works.

    Example:
        with cancellable(lambda: False):
            Saliency(model).attribute(x, target=0)
    """
    outer = _asked.get()
    token = _asked.set(unwanted if outer is None else lambda: outer() or unwanted())
    try:
        yield
    finally:
        _asked.reset(token)


def check_cancelled() -> None:
    """End here if the result is not wanted any more.

    Raises:
        Cancelled: it is not.
    """
    unwanted = _asked.get()
    if unwanted is not None and unwanted():
        raise Cancelled
