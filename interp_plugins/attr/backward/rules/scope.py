"""Where a rule mode is on: while the model runs and while the target selects, and nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.backward.rules.mode import RuleMode
from interp_plugins.attr.backward.rules.reach import check_reach
from interp_plugins.core.forward import Forward
from interp_plugins.core.target import Target
from interp_plugins.core.tensors import tensors_in
from interp_plugins.core.wrapper import Wrapper


@contextlib.contextmanager
def under(forward: Forward, mode: RuleMode) -> Iterator[Forward]:
    """A problem whose model calls run under the mode. What is done with the scores afterwards has no rule."""
    try:
        yield replace(forward, func=_Called(forward.func, mode), target=_Selected(forward.target, mode))
    finally:
        mode.release()


class _Called(Wrapper):
    def __init__(self, func: Callable[..., Any], mode: RuleMode):
        self.func, self.mode = func, mode

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.mode.begin()
        with self.mode:
            output = self.func(*args, **kwargs)
        if torch.is_grad_enabled():
            check_reach(self.mode, self.func, tensors_in(output))
        return output


class _Selected(Target):
    def __init__(self, of: Target, mode: RuleMode):
        self.of, self.mode = of, mode

    @property
    def count(self) -> int:
        return self.of.count

    def at(self, rows: Tensor | None) -> Target:
        return _Selected(self.of.at(rows), self.mode)

    def __call__(self, output: Tensor) -> Tensor:
        with self.mode:
            return self.of(output)

    def describe(self, i: int) -> str | None:
        return self.of.describe(i)
