"""The global generators (random, NumPy, torch, CUDA, MPS): as they were after a block, and touched only if it drew.

All threads of a process draw from them. Putting a state back therefore winds back what other threads drew meanwhile,
so it is done only where something inside the block drew. That is told by comparing states; where another thread runs,
a model's call that seems to have drawn is run again, with torch's random operations of this thread watched. Seeds are
set for models that draw, when their first call shows it, and not at all for others.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from interp_plugins.core.generator_states import States, rng_state

T = TypeVar("T")
_TORCH = ("torch", "cuda", "mps")
GENERATORS = ("random", "numpy", *_TORCH)
_IDLE = 0.01  # seconds in which another thread that draws from NumPy or Python is seen
_TRIES = 3  # calls that are compared before a generator counts as drawn from


@contextlib.contextmanager
def noticing_draws() -> Iterator[Callable[[], bool]]:
    """Gives a function that says, after the block, whether it drew; beside other threads, of torch's operations only.

    States alone cannot tell there: another thread's draws move them as well.
    """
    if others_run():
        with _Draws() as draws:
            yield lambda: draws.seen
        return
    before = rng_state()
    yield lambda: rng_state() != before


def seed_torch(seed: int) -> None:
    """`torch.manual_seed`, to be used under `preserved_rng`.

    Where CUDA is not in use, `torch.manual_seed` would only note the seed that CUDA will begin with, at each call anew,
    and that note cannot be taken back: it is left alone.
    """
    if torch.cuda.is_initialized() or torch.backends.mps.is_available() or torch.xpu.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def _seed(seed: int, names: set[str]) -> None:
    if "random" in names:
        random.seed(seed)
    if "numpy" in names:
        np.random.seed(seed % 2**32)
    if names.intersection(_TORCH):
        seed_torch(seed)


# -- blocks ----------------------------------------------------------------------------------------------------


class Block:
    """A part of a call after which the generators that it drew from are as they were before it.

    Args:
        model: whether it is the scope of a frozen model, whose calls are looked at.
        seed: for what draws inside: set when it is seen to draw.
        known: generators that the model is known to draw from; what is found out is added.
        rewind: puts a model's state back to where the block began, before its first call is repeated.
    """

    def __init__(
        self,
        model: bool = False,
        seed: int | None = None,
        known: set[str] | None = None,
        rewind: Callable[[], None] | None = None,
    ):
        self.outer = _current.get()
        self.model, self.seed, self.rewind = model, seed, rewind
        self.drawn: set[str] = known if known is not None else set()
        self.pending = set(GENERATORS) if seed is not None else set()
        self.others = others_run()
        self.looks = (1 if self.pending else _TRIES if self.others else 0) if model else 0  # calls to look at
        self.unsure = set(GENERATORS)  # what moved in every call that was looked at
        self.looked = False
        self.before = States()
        self.closed = False
        if self.pending and self.drawn:
            self.sow(set(self.drawn))

    def chain(self) -> Iterator[Block]:
        """This block and those around it, from inside out."""
        one: Block | None = self
        while one is not None:
            yield one
            one = one.outer

    def sow(self, names: set[str]) -> bool:
        """Set the seed that waits for some generators, as if it had been set when its block began; whether it was."""
        inside: list[Block] = []
        for one in self.chain():
            due = one.pending & names
            if due:
                assert one.seed is not None
                one.pending -= due | (set(_TORCH) if due.intersection(_TORCH) else set())
                _seed(one.seed, due)
                for inner in inside:  # they began with what the seed gives
                    inner.before = States()
                return True
            inside.append(one)
        return False

    def close(self) -> None:
        """Put back the generators that were drawn from inside; once."""
        if self.closed:
            return
        if self.looked:
            self.drawn |= self.unsure
        moved = self.before.moved()
        if moved and self.others and any(one.model for one in self.chain()):
            moved &= set().union(*(one.drawn | (one.unsure if one.looked else set()) for one in self.chain()))
        elif moved and self.model:
            self.drawn |= moved
        self.before.put_back(moved)
        self.closed = True


_current: ContextVar[Block | None] = ContextVar("interp_plugins_random", default=None)


def others_run() -> bool:
    """Whether other threads live in this process, which may draw as well."""
    if threading.active_count() == 1:
        return False
    mine = threading.get_ident()
    return any(t.ident != mine and type(t).__name__ != "TMonitor" for t in threading.enumerate())  # tqdm's only looks


@contextlib.contextmanager
def entered(block: Block) -> Iterator[None]:
    """Make a block the innermost one, and close it at the end."""
    token = _current.set(block)
    try:
        yield
    finally:
        try:
            block.close()
        finally:
            _current.reset(token)


@contextlib.contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave the global generators (random, NumPy, torch, CUDA, MPS) as they were, those that are drawn from inside."""
    with entered(Block()):
        yield


@contextlib.contextmanager
def around_others_code() -> Iterator[None]:
    """`preserved_rng` around code of others (a loader draws a seed, a data set augments, an attack begins somewhere).

    Inside a frozen model and beside other threads, only what is known to be drawn is put back: torch's operations are
    watched, and NumPy and Python count as drawn from where they moved and lie still afterwards.
    """
    block = Block()
    with entered(block):
        if not block.others:
            yield
            return
        with _Draws() as draws:
            yield
        moved = block.before.moved().difference(_TORCH)
        block.drawn |= moved - _moving(moved)
        if draws.seen:
            block.drawn |= set(_TORCH)


def pending_seed() -> int | None:
    """The seed that waits for whatever draws from torch's generator here; None: it was set, or there is none."""
    block = _current.get()
    for one in block.chain() if block is not None else ():
        if "torch" in one.pending:
            return one.seed
    return None


def seeded_now(needed: bool = True) -> None:
    """Set the seeds that wait, where needed: for code that is not ours and may draw without being looked at."""
    block = _current.get()
    if needed and block is not None and block.sow(set(GENERATORS)):
        for one in block.chain():
            one.drawn |= set(GENERATORS)


def drew(*names: str) -> None:
    """Note that something here draws from these generators, so that they are put back."""
    block = _current.get()
    for one in block.chain() if block is not None else ():
        one.drawn.update(names)


def model_call(call: Callable[[], T], again: Callable[[], None] | None = None) -> T:
    """`call()`, the call of a model; the first one of a scope is looked at, and repeated where it needs a seed.

    Args:
        call: gives the result of one call, each time on arguments of its own.
        again: is called before each repetition.
    """
    block = _current.get()
    scope = None
    for one in block.chain() if block is not None else ():
        if one.model:
            scope = one
    if block is None or scope is None:
        return call()
    if any(one.pending & one.drawn for one in block.chain()):  # found out inside, by another block of this model
        block.sow(set().union(*(one.drawn for one in block.chain())))
    if not scope.looks:
        return call()
    scope.looks -= 1
    if not any(one.pending for one in block.chain()):
        return _observed(scope, call)

    def restart() -> None:
        if scope.rewind is not None:
            scope.rewind()
        if again is not None:
            again()

    return _looked_at(block, call, restart)


def _observed(scope: Block, call: Callable[[], T]) -> T:
    """A call that is not repeated: what moved in it and in the next calls counts as drawn by the model."""
    before = States()
    draws = _Draws()
    scope.looked = True
    with draws:
        result = call()  # one that raises may have ended before it drew: it says nothing
    scope.unsure &= before.moved()
    scope.unsure -= _moving(scope.unsure)
    if not draws.seen:
        scope.unsure -= set(_TORCH)
    if not scope.unsure:
        scope.looks = 0
    return result


def user_call(call: Callable[[], T]) -> T:
    """`call()`, of a function of the user's that may draw: with the seed that waits for it."""
    block = _current.get()
    if block is None or not any(one.pending for one in block.chain()):
        return call()
    return _looked_at(block, call, lambda: None)


def _looked_at(block: Block, call: Callable[[], T], restart: Callable[[], None]) -> T:
    before = States()
    result = call()
    moved = before.moved()
    for one in block.chain():
        moved -= one.drawn
    if not moved:
        return result
    after = States()
    if others_run():
        moved = _ours(moved, call, restart)
        if not moved:  # what the call left behind for `restart` to clear is that of the last repetition
            restart()
            return call()
    for one in block.chain():
        one.drawn |= moved
    before.put_back(moved)
    if block.sow(moved):
        restart()
        return call()
    after.put_back(moved)  # the repetitions drew as well
    return result


class _Draws(TorchDispatchMode):
    """Notes whether a random operation of torch runs in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags and not _drops_nothing(func, args, kwargs or {}):
            self.seen = True
        return func(*args, **(kwargs or {}))


def _drops_nothing(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation draws for a dropout alone whose probability is 0, such as attention in eval mode."""
    names = [a.name for a in func._schema.arguments]
    given = {**dict(zip(names, args)), **kwargs}
    chances = [given.get(name, 0.0) for name in ("dropout_p", "dropout") if name in names]
    return bool(chances) and all(isinstance(chance, (int, float)) and chance == 0 for chance in chances)


def _moving(names: set[str]) -> set[str]:
    """Those of the generators without watched operations that move while nothing is called: another thread draws."""
    names = names.difference(_TORCH)
    if not names:
        return names
    before = States()
    time.sleep(_IDLE)
    return names & before.moved()


def _ours(moved: set[str], call: Callable[[], Any], restart: Callable[[], None]) -> set[str]:
    """Which of some generators a call draws from, told apart from other threads that draw meanwhile."""
    names = moved - _moving(moved)
    for _ in range(_TRIES):
        restart()
        before = States()
        try:
            with _Draws() as draws:
                call()
        except Exception:  # it did not raise before: what cannot be told counts as drawn
            return names
        names &= before.moved()
        if not draws.seen:
            names -= set(_TORCH)
        if not names:
            break
    return names
