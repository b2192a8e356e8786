"""`Worker`: a thread that does one piece of work after another, and is never waited for.

It is a daemon: a process that ends does not wait for a map that nobody will see. What it works on is asked to stop
(`core/cancel.py`) when the worker is closed, when its owner is gone, and when the process ends.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import queue
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from typing import TypeVar

from interp_plugins.core.cancel import Cancelled, cancellable

T = TypeVar("T")
_GRACE = 2.0  # seconds that a process which ends gives running passes, so that no thread dies inside one


def tell_trace() -> None:
    """Print the exception that is being handled, whatever its text holds (a lone surrogate cannot be encoded)."""
    with contextlib.suppress(OSError, ValueError):  # no stream, or a closed one
        print(traceback.format_exc().encode("utf-8", "backslashreplace").decode(), file=sys.stderr)


class _Line:
    """The work of one thread; the thread holds this alone, not its owner."""

    def __init__(self) -> None:
        self.work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.closed = False

    def close(self) -> None:
        """Nothing that waits begins any more, and what runs is asked to stop."""
        self.closed = True
        self.work.put(None)

    def run(self) -> None:
        """Do what comes, until closed."""
        while True:
            work = self.work.get()
            if work is None or self.closed:
                return
            try:
                with cancellable(lambda: self.closed):
                    work()
            except Cancelled:
                pass
            except BaseException:  # the thread is needed for what comes next
                tell_trace()
            del work  # it may hold the owner


class Worker:
    """A daemon thread with a line of work, started at the first piece.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str):
        self.name, self._line = name, _Line()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        weakref.finalize(self, self._line.close)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._line.closed

    def submit(self, work: Callable[[], None]) -> None:
        """Add a piece of work, which must not raise; a closed worker does nothing."""
        with self._starting:
            if self._thread is None and not self.closed:
                self._thread = threading.Thread(target=self._line.run, name=self.name, daemon=True)
                self._thread.start()
                _THREADS[self._thread] = self._line
        self._line.work.put(work)

    async def result(self, work: Callable[[], T]) -> T:
        """What a piece of work gives (or raises), without blocking the event loop of the caller."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def tell(how: Callable[[], object]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(lambda: None if future.done() else how())

        def run() -> None:
            try:
                found = work()
            except Cancelled:
                tell(future.cancel)
                raise
            except BaseException as error:
                problem = error  # the name of an `except` ends with it
                tell(lambda: future.set_exception(problem if isinstance(problem, Exception) else _told(problem)))
            else:
                tell(lambda: future.set_result(found))

        if self.closed:
            raise RuntimeError(f"The worker {self.name!r} is closed.")
        self.submit(run)
        return await future

    def close(self) -> None:
        """End the worker: what waits does not begin, what runs is asked to stop before its next pass."""
        self._line.close()


def _told(error: BaseException) -> RuntimeError:
    """An exit or an interrupt that a model raised, as an error."""
    return RuntimeError(f"{type(error).__name__}: {error}")


_THREADS: weakref.WeakKeyDictionary[threading.Thread, _Line] = weakref.WeakKeyDictionary()


@atexit.register
def _end() -> None:
    """Ask all work to stop, and give the pass that runs a moment to end."""
    threads = list(_THREADS.items())
    for _, line in threads:
        line.close()
    until = time.monotonic() + _GRACE
    for thread, _ in threads:
        thread.join(timeout=max(0.0, until - time.monotonic()))
