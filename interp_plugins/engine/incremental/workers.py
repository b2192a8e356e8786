"""Threads that each run a piece of the rows on their own: no barrier after each of many small operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
P = TypeVar("P")


class Workers:
    """As many threads as torch has, on a CPU; started when needed and ended with the `with` block.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device):
        self.count = torch.get_num_threads() if device.type == "cpu" else 1
        self._pool: ThreadPoolExecutor | None = None

    def map(self, run: Callable[[P], T], pieces: Sequence[P]) -> list[T]:
        """Give run(piece) of every piece, in their order."""
        if self.count == 1 or len(pieces) < 2:
            return [run(piece) for piece in pieces]
        return list(self._threads().map(run, pieces))

    def one(self, run: Callable[[], T]) -> T:
        """Give run(), made in one of the threads: what it lays out for its number of threads fits `map`, too."""
        return run() if self.count == 1 else self._threads().submit(run).result()

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.count, initializer=torch.set_num_threads, initargs=(1,))
        return self._pool

    def end(self) -> None:
        """End the threads and give torch its own back."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
            torch.set_num_threads(self.count)  # the workers' setting reaches threads that start later
