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

from interp_plugins.core.errors import InputTypeError, unknown


@dataclass(frozen=True)
class _State:
    """What is on here, and what was on outside of the innermost `with` block."""

    enabled: bool = True
    kernels: bool = True
    precision: str = "float32"
    limit: float = 0.01
    outer: _State | None = None


PRECISIONS = ("float32", "bfloat16", "float16", "auto")
_state: ContextVar[_State] = ContextVar("interp_plugins_acceleration", default=_State())  # noqa: B039 - it is frozen
_forget: list[Callable[[], None]] = []


def enabled() -> bool:
    """Whether accelerations may be used here."""
    return _state.get().enabled


def kernels_enabled() -> bool:
    """Whether kernels that stand on private operators of torch may be used here."""
    return _state.get().kernels


def asked_precision() -> str:
    """The precision of loops that was asked for: "float32", "bfloat16", "float16" or "auto"."""
    return _state.get().precision


def precision_limit() -> float:
    """The relative error of a map that "auto" may cost."""
    return _state.get().limit


def as_precision(name: str) -> str:
    """A precision by its name.

    Raises:
        InputTypeError: no name.
        UnknownNameError: another name.
    """
    if not isinstance(name, str):
        raise InputTypeError(f"precision= takes one of {', '.join(map(repr, PRECISIONS))}, got {name!r}.")
    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    return name


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
        precision: of the passes in loops: "float32"; "bfloat16" or "float16", which CPUs with AMX or AVX-512 BF16 and
            the tensor cores of GPUs compute several times as fast (elsewhere slower); "auto": what is faster here and
            keeps the error of a map below `limit`. Forward passes of perturbation methods run in it as a whole, of
            gradient methods the gradients alone. Some rows run in both precisions: `Explanation.meta["precision"]` (in
            `core.report.collect()`, "precision") states the error, and where differences of scores drown in it, float32
            runs. Inputs are perturbed and interpolated, and maps summed, in float32. None: as outside of the block.
        limit: the relative error that "auto" may cost, 0.01 unless it is set.

    Raises:
        UnknownNameError: another precision.

    Attributes:
        max_bytes: bytes that are kept of all models together; set it on the class.

    Example:
        with acceleration(False):
            plain = IntegratedGradients(model).attribute(x, target=3)
        with acceleration(precision="auto"):
            quick = IntegratedGradients(model).attribute(x, target=3)
        acceleration.max_bytes = 1 << 30
    """

    max_bytes: ClassVar[int] = 256 << 20

    def __init__(
        self,
        on: bool | None = None,
        *,
        kernels: bool | None = None,
        precision: str | None = None,
        limit: float | None = None,
    ):
        self._on, self._kernels = on, kernels
        self._precision, self._limit = None if precision is None else as_precision(precision), limit

    def __enter__(self) -> None:
        """Switch accelerations on or off until the block ends."""
        now = _state.get()
        on = now.enabled if self._on is None else bool(self._on)
        kernels = now.kernels if self._kernels is None else bool(self._kernels)
        _state.set(_State(on, kernels, self._precision or now.precision, self._limit or now.limit, now))

    def __exit__(self, *exc: object) -> None:
        """Switch accelerations back to what they were before the block."""
        _state.set(_state.get().outer or _State())

    @staticmethod
    def clear() -> None:
        """Free what is kept of models between calls; it is made again when it is needed."""
        for forget in _forget:
            forget()
