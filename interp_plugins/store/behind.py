"""Work that a thread does behind the rest: one thing after the other, in order, and never more than one at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Behind(Generic[T, R]):
    """Does in a thread what is handed to it, while the caller goes on; a context manager.

    At its end, also after an error or Ctrl-C, what was handed over is finished first.

    Args:
        work: what is done, in the thread.
        done: is told what was handed over and what came of it, in the caller's thread.
    """

    def __init__(self, work: Callable[[T], R], done: Callable[[T, R], object]):
        self._work, self._done = work, done
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="interp-plugins-behind")
        self._last: tuple[T, Future[R]] | None = None

    def __enter__(self) -> Behind[T, R]:
        return self

    def hand(self, one: T) -> None:
        """Hand something over, as soon as what was handed over before is done.

        Raises:
            Exception: what went wrong with that.
        """
        self._settle()
        self._last = one, self._pool.submit(self._work, one)

    def look(self) -> None:
        """Raise what went wrong with what was handed over last, if it has."""
        if self._last is not None and self._last[1].done():
            self._settle()

    def _settle(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            self._done(last[0], last[1].result())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._settle()
        finally:
            self._pool.shutdown()
