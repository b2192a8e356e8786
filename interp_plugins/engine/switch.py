"""The switch of every acceleration: on by default, off inside `acceleration(False)`.

What it switches (planned forward, first layer out of the loop, incremental occlusion, ...) is exact: a map with it
equals the map without it, within the rounding of floating point. Switching it off is for comparing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class _State:
    """What is on here, and what was on outside of the innermost `with` block."""

    enabled: bool = True
    kernels: bool = True
    outer: _State | None = None


_state: ContextVar[_State] = ContextVar("interp_plugins_acceleration", default=_State())  # noqa: B039 - it is frozen
_forget: list[Callable[[], None]] = []


def enabled() -> bool:
    """Whether accelerations may be used here."""
    return _state.get().enabled


def kernels_enabled() -> bool:
    """Whether kernels that stand on private operators of torch may be used here."""
    return _state.get().kernels


def on_clear(forget: Callable[[], None]) -> Callable[[], None]:
    """Let `acceleration.clear()` call a function."""
    _forget.append(forget)
    return forget


class acceleration(contextlib.ContextDecorator):
    """Switch accelerations on or off for the length of a `with` block (of this thread or task).

    Kept between calls are, of every model as long as it lives, the weights that kernels run from in a form of their own
    (3 x 3 convolutions by Winograd's algorithm): at most `max_bytes` of all models together, 256 MiB unless it is set.
    `acceleration.clear()` frees them.

    Args:
        on: False runs models as they are. None: as outside of the block.
        kernels: False leaves out the kernels that stand on private operators of torch, and what they would keep. None:
            as outside of the block.

    Attributes:
        max_bytes: bytes that are kept of all models together; set it on the class.

    Example:
        with acceleration(False):
            plain = IntegratedGradients(model).attribute(x, target=3)
        acceleration.max_bytes = 1 << 30
    """

    max_bytes: ClassVar[int] = 256 << 20

    def __init__(self, on: bool | None = None, *, kernels: bool | None = None):
        self._on, self._kernels = on, kernels

    def __enter__(self) -> None:
        """Switch accelerations on or off until the block ends."""
        now = _state.get()
        on = now.enabled if self._on is None else bool(self._on)
        _state.set(_State(on, now.kernels if self._kernels is None else bool(self._kernels), now))

    def __exit__(self, *exc: object) -> None:
        """Switch accelerations back to what they were before the block."""
        _state.set(_state.get().outer or _State())

    @staticmethod
    def clear() -> None:
        """Free what is kept of models between calls; it is made again when it is needed."""
        for forget in _forget:
            forget()
