"""Forward hooks of ours: seen by the thread that set them, and gone at the end of their block.

Another thread may run the model for a prediction of its own while it is explained: what stands at its layers for the
explanation must neither read its pass nor change it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")  # of a module, by number


def hook_numbers(modules: Iterable[nn.Module]) -> tuple[int, ...]:
    """The numbers of all hooks of some modules: none is ever used twice, so equal numbers are equal hooks."""
    return tuple(key for m in modules for name in HOOKS if (hooks := getattr(m, name, ())) for key in hooks)


class OwnHook:
    """A hook of ours: a function that is called in the thread that made it, and by replicas of its module in any."""

    __slots__ = ("function", "module", "thread")

    def __init__(self, module: nn.Module, function: Callable[..., Any]):
        self.module, self.function, self.thread = module, function, threading.get_ident()

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """What the function gives; nothing for another thread's pass."""
        if module is self.module and threading.get_ident() != self.thread:
            return None
        return self.function(module, *args, **kwargs)


class Hooks:
    """Hooks that are collected as they are set."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def before(self, module: nn.Module, function: Callable[..., Any], **how: Any) -> None:
        """Set a forward pre-hook; `how` goes to `register_forward_pre_hook`."""
        self._handles.append(module.register_forward_pre_hook(OwnHook(module, function), **how))

    def behind(self, module: nn.Module, function: Callable[..., Any], **how: Any) -> None:
        """Set a forward hook; `how` goes to `register_forward_hook`."""
        self._handles.append(module.register_forward_hook(OwnHook(module, function), **how))

    def remove(self) -> None:
        """Remove them; what is removed already is left out."""
        for handle in self._handles:
            handle.remove()


@contextlib.contextmanager
def hooked() -> Iterator[Hooks]:
    """Hooks that are set inside a `with` block, and removed at its end."""
    hooks = Hooks()
    try:
        yield hooks
    finally:
        try:
            hooks.remove()
        except BaseException:
            hooks.remove()
            raise


def remove_leftovers(modules: Iterable[nn.Module]) -> None:
    """Remove hooks of ours that an interruption left behind."""
    mine = threading.get_ident()
    for module in modules:
        for kind in ("_forward_hooks", "_forward_pre_hooks"):
            if hooks := getattr(module, kind, None):
                for key in [k for k, h in hooks.items() if isinstance(h, OwnHook) and h.thread == mine]:
                    for name in ("", "_with_kwargs", "_always_called"):
                        getattr(module, f"_forward_hooks{name}", {}).pop(key, None)
                        getattr(module, f"_forward_pre_hooks{name}", {}).pop(key, None)
