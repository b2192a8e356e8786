"""Which module a call happens in, for rules chosen by module type or name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from interp_plugins.core.guard import is_script, modules_of
from interp_plugins.core.hooks import hooked
from interp_plugins.core.layers import plain_name


def module_names(func: Any) -> dict[str, nn.Module]:
    """All modules behind a callable by dotted name, without the wrappers' part of it."""
    names: dict[str, nn.Module] = {}
    for root in modules_of(func):
        for name, module in root.named_modules():
            names.setdefault(plain_name(name), module)
    return names


@contextlib.contextmanager
def followed(func: Callable[..., Any]) -> Iterator[list[tuple[str, nn.Module]]]:
    """A list that holds the modules that are running, outermost first; forward hooks keep it, and are removed."""
    running: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()

    def enter(name: str) -> Callable[..., None]:
        return lambda module, args: running.append((name, module))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        running.pop()

    with hooked() as hooks:
        for name, module in module_names(func).items():
            if id(module) not in seen and not is_script(module):
                seen.add(id(module))
                hooks.before(module, enter(name), prepend=True)
                hooks.behind(module, leave, always_call=True)
        yield running
