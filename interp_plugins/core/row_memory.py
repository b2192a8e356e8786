"""What is remembered of a model's rows: by model, kind of input, and the state that weights, hooks and code are in.

The memory belongs to the object that the user calls (the model, a function), weakly: it goes with it. Wrappers that are
made anew at every call are seen through where they say what they are (`Wrapper.identity`); of others, and of objects
that cannot be referred to weakly, nothing is remembered beyond the call.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from interp_plugins.core.caches import call_cache
from interp_plugins.core.guard import modules_below, modules_of
from interp_plugins.core.hooks import hook_numbers
from interp_plugins.core.wrapper import Wrapper

_MOST = 64  # kinds of input that are remembered of an object
_memory: WeakKeyDictionary[Any, dict[Any, tuple[Any, Any]]] = WeakKeyDictionary()
_exchanged: ContextVar[bool] = ContextVar("interp_plugins_weights_exchanged", default=False)


@dataclass(frozen=True)
class Kind:
    """A model and a kind of input.

    Attributes:
        owner: what the memory belongs to; None: the call.
        key: how it is called, and shapes, types and devices of what it is called with.
        state: of weights, hooks and code.
        func: the callable, kept alive with what is remembered of the call.
    """

    owner: Any
    key: tuple[Any, ...]
    state: tuple[Any, ...]
    func: Any

    @classmethod
    def of(
        cls,
        func: Callable[..., Any],
        read: Callable[[Any], Tensor],
        inputs: Sequence[Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Kind:
        """The kind of a call."""
        owner, road = _owner(func)
        selector = getattr(read, "selector", None)
        if not isinstance(selector, (str, int, type(None))):
            owner = None
        n = len(inputs[0])
        key: tuple[Any, ...] = (road, selector, n == 1, tuple((x.shape[1:], x.dtype, x.device) for x in inputs))
        if args or kwargs:
            leaves, tree = pytree.tree_flatten((args, dict(kwargs)))
            key = (*key, tree, tuple(_sort(v, n) for v in leaves))
        device = inputs[0].device.type
        if torch.is_autocast_enabled(device):
            key = (*key, torch.get_autocast_dtype(device))
        return cls(owner, key, _state(func), func)


@contextlib.contextmanager
def weights_exchanged() -> Iterator[None]:
    """Let what is known of a model's rows hold in a `with` block in which other numbers stand for its weights."""
    token = _exchanged.set(True)
    try:
        yield
    finally:
        _exchanged.reset(token)


def recall(kind: Kind) -> tuple[Any, Any]:
    """What is known of a kind, or None where its state has changed since; and what was known before."""
    state, facts = _of(kind).get(kind.key, (None, None))
    return (facts if state == kind.state or _exchanged.get() else None), facts


def remember(kind: Kind, facts: Any) -> None:
    """Keep what was found, for as long as the state stays."""
    memory = _of(kind)
    if len(memory) >= _MOST and kind.key not in memory:
        memory.pop(next(iter(memory)))
    memory[kind.key] = (kind.state, facts)
    if kind.owner is None:  # so that its identity stays its own
        call_cache().setdefault(("rows of",), []).append(kind.func)


def _of(kind: Kind) -> dict[Any, tuple[Any, Any]]:
    if kind.owner is None:
        found: dict[Any, tuple[Any, Any]] = call_cache().setdefault(("rows",), {})
        return found
    try:
        return _memory.setdefault(kind.owner, {})
    except TypeError:  # cannot be referred to weakly, or has no hash
        found = call_cache().setdefault(("rows", id(kind.owner)), {})
        return found


def _owner(func: Any) -> tuple[Any, tuple[Any, ...]]:
    """The object at the bottom of some wrappers, and how it is reached."""
    road: list[Any] = []
    while True:
        if isinstance(func, Wrapper):
            identity = func.identity()
            if identity is None:
                return None, (id(func),)
            road.append((type(func), identity))
            func = func.func
        elif inspect.ismethod(func):
            road.append(id(func.__func__))
            func = func.__self__
        else:
            return func, tuple(road)


def _sort(value: Any, n: int) -> Any:
    """What matters of an argument: of a tensor its shape and type, and whether it has as many rows as the batch."""
    if not isinstance(value, Tensor):
        return type(value)
    rows = value.shape[:1] == (n,)
    return (rows, value.shape[1:] if rows else value.shape, value.dtype)


def _state(func: Any) -> tuple[Any, ...]:
    """What has to stay as it is for facts to hold: weights, hooks and the code of every module."""
    if isinstance(func, nn.Module):
        modules = modules_below([func])
    else:
        modules = modules_below(modules_of(func))
    state: list[Any] = []
    for m in modules:
        state.append(id(m.__dict__.get("forward") or getattr(type(m), "forward", None)))
        for p in m._parameters.values():
            if p is not None:
                state += (id(p), 0 if p.is_inference() else p._version)
    return (*state, hook_numbers(modules))
