"""`RuleMode`: every differentiable call that a model makes passes here and may get a backward rule of its own.

The mode sees functions, not modules: `nn.ReLU()(x)`, `F.relu(x)`, `x.relu()` and `x.relu_()` are one call of "relu", a
module used twice is two calls, and `x + y` is a call like any other. Nothing is put on the model.

What a function is made of is not visible from outside (an LSTM is one call), so functions with a rule for their parts
are taken apart (`decompositions`) into calls that pass here again, with the same numbers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from interp_plugins.attr.backward.rules.aten import ATEN
from interp_plugins.attr.backward.rules.call import OpCall, Rule, SavedValues, flat_arguments, is_real, ruled
from interp_plugins.attr.backward.rules.names import MOVES, PLAIN, op_name, out_of_place


class RuleMode(TorchFunctionMode):
    """Base: subclasses say which call gets which rule (`choose`), and what is taken apart (`decompositions`)."""

    decompositions: Mapping[str, Callable[..., Any]] = {}
    ignored: frozenset[str] = PLAIN | MOVES
    title: str  # for texts
    belongs: frozenset[str]  # kinds of nodes that a rule should stand for (`reach`)
    needs_all = True  # whether a map without any rule is wrong

    def __init__(self) -> None:
        super().__init__()
        self.shelf = SavedValues()
        self.lost: list[str] = []  # steps that let nothing through
        self._calls: list[weakref.ref[OpCall]] = []

    def release(self) -> None:
        """Let go of the operands, once nothing more runs under the mode: backward passes need their values alone.

        An operand that was written to in place leads, through the graph, to the call that holds it: a circle that the
        collector cannot see, and that would keep all of the pass for ever.
        """
        for ref in self._calls:
            call = ref()
            if call is not None:
                call.operands.clear()
        self._calls.clear()

    def begin(self) -> None:
        """Called when the model begins to run, also when it runs again."""

    def choose(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], carrying: list[Tensor]) -> Rule | None:
        """The rule for a call whose arguments `carrying` carry a gradient; None: plain differentiation."""
        raise NotImplementedError

    def seen(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Called for every call that may get a rule, before `choose`."""

    def made(self, call: OpCall, seen: Any) -> Any:
        """Called with the record of a ruled call; returns the result."""
        return ruled(call)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Hand the call to its rule, its decomposition, or to torch."""
        kwargs = kwargs or {}
        name, in_place = op_name(func)
        if name in ("setitem", "fill", "zero", "copy") or in_place or kwargs.get("inplace") or "out" in kwargs:
            self.shelf.about_to_write(kwargs.get("out", args[0] if args else kwargs.get("input")))
        if name in self.ignored or not name:
            return func(*args, **kwargs)
        take_apart = self.decompositions.get(name) or ATEN.get(name)
        if take_apart is not None and not in_place:
            with self:
                found = take_apart(*args, **kwargs)
            if found is not NotImplemented:
                return found
        return self._by_rule(name, in_place, func, args, kwargs)

    def _by_rule(
        self, name: str, in_place: bool, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        seen = self.seen(name, args, kwargs)
        written = (args[0] if args else kwargs.get("input")) if in_place or kwargs.get("inplace") else None
        self.shelf.about_to_write(written)
        leaves, _ = flat_arguments(args, kwargs)
        where = [i for i, v in enumerate(leaves) if is_real(v) and v.requires_grad]
        rule = self.choose(name, args, kwargs, [leaves[i] for i in where]) if where else None
        twin = out_of_place(func) if in_place else func
        if rule is None or not torch.is_grad_enabled() or twin is None or "out" in kwargs:
            return func(*args, **kwargs)
        if kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}
        where = self.operands(name, leaves, where)
        call = OpCall.of(name, twin, args, kwargs, where, rule, self.shelf)
        call.lost = self.lost
        self._calls.append(weakref.ref(call))
        result = self.made(call, seen)
        if written is None:
            return result
        self.shelf.about_to_write(written)
        return written.copy_(result)

    def operands(self, name: str, leaves: list[Any], where: list[int]) -> list[int]:
        """Which of the arguments that carry a gradient are operands; the others count as constants."""
        return where
