"""One thread at a time for what models share: a claim on modules and weights, held while a model is frozen.

A model is explained under changed flags, hooks and buffers, which two threads cannot have at once. What is claimed are
all modules and parameters below a model, so that two wrappers of one network wait for each other, and so do models that
share a weight. A thread may claim again what it holds.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from interp_plugins.core.errors import InterpError
from interp_plugins.core.interrupts import deliver

_LOOK = 0.2  # seconds after which a waiting thread looks again: its turn may have come unnoticed
_table = threading.Lock()
_owners: dict[int, Claim] = {}  # by the id of what is claimed, which lives as long as the claim
_waiting: dict[int, Claim] = {}  # by thread: the claim that stands in its way


class Claim:
    """What one thread holds of what models share.

    Args:
        shared: modules and parameters.

    Attributes:
        first: whether the thread held none of it before.
    """

    def __init__(self, shared: Iterable[Any]):
        self._all = {id(one): one for one in shared}
        self._mine: list[int] = []
        self.thread = threading.current_thread()
        self.first = True
        self._gate = threading.Lock()

    def take(self) -> Claim:
        """Wait until nothing of it is held by another thread, and hold it.

        Raises:
            InterpError: the other thread waits for this one.
        """
        self._gate.acquire()
        me = threading.get_ident()
        try:
            while (other := self._taken_or_held_by(me)) is not None:
                if other._gate.acquire(timeout=_LOOK):
                    other._gate.release()
                deliver()
        finally:
            _waiting.pop(me, None)
        return self

    def _taken_or_held_by(self, me: int) -> Claim | None:
        with _table:
            taken = _owners.keys() & self._all.keys()
            for held in map(_owners.__getitem__, taken):
                if held.thread.ident == me:
                    self.first = False
                elif held.thread.is_alive():
                    _waiting[me] = held
                    _refuse_circle(me, held)
                    return held
            self._mine = [key for key in self._all if key not in taken or _owners[key].thread.ident != me]
            _owners.update(dict.fromkeys(self._mine, self))
            return None

    def release(self) -> None:
        """Let others have it; once, or again where that was interrupted."""
        with _table:
            for key in self._mine:
                if _owners.get(key) is self:
                    del _owners[key]
        if self._gate.locked():
            with contextlib.suppress(RuntimeError):
                self._gate.release()


def _refuse_circle(me: int, held: Claim) -> None:
    seen: set[int] = set()
    one: Claim | None = held
    while one is not None and one.thread.ident not in seen:
        if one.thread.ident == me:
            raise InterpError(
                "Two threads explain two models, each inside the explanation of the other's model, and would wait for "
                "each other for ever. Explain one model after the other, or take them in the same order."
            )
        seen.add(one.thread.ident or 0)
        one = _waiting.get(one.thread.ident or 0)


def _after_fork() -> None:
    """In a forked process no other thread lives, whatever it held."""
    global _table
    _table = threading.Lock()
    _waiting.clear()
    mine = threading.get_ident()
    for key in [key for key, claim in _owners.items() if claim.thread.ident != mine]:
        del _owners[key]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class ProcessSwitch:
    """A setting of the whole process that blocks of several threads ask for: set by the first, put back by the last.

    Args:
        turn: sets it, and gives what puts it back.
    """

    def __init__(self, turn: Callable[[], Callable[[], object]]):
        self._turn = turn
        self._lock = threading.Lock()
        self._users = 0
        self._undo: Callable[[], object] | None = None

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """The setting holds for the length of a `with` block."""
        with self._lock:
            if self._users == 0:
                self._undo = self._turn()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0 and self._undo is not None:
                    self._undo()
                    self._undo = None
