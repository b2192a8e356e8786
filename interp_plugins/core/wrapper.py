"""`Wrapper`: a callable around a model, seen through by all that looks for the model behind it."""

from __future__ import annotations

from typing import Any


class Wrapper:
    """A callable around another, which it keeps in `func`.

    `core.guard.modules_of` asks any object that has `wrapped_callables` what lies inside, and looks no further into it;
    a wrapper with another inside than `func` says so there.
    """

    func: Any

    def wrapped_callables(self) -> list[Any]:
        """The callables inside, for the guard."""
        return [self.func]
