"""`Wrapper`: a callable around a model, seen through by all that looks for the model behind it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn


class Wrapper:
    """A callable around another, which it keeps in `func`.

    `core.guard.modules_of` asks any object that has `wrapped_callables` what lies inside, and looks no further into it;
    a wrapper with another inside than `func` says so there.
    """

    func: Any
    known_rows: Any = None  # `core.rows.RowFacts` that need no probe

    def wrapped_callables(self) -> list[Any]:
        """The callables inside, for the guard."""
        return [self.func]

    def identity(self) -> Any:
        """What tells two wrappers of this class around one callable apart, for what is remembered of their rows.

        Hashable and without a reference to the model; None: nothing is remembered beyond the call.
        """
        return None


def called_with(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`func(*args, **kwargs)`, for arguments that come as one value."""
    return func(*args, **kwargs)


def takes_nothing(func: Any) -> bool:
    """Whether a callable has no parameters at all."""
    if isinstance(func, nn.Module) or hasattr(func, "wrapped_callables"):
        return False
    try:
        return len(inspect.signature(func).parameters) == 0
    except (TypeError, ValueError):
        return False
