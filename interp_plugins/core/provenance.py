"""Where the index of a table look-up comes from: integer inputs followed through a forward pass.

A model does arithmetic on its ids before it looks them up: it slices columns off, cuts a text into chunks, adds
offsets, drops padded rows. `Provenance` is a mode of torch functions, active for one pass, that carries beside every
integer tensor descending from the inputs a second one with the *positions* its elements come from: whatever moves the
elements moves the positions too, element-wise arithmetic leaves them. At a look-up (`F.embedding`, or a parameter
indexed by ids) the positions are then known, whatever module or function did it, and however often. Positions of
position ids, of masks made by comparing, and of counts are not carried: those indices do not descend from an id.

A third tensor may ride along, `other`: ids that the index would be made of if the input had been another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp_plugins.core.errors import ModelError
from interp_plugins.core.guard import modules_of
from interp_plugins.core.tensors import is_float, tensors_in

NOWHERE = -1  # a constant, such as a token that the model puts in front
SEVERAL = -2  # computed from several elements, or by something that is not followed

# By name: functions and methods of one name do the same, in-place ones (add_) and operators (__radd__) included.
_MOVES = {
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute", "t", "movedim",
    "moveaxis", "swapaxes", "swapdims", "expand", "expand_as", "broadcast_to", "repeat", "repeat_interleave",
    "tile", "cat", "concat", "concatenate", "stack", "hstack", "vstack", "split", "chunk", "tensor_split",
    "split_with_sizes", "unbind", "narrow", "select", "index_select", "gather", "take_along_dim", "masked_select",
    "flip", "fliplr", "roll", "unfold", "take", "getitem", "view_as", "reshape_as", "get", "pad", "diagonal",
    "ravel", "adjoint", "as_strided",
}  # fmt: skip
_SAME = {
    "to", "long", "int", "short", "type", "type_as", "cpu", "cuda", "contiguous", "clone", "detach", "add", "radd",
    "iadd", "sub", "rsub", "isub", "subtract", "mul", "rmul", "imul", "multiply", "remainder", "mod", "rmod",
    "imod", "fmod", "floordiv", "rfloordiv", "ifloordiv", "floor_divide", "div", "rdiv", "bitwise_and", "and",
    "rand", "iand", "bitwise_or", "or", "ror", "ior", "bitwise_xor", "xor", "rxor", "ixor", "clamp", "clip",
    "clamp_min", "clamp_max", "maximum", "minimum", "abs", "neg", "pow", "rpow", "lshift", "rshift", "ilshift",
    "irshift",
}  # fmt: skip


@dataclass(frozen=True)
class Lookup:
    """One look-up whose index descends from the inputs.

    Attributes:
        table: what is looked up in.
        index: what it was looked up with.
        positions: of the index's shape: where in the inputs each index comes from, or NOWHERE.
        other: the index that the other ids give.
        at: index -> values of shape (*index.shape, ...), the look-up itself.
    """

    table: Tensor
    index: Tensor
    positions: Tensor
    other: Tensor
    at: Callable[[Tensor], Tensor]


def tables_of(func: Any) -> set[int]:
    """Memory addresses of a model's floating-point parameters and buffers."""
    return {t.data_ptr() for root in modules_of(func) for t in (*root.parameters(), *root.buffers()) if is_float(t)}


class Provenance(TorchFunctionMode):
    """Follow integer tensors through the calls inside a `with` block.

    Args:
        tables: memory addresses of what is a table when it is indexed, see `tables_of`.
        sources: (ids, positions, other ids) for each integer input, all of one shape.
        on_lookup: called at each look-up; what it returns takes the place of the look-up's result.
    """

    def __init__(
        self,
        tables: set[int],
        sources: Iterable[tuple[Tensor, Tensor, Tensor]],
        on_lookup: Callable[[Lookup], Tensor],
    ):
        super().__init__()
        self.tables = tables
        self.on_lookup = on_lookup
        # The tensors are held, so that no id() is used twice during the pass.
        self.known: dict[int, tuple[Tensor, Tensor, Tensor]] = {id(x): (x, p, o) for x, p, o in sources}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the call; see to the positions of what it gives."""
        kwargs = kwargs or {}
        if not any(id(t) in self.known for t in tensors_in((args, kwargs))):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")
        lookup = self._lookup(func, name, args, kwargs)
        if lookup is not None:
            return self.on_lookup(lookup)
        out = func(*args, **kwargs)
        if name in ("setitem", "copy"):
            self._written(func, args, kwargs)
        elif name == "iter":
            parts = list(out)
            positions, other = (list(func(v)) for v in self.known[id(args[0])][1:])
            for part, position, value in zip(parts, positions, other, strict=True):
                self._keep(part, position, value)
            return iter(parts)
        elif not name.endswith("_like") and not name.startswith("new_"):  # made in the shape of ids, not of ids
            self._follow(func, name, args, kwargs, out)
        return out

    # -- look-ups ------------------------------------------------------------------------------------------------

    def _lookup(self, func: Any, name: str, args: Any, kwargs: Any) -> Lookup | None:
        """The look-up that a call is, or None."""
        if name == "embedding_bag":
            raise ModelError(
                "The model looks its ids up with embedding_bag, which sums rows of the table at once: no row can be "
                "credited to one id. Write the model with nn.Embedding and a sum, or use a method that replaces ids "
                "(feature_ablation, occlusion)."
            )
        if name == "embedding":
            given = dict(zip(("input", "weight") if func is F.embedding else ("weight", "indices"), args), **kwargs)
            table, index = given["weight"], given["input" if "input" in given else "indices"]
        elif name in ("getitem", "index_select") and is_float(args[0]) and self._is_table(args[0]):
            table, index = args[0], args[-1]
            index = index[0] if isinstance(index, tuple) and len(index) == 1 else index
            if name == "index_select" and (len(args) != 3 or args[1] not in (0, -table.ndim)):
                return None
        else:
            return None
        if id(index) not in self.known:
            return None
        _, positions, other = self.known[id(index)]
        if bool((positions == SEVERAL).any()):
            raise ModelError(
                f"The index of a look-up (table of shape {tuple(table.shape)}) is computed from several ids, or by an "
                "operation that cannot be followed back to one, so its row cannot be credited to one position. Use a "
                "method that replaces ids (feature_ablation, occlusion), or explain the layer behind the look-up "
                "(LayerIntegratedGradients)."
            )

        def at(ids: Tensor) -> Tensor:
            moved = [ids if a is index else (ids,) if isinstance(a, tuple) else a for a in args]
            value = func(*moved, **{k: ids if v is index else v for k, v in kwargs.items()})
            return value.reshape(*ids.shape, *table.shape[1:])

        return Lookup(table, index, positions, other, at)

    def _is_table(self, table: Tensor) -> bool:
        return isinstance(table, nn.Parameter) or table.data_ptr() in self.tables

    # -- everything before ---------------------------------------------------------------------------------------

    def _follow(self, func: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """Give the integer results of a call their positions, and what they would be of the other ids."""
        made = [t for t in tensors_in(out) if not is_float(t) and t.dtype != torch.bool]
        if not made:
            return
        first = args[0] if args else kwargs.get("input", kwargs.get("tensors"))
        moves = any(id(t) in self.known for t in tensors_in(first))
        if name in _SAME:
            self._keep(out, self._same(args, kwargs, out), self._with(func, args, kwargs, self._other))
        elif name == "where" and len(args) == 3:
            test, values = (args[1], args[::2]) if func is Tensor.where else (args[0], args[1:])
            yes, no = values
            positions = torch.where(test, self._position(yes), self._position(no))
            others = torch.where(test, self._other(yes), self._other(no))
            self._keep(out, positions, others)
        elif name in ("masked_fill", "pad") and moves:
            filled = args[:-1] if name == "masked_fill" else args[:2]
            positions = func(self._position(first).clone(), *filled[1:], value=NOWHERE)
            self._keep(out, positions, self._with(func, args, kwargs, self._other))
        elif name in ("getitem", "index_select") and not moves:  # ids through a table of ids
            index = args[-1][0] if isinstance(args[-1], tuple) else args[-1]
            if id(index) in self.known and out.shape == index.shape:
                self._keep(out, self._position(index), func(*args[:-1], self._other(index)))
        elif name in _MOVES and moves:
            rest = args[1:]
            for result, *shadows in zip(
                tensors_in(out),
                *(
                    tensors_in(func(*([part(first)] if args else []), *rest, **self._first(kwargs, part)))
                    for part in (self._position, self._other)
                ),
                strict=True,
            ):
                self._keep(result, *shadows)
        else:
            for result in made:
                self._keep(result, torch.full_like(result, SEVERAL, dtype=torch.long), result)

    def _same(self, args: Any, kwargs: Any, out: Tensor) -> Tensor:
        """Positions behind element-wise arithmetic: those of the operand that has some."""
        found = torch.full_like(out, NOWHERE, dtype=torch.long)
        for t in tensors_in((args, kwargs)):
            if id(t) in self.known:
                here = self.known[id(t)][1].expand(out.shape)
                found = torch.where(found == NOWHERE, here, torch.where((here == found) | (here < 0), found, SEVERAL))
        return found

    def _written(self, func: Any, args: Any, kwargs: Any) -> None:
        """A tensor that was written into has the positions of what was written, there."""
        target, value = args[0], args[-1]
        if is_float(target) or target.dtype == torch.bool:
            return
        positions = self._position(target).clone()
        func(positions, *args[1:-1], self._position(value) if id(value) in self.known else NOWHERE, **kwargs)
        other = self._other(target) if id(target) in self.known else target.clone()
        func(other, *args[1:-1], self._other(value), **kwargs)
        self._keep(target, positions, other)

    def _keep(self, result: Any, positions: Tensor, other: Tensor) -> None:
        if isinstance(result, Tensor) and not is_float(result) and result.dtype != torch.bool:
            self.known[id(result)] = (result, positions.expand(result.shape), other)

    def _position(self, value: Any) -> Any:
        """Positions in the place of a value: NOWHERE for tensors and numbers that are no ids."""
        if isinstance(value, (list, tuple)):
            return [self._position(v) for v in value]
        if isinstance(value, Tensor):
            known = self.known.get(id(value))
            return known[1] if known else torch.full_like(value, NOWHERE, dtype=torch.long)
        return NOWHERE

    def _other(self, value: Any) -> Any:
        """The other ids in the place of ids; anything else as it is."""
        if isinstance(value, (list, tuple)):
            return type(value)(self._other(v) for v in value)
        known = self.known.get(id(value)) if isinstance(value, Tensor) else None
        return known[2] if known else value

    def _with(self, func: Any, args: Any, kwargs: Any, part: Callable[[Any], Any]) -> Any:
        return func(*map(part, args), **{k: part(v) for k, v in kwargs.items()})

    def _first(self, kwargs: Any, part: Callable[[Any], Any]) -> dict[str, Any]:
        return {k: part(v) if k in ("input", "tensors") else v for k, v in kwargs.items()}
