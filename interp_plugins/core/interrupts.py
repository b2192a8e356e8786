"""Ctrl-C while a model is being changed or put back is held until that is done.

A handler of a signal runs between two instructions of the main thread, wherever it is, and the KeyboardInterrupt that
it raises may fall into the middle of putting a model back. While a model is frozen, signals with a handler in Python
(SIGINT, and SIGTERM and SIGALRM where somebody set one) are looked at first: between the passes they go on at once;
inside the beginning or end of a `with` block of ours they wait for the next pass, or for the end.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name))
# `signal.signal` makes enumerations of what it gets and gives, which takes longer than setting.
_set: Callable[[int, Any], Any] = getattr(sys.modules.get("_signal"), "signal", signal.signal)
_get: Callable[[int], Any] = getattr(sys.modules.get("_signal"), "getsignal", signal.getsignal)
_manager: Any = contextlib._GeneratorContextManager
_HELD_IN: set[CodeType] = {_manager.__enter__.__code__, _manager.__exit__.__code__}


class _Watch:
    """What is known while handlers are ours: those of before, how deep the stack was, what waits."""

    def __init__(self) -> None:
        self.before: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self.depth = 0
        self.waiting: list[int] = []

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.in_between(frame):
            self.waiting.append(number)
        else:
            self.before[number](number, frame)

    def in_between(self, frame: FrameType | None) -> bool:
        """Whether a `with` block of ours is beginning or ending on the stack, above where the watch began."""
        codes = []
        while frame is not None:
            codes.append(frame.f_code)
            frame = frame.f_back
        return any(code in _HELD_IN for code in codes[: max(0, len(codes) - self.depth)])

    def begin(self, depth: int) -> None:
        self.depth = depth
        for number in _SIGNALS:
            handler = _get(number)
            if callable(handler) and getattr(handler, "__func__", None) is not _Watch.handle:
                self.before[number] = handler
                _set(number, self.handle)

    def end(self) -> None:
        for number, handler in self.before.items():
            if getattr(_get(number), "__self__", None) is self:  # nobody set another one meanwhile
                _set(number, handler)


_watch: _Watch | None = None


def held_in(function: Any) -> Any:
    """Decorator: what puts things back and is no `with` block; a signal inside waits."""
    _HELD_IN.add(function.__code__)
    return function


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Signals wait where a model is being changed or put back, for the length of a `with` block."""
    global _watch
    if _watch is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch()
    try:
        _watch = watch
        watch.begin(_depth())
        yield
    finally:
        _watch = None
        watch.end()
        for number in watch.waiting:
            watch.before[number](number, sys._getframe())


def deliver() -> None:
    """Let a signal that waits have its way: here nothing is half done."""
    watch = _watch
    if watch is not None and watch.waiting and threading.current_thread() is threading.main_thread():
        number = watch.waiting.pop(0)
        watch.before[number](number, sys._getframe())


def _depth() -> int:
    """How many frames lie below the `with` statement that opens a block (this function and two managers above it)."""
    frame: FrameType | None = sys._getframe()
    count = 0
    while frame is not None and (
        frame.f_code in _HELD_IN
        or frame.f_globals.get("__name__") in _OURS
        or (frame.f_back is not None and frame.f_back.f_code in _HELD_IN)  # a manager that begins with ours
    ):
        frame = frame.f_back
    while frame is not None:
        count, frame = count + 1, frame.f_back
    return count


_OURS = (__name__, "interp_plugins.core.guard")
