"""The switch of every acceleration: on by default, off inside `acceleration(False)`.

What it switches (planned forward, shared first layer, incremental occlusion, ...) is exact: a map with it equals the
map without it, within the rounding of floating point. Switching it off is for comparing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_enabled: ContextVar[bool] = ContextVar("interp_plugins_acceleration", default=True)


def enabled() -> bool:
    """Whether accelerations may be used here."""
    return _enabled.get()


@contextlib.contextmanager
def acceleration(on: bool = True) -> Iterator[None]:
    """Switch accelerations on or off for the length of a `with` block (of this thread or task).

    Example:
        with acceleration(False):
            plain = IntegratedGradients(model).attribute(x, target=3)
    """
    token = _enabled.set(bool(on))
    try:
        yield
    finally:
        _enabled.reset(token)
