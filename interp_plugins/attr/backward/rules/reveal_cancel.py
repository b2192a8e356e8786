"""DeepLIFT's RevealCancel rule (Shrikumar et al. 2017, arXiv:1704.02685, sections 3.5.1 and 3.5.3).

A nonlinearity y = f(z) sees two changes of z: d+, the sum of the positive contributions to it, and d-, that of the
negative ones (`parts.py` has them), z - z' = d+ + d-. Each explains what it changes, averaged over the two orders (the
Shapley value of the two groups):

    e+ = (f(z' + d+) - f(z') + f(z) - f(z' + d-)) / 2,      e- = (f(z' + d-) - f(z') + f(z) - f(z' + d+)) / 2.

Their multipliers are e+ / d+ and e- / d-. So contributions that cancel in z are seen, where rescale, which knows z - z'
alone, shows none. Sums stay complete. A single contribution has nothing to cancel with, and e+ / d+ is rescale's rule
there: behind the input itself, a product, a maximum or another nonlinearity.

Functions that not every number may be put into (logarithms, roots, reciprocals, powers) keep rescale's rule, since
z' + d+ alone may lie outside; so do the others where a value overflows on the way, and exponentials where d+ or d-
alone would explain a thousand times what the function gives: e+ and e- cancel then, and in float32 nothing is left of
their sum (a softmax written out as exp and sum).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from interp_plugins.attr.backward.rules.call import OpCall, Rule, SavedValue, flat_arguments, is_real, ruled
from interp_plugins.attr.backward.rules.names import ELEMENTWISE, LINEAR, MOVES, PLAIN, out_of_place, words
from interp_plugins.attr.backward.rules.paired import PairedMode
from interp_plugins.attr.backward.rules.rescale import Rescale, bases, significant
from interp_plugins.attr.backward.rules.signed_contributions import LinearStep, Output, Parts, Sources, linear_step

_PARTLY_DEFINED = words(
    """log log1p log2 log10 sqrt rsqrt reciprocal pow rpow rdiv tan asin acos acosh atanh erfinv logit lgamma digamma
    xlogypower"""
)
_DEFINED = ELEMENTWISE - _PARTLY_DEFINED
_EXPONENTIAL = words("exp exp2")
_DWARFED = 1e3  # times the larger of f(z) and f(z')


class RevealCancelMode(PairedMode):
    """Rescale's mode, but nonlinearities take apart what linear steps added up before them."""

    ignored = PLAIN

    def __init__(self, eps: float = 1e-10):
        super().__init__(eps)
        self.eps = eps
        self.shelf: Sources = Sources()
        self.known: Any = WeakIdKeyDictionary()  # tensor -> (its version, its parts)

    def _fixed(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Every call's arguments are recorded here: a linear one may be the first behind a source."""
        return self.position is not None and super()._fixed(name, args, kwargs)

    def seen(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record the call or find its record. What moves one tensor needs none: it makes no other contributions."""
        return None if _moves_one(name, args, kwargs) else super().seen(name, args, kwargs)

    def choose(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], carrying: list[Tensor]) -> Rule | None:
        """Rescale's rules; `made` replaces that of a nonlinearity."""
        return None if name in MOVES or name in LINEAR else super().choose(name, args, kwargs, carrying)

    def _by_rule(
        self, name: str, in_place: bool, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        step = self._step(name, in_place, func, args, kwargs)
        result = super()._by_rule(name, in_place, func, args, kwargs)
        if step is not None:
            outputs = [y for y in pytree.tree_leaves(result) if is_real(y)]
            for i, y in enumerate(outputs):
                if y.requires_grad:
                    self.known[y] = (y._version, Output(step, i, y.shape))
        return result

    def _step(
        self, name: str, in_place: bool, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> LinearStep | None:
        """The record of a linear call of the input's run, made before the call writes anywhere."""
        if self.position is None or not torch.is_grad_enabled() or "out" in kwargs or name in ELEMENTWISE:
            return None
        leaves = flat_arguments(args, kwargs)[0]
        where = [i for i, v in enumerate(leaves) if is_real(v) and v.requires_grad]
        twin = out_of_place(func) if in_place else func
        bases = self._bases(name, args, kwargs, where)
        if twin is None or bases is None:
            return None
        if kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}
        call = OpCall.of(name, twin, args, kwargs, where, _no_rule, self.shelf)
        how = linear_step(call)
        if how is None or any(k is not None and k.value.shape != x.shape for k, x in zip(bases, call.xs, strict=True)):
            return None
        operands = [self._parts(t, k) for t, k in zip(call.operands, bases, strict=True)]
        call.operands = []
        return LinearStep(call, [p for p in operands if p is not None], how) if None not in operands else None

    def _bases(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], where: list[int]
    ) -> list[SavedValue | None] | None:
        """The operands in the baseline's run, as far as they were recorded; None: nothing to carry."""
        assert self.position is not None
        if not where or _moves_one(name, args, kwargs):
            return [None] * len(where) or None
        there, base = self.recorded[self.position] if self.position < len(self.recorded) else ("", None)
        return [base[i] for i in where] if there == name and base is not None else None  # else `seen` says so

    def _parts(self, value: Tensor, base: SavedValue | None) -> Parts | None:
        found = self.known.get(value)
        if found is not None and found[0] == value._version:
            return found[1]
        if base is None:
            return None
        source = self.shelf.source(value, base)
        self.known[value] = (value._version, source)
        return source

    def made(self, call: OpCall, seen: list[SavedValue | None] | None) -> Any:
        """RevealCancel for a nonlinearity behind linear steps; rescale's rules for the rest."""
        known = self.known.get(call.operands[0]) if call.name in _DEFINED and len(call.where) == 1 else None
        if known is None or known[0] != call.operands[0]._version or not isinstance(known[1], Output):
            return super().made(call, seen)
        self.attach(call, seen)
        (y,) = call.run()
        if y.shape != call.xs[0].shape:
            return ruled(call)
        plus, minus = known[1].pair()
        of_parts = OpCall(
            call.name, call.func, call.leaves, call.tree, call.where, [plus, minus], [SavedValue(plus),
            SavedValue(minus)], _Nonlinearity(call, self.eps), value=y,
        )  # fmt: skip
        return ruled(of_parts)


def _moves_one(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return name in MOVES and sum(is_real(v) for v in flat_arguments(args, kwargs)[0]) < 2


def _no_rule(call: OpCall, grads: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
    raise AssertionError(f"{call.name!r} is differentiated plainly")


class _Nonlinearity:
    """The rule of y = f(z), whose operands are d+ and d-."""

    def __init__(self, call: OpCall, eps: float):
        self.call, self.eps = call, eps

    def __call__(self, parts: OpCall, grads: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
        """The multipliers e+ / d+ and e- / d-, times g."""
        (z,), (base,), (g,), (up, down) = self.call.xs, bases(self.call), grads, parts.xs
        (y,), (y_base,), (y_up,), (y_down,) = (self.call.run([v]) for v in (z, base, base + up, base + down))
        effects = (y_up - y_base + y - y_down) / 2, (y_down - y_base + y - y_up) / 2
        apart = effects[0].isfinite() & effects[1].isfinite()
        if self.call.name in _EXPONENTIAL:
            apart &= torch.maximum(effects[0].abs(), effects[1].abs()) <= _DWARFED * torch.maximum(y, y_base)
        rescaled = None if bool(apart.all()) else Rescale(self.eps)(self.call, grads)[0]
        plain = None
        found = []
        for effect, change in zip(effects, (up, down), strict=True):
            moved = significant(change, z, base, self.eps)
            if not bool(moved.all()) and plain is None:
                plain = self.call.pull(grads)[0]
            ratio = g * effect / torch.where(moved, change, 1)
            ratio = ratio if plain is None else torch.where(moved, ratio, plain)
            found.append(ratio if rescaled is None else torch.where(apart, ratio, rescaled))
        return found
