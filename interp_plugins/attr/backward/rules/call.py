"""One call of a function inside a model: what went in, and how to differentiate it again at another point.

`ruled` replaces the call by one whose backward pass is a rule: a function of this record and of what arrives at the
outputs. The forward pass gives the same numbers as before.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from interp_plugins.core.tensors import credit

_CONTAINERS = (tuple, list, dict, deque)
_ONE = pytree.tree_structure(0)  # a single output
Rule = Callable[["OpCall", tuple[Tensor, ...]], Sequence[Tensor | None]]


class SavedValue:
    """A value as it was at a certain moment, copied only if its memory is about to be written to."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Tensor):
        self.value = value.detach()


class SavedValues:
    """The kept values, by memory block."""

    def __init__(self) -> None:
        self._blocks: dict[int, list[weakref.ref[SavedValue]]] = {}

    def keep(self, value: Tensor) -> SavedValue:
        """Remember a value without copying it yet."""
        kept = SavedValue(value)
        self._blocks.setdefault(block_of(value), []).append(weakref.ref(kept))
        return kept

    def about_to_write(self, value: Any) -> None:
        """Copy what is kept in the memory of `value`."""
        if isinstance(value, Tensor):
            for ref in self._blocks.pop(block_of(value), ()):
                kept = ref()
                if kept is not None:
                    kept.value = kept.value.clone()


def block_of(value: Tensor) -> int:
    """The memory that a tensor lies in."""
    try:
        return value.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # no storage: sparse, or a wrapper
        return id(value)


def is_real(v: Any) -> bool:
    """Whether v is a tensor that can carry a gradient."""
    return isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex())


def flat_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[list[Any], Any]:
    """The arguments of a call, flat, and how to put them together again (`put_together`).

    Most calls have no containers among them: looking for some with `pytree` would take longer than a small layer.
    """
    leaves = [*args, *kwargs.values()]
    if any(isinstance(v, _CONTAINERS) for v in leaves):
        return pytree.tree_flatten((args, dict(kwargs)))
    return leaves, (len(args), tuple(kwargs))


def put_together(leaves: list[Any], tree: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of what `flat_arguments` took apart."""
    if isinstance(tree, tuple):
        count, names = tree
        return tuple(leaves[:count]), dict(zip(names, leaves[count:], strict=True))
    args, kwargs = pytree.tree_unflatten(leaves, tree)
    return args, kwargs


@dataclass(eq=False)
class OpCall:
    """A call with some of its arguments as operands.

    Attributes:
        name: see `names.op_name`.
        func: the function itself, out of place.
        leaves: its arguments, flat.
        tree: how to put them together again.
        where: positions of the operands, the arguments that carry a gradient.
        operands: the operands as they stand in the graph; none once the forward pass is over (`RuleMode.release`).
        kept: their values.
        rule: the backward pass.
        base: values of the operands in the paired run, if there is one.
        module: the innermost module around the call and its dotted name, where modules are followed.
        value: the output, where it is known already.
        account: where rules write down what they absorb, if somebody asked.
        lost: where the names of calls are written down that let nothing through.
    """

    name: str
    func: Callable[..., Any]
    leaves: list[Any]
    tree: Any
    where: list[int]
    operands: list[Tensor]
    kept: list[SavedValue]
    rule: Rule
    base: list[Tensor] | None = None
    module: tuple[str, nn.Module] | None = None
    versions: list[int] = field(default_factory=list)
    run_tree: Any = None
    value: Tensor | None = None
    account: Any = None
    lost: list[str] | None = None

    @classmethod
    def of(
        cls,
        name: str,
        func: Callable[..., Any],
        args: Any,
        kwargs: Any,
        where: list[int],
        rule: Rule,
        shelf: SavedValues,
    ) -> OpCall:
        """Record a call; the operands leave the list of arguments, so that it holds no part of the graph."""
        leaves, tree = flat_arguments(args, kwargs)
        operands = [leaves[i] for i in where]
        kept = [shelf.keep(t) for t in operands]
        leaves = [v.detach() if isinstance(v, Tensor) and v.requires_grad else v for v in leaves]
        for i in where:
            leaves[i] = None
        return cls(name, func, leaves, tree, where, operands, kept, rule, versions=[t._version for t in operands])

    @property
    def xs(self) -> list[Tensor]:
        """Values of the operands that carry the rules."""
        return [k.value for k in self.kept]

    def arguments(self, at: Sequence[Tensor] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments, with the operands at the given values."""
        leaves = list(self.leaves)
        for i, value in zip(self.where, self.xs if at is None else at, strict=True):
            leaves[i] = value
        return put_together(leaves, self.tree)

    def run(self, at: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The outputs at the given values of the operands, flat."""
        args, kwargs = self.arguments(at)
        out = self.func(*args, **kwargs)
        if isinstance(out, Tensor):
            self.run_tree = _ONE
            return [out]
        leaves, self.run_tree = pytree.tree_flatten(out)
        return leaves

    def pull(
        self, grads: Sequence[Tensor] | Callable[[list[Tensor]], Sequence[Tensor]], at: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """What arrives at the operands for `grads` at the outputs, by plain differentiation at the given values.

        `grads` may be a function of the outputs there.
        """
        with torch.enable_grad():
            sources = [x.detach().clone().requires_grad_() for x in (self.xs if at is None else at)]
            outputs = self.run(sources)
            wanted = grads([y.detach() for y in outputs]) if callable(grads) else grads
            pairs = [(y, g) for y, g in zip(outputs, wanted, strict=True) if is_real(y) and y.requires_grad]
            if not pairs:
                return self._nothing(sources)
            # One scalar instead of `grad_outputs`: with those, torch loads its symbolic algebra first (many seconds).
            total = torch.stack([credit(y, g).sum() for y, g in pairs]).sum()
            found = torch.autograd.grad(total, sources, allow_unused=True)
        if all(g is None for g in found):
            return self._nothing(sources)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(sources, found, strict=True)]

    def _nothing(self, sources: list[Tensor]) -> list[Tensor]:
        if self.lost is not None:
            self.lost.append(self.name)
        return [torch.zeros_like(x) for x in sources]


class _Ruled(torch.autograd.Function):
    """A call whose backward pass is its rule."""

    @staticmethod
    def forward(ctx: Any, call: OpCall, *operands: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        if call.value is not None:
            return (call.value.detach().clone(),)
        # Fresh tensors: an output in the memory of an operand would count as a view of it.
        blocks = {block_of(x) for x in operands}
        outputs = tuple(y.clone() if block_of(y) in blocks else y for y in call.run(operands))
        ctx.mark_non_differentiable(*[y for y in outputs if not is_real(y)])
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        call: OpCall = ctx.call
        with torch.no_grad():
            found = call.rule(call, grads)
        fitting = [None if g is None else g.to(x.dtype).reshape(x.shape) for g, x in zip(found, call.xs, strict=True)]
        return (None, *fitting)


def ruled(call: OpCall) -> Any:
    """Run the call; what it returns has the rule as its backward pass."""
    outputs = _Ruled.apply(call, *call.operands)
    if call.value is not None:
        return outputs[0]
    return pytree.tree_unflatten(list(outputs), call.run_tree)


def call_behind(value: Tensor) -> OpCall | None:
    """The ruled call that gave this tensor, if one did."""
    found = getattr(value.grad_fn, "call", None)
    return found if isinstance(found, OpCall) else None
