"""Shortcuts of torch that are off while a model is explained, so that every pass of a call is the same function.

The fast path of `nn.TransformerEncoder` and `nn.MultiheadAttention` is taken without gradients only: scores would come
from another function than gradients (padded positions are zero there), and layers would hold nested tensors. Gradient
checkpointing runs a part of the model a second time in the backward pass, without the hooks and rules of the first
time: while a model is explained, a checkpointed part is simply called (its activations stay in memory; chunks shrink
where that is too much).

Both are switches of the process. They are counted, so that calls in several threads put back what the first one found;
parts that are checkpointed in other threads (a training) are checkpointed as ever.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
import torch.utils.checkpoint

_GENERATORS = ("_checkpoint_without_reentrant_generator", "_checkpoint_without_reentrant_generator_impl")
_inside: ContextVar[bool] = ContextVar("interp_plugins_plain_run", default=False)


class _Reentrant:
    """Stands in the place of `torch.utils.checkpoint.CheckpointFunction`, and calls the part at once."""

    def __init__(self, original: Any):
        self.original = original

    def apply(self, function: Any, preserve: Any, *args: Any) -> Any:
        """The checkpointed function itself, inside a plain run."""
        return function(*args) if _inside.get() else self.original.apply(function, preserve, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


def _generator(original: Any) -> Any:
    """Stands for what torch runs around a function that is checkpointed without reentering."""

    def around(*args: Any, **kwargs: Any) -> Iterator[None]:
        if _inside.get():
            yield
        else:
            yield from original(*args, **kwargs)

    return around


class _Switches:
    """The process's switches, and how many runs want them off."""

    def __init__(self) -> None:
        self.lock, self.runs, self.fast_path, self.kept = threading.Lock(), 0, True, dict[str, Any]()

    def off(self) -> None:
        with self.lock:
            self.runs += 1
            if self.runs > 1:
                return
            self.fast_path = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
            found = vars(torch.utils.checkpoint)
            self.kept = {n: found[n] for n in ("CheckpointFunction", *_GENERATORS) if n in found}
            for name, original in self.kept.items():
                found[name] = _generator(original) if name in _GENERATORS else _Reentrant(original)

    def back(self) -> None:
        with self.lock:
            self.runs -= 1
            if not self.runs:
                torch.backends.mha.set_fastpath_enabled(self.fast_path)
                vars(torch.utils.checkpoint).update(self.kept)


_switches = _Switches()


@contextlib.contextmanager
def plain_run() -> Iterator[None]:
    """Call every part of a model as it is written for the length of a `with` block."""
    token = _inside.set(True)
    _switches.off()
    try:
        yield
    finally:
        _switches.back()
        _inside.reset(token)
