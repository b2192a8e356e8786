"""What one forward pass does, as far as a plan needs it: which modules ran when, and who used which tensor."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp_plugins.core.guard import is_script, modules_of
from interp_plugins.core.hooks import hook_numbers, hooked
from interp_plugins.core.tensors import tensors_in

_LOOKS = {"__get__", "__len__", "size", "dim", "ndimension", "numel", "stride", "is_floating_point"}


@dataclass
class ModuleCall:
    """One call of a module: its tensors in and out, and when it began and ended (numbers of events)."""

    module: nn.Module
    begin: int
    end: int = -1
    taken: tuple[Tensor, ...] = ()
    gave: tuple[Tensor, ...] = ()


@dataclass
class Tracer(TorchFunctionMode):
    """Watches one call. Tensors are kept alive while the probe is, so that their identities stay unique.

    Attributes:
        visits: module calls in the order in which they began.
        uses: how often each tensor was an argument of a torch function, by identity.
    """

    visits: list[ModuleCall] = field(default_factory=list)
    uses: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()
        self._events = 0
        self._open: list[ModuleCall] = []
        self._kept: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in _LOOKS:
            for t in tensors_in((args, kwargs)):
                self.uses[id(t)] += 1
                self._kept.append(t)
        return func(*args, **(kwargs or {}))

    def run(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the model and write down the modules that run."""
        with self._watching(func), self:
            return func(*args, **kwargs)

    def calls(self, module: nn.Module) -> list[ModuleCall]:
        """The calls of one module."""
        return [v for v in self.visits if v.module is module]

    @contextlib.contextmanager
    def _watching(self, func: Callable[..., Any]) -> Iterator[None]:
        modules = {id(m): m for root in modules_of(func) for m in root.modules() if not is_script(m)}.values()
        with hooked() as hooks:
            for m in modules:
                hooks.before(m, self._begin, with_kwargs=True)
                hooks.behind(m, self._end)
            yield

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        visit = ModuleCall(module, self._events, taken=tensors_in((args, kwargs)))
        self._events += 1
        self.visits.append(visit)
        self._open.append(visit)
        self._kept.append(visit.taken)

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        while self._open and self._open[-1].module is not module:  # a call that never returned
            self._open.pop()
        visit = self._open.pop()
        visit.end, visit.gave = self._events, tensors_in(output)
        self._events += 1


def is_plain(module: nn.Module, kinds: Sequence[type]) -> bool:
    """Whether a module is exactly of one of these types, without hooks or parametrisations: what it says it is."""
    return type(module) in kinds and not hook_numbers([module])
