"""`Kept`: what a model was before it was frozen, and putting it back, once or again.

Putting back is done in steps that may each be done twice, so that one that was interrupted is simply run again.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils import _pytree as pytree

from interp_plugins.core.caches import call_cache
from interp_plugins.core.hooks import remove_leftovers

_NONE: dict[str, Tensor | None] = {}  # of modules without buffers; never filled
_LARGE_BUFFER = 64 * 2**20  # bytes; larger buffers are packed weights, not running statistics


@contextlib.contextmanager
def closed_twice(close: Callable[[], object]) -> Iterator[None]:
    """Call `close` at the end of a `with` block, and once more where that was interrupted; it may be called twice."""
    try:
        yield
    finally:
        try:
            close()
        except BaseException:
            close()
            raise


def _is_large(buffer: Tensor) -> bool:
    """Whether a buffer is too large for a private copy; sparse ones have no size of their own, and are copied."""
    return buffer.layout is torch.strided and buffer.nbytes > _LARGE_BUFFER


class _PrivateCopies:
    """Private copies of buffers; a `frozen` inside another takes the other's, while nothing was written into them."""

    def __init__(self) -> None:
        # By the copy's id: the copy, its version when it was made, and what it is a copy of.
        self.known: dict[int, tuple[Tensor, int, Tensor]] = call_cache().setdefault(("private buffers",), {})
        self.lent: dict[int, tuple[Tensor, int, Tensor]] = {}

    def of(self, buffer: Tensor) -> Tensor:
        """A copy to work with, or the buffer itself where it is such a copy, still as it was made."""
        known = self.known.get(id(buffer))
        if known is None:
            return self._made(buffer)
        if buffer._version != known[1]:
            return buffer.clone()
        self.lent[id(buffer)] = known
        return buffer

    def put_right(self, held: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
        """The buffers that were there before, with new copies in the place of what was lent and then written into."""
        lent = {name: self.lent[id(b)] for name, b in held.items() if id(b) in self.lent}
        changed = {name: original for name, (b, version, original) in lent.items() if b._version != version}
        return {**held, **{name: self._made(original) for name, original in changed.items()}}

    def _made(self, original: Tensor) -> Tensor:
        copy = original.clone()
        self.known[id(copy)] = (copy, copy._version, original)
        return copy


class Kept:
    """A model's modes, weights' flags, buffers and plain attributes, each as it was.

    Args:
        modules: the model's modules, each once.
        first: whether this is the outermost scope of the model, at whose end no hook of ours is left.
    """

    def __init__(self, modules: Sequence[nn.Module], first: bool):
        self._modules, self._first = modules, first
        # A frozen script has no such flag.
        self._modes = [(m, mode) for m in modules if (mode := getattr(m, "training", None)) is not None]
        # Weights made in inference mode cannot take part in a graph: ordinary copies (shared where they are) stand in.
        self._inference: list[tuple[nn.Module, str, nn.Parameter]] = []
        trainable: dict[int, nn.Parameter] = {}
        for m in modules:
            for name, p in m._parameters.items():
                if p is None:
                    continue
                if p.is_inference():
                    self._inference.append((m, name, p))
                elif p.requires_grad and p.is_leaf:
                    trainable[id(p)] = p
        self._trainable = list(trainable.values())
        # Scripted modules keep their buffers where they cannot be exchanged.
        ours = [m for m in modules if not isinstance(m, torch.jit.ScriptModule)]
        self._buffers = [(m, held.copy() if (held := m._buffers) else _NONE) for m in ours]
        self._copies = _PrivateCopies()
        # A recurrent net may keep its state between calls in plain attributes. Lazy modules become others: left alone.
        self._plain = [(m, vars(m).copy()) for m in modules if not isinstance(m, LazyModuleMixin)]

    def change(self) -> None:
        """Eval mode, parameters without grad, private copies of buffers."""
        for m, training in self._modes:
            if training:
                m.training = False
        for m, held in self._buffers:
            for name, buffer in held.items():
                if buffer is not None and (buffer.is_inference() or not _is_large(buffer)):
                    # A private copy: no in-place change reaches the user's buffer, no inference tensor our graph.
                    m._buffers[name] = self._copies.of(buffer)
        if self._inference:
            stand_ins = {id(p): nn.Parameter(p.clone(), requires_grad=False) for _, _, p in self._inference}
            for m, name, p in self._inference:
                setattr(m, name, stand_ins[id(p)])
        for p in self._trainable:
            p.requires_grad_(False)

    def put_back(self) -> None:
        """Everything as it was; may be called again."""
        for p in self._trainable:
            p.requires_grad_(True)
        for m, name, p in self._inference:
            setattr(m, name, p)
        for m, attributes in self._plain:
            if not _same(vars(m), attributes):
                _put_back(m, attributes)
        for m, held in self._buffers:  # also those that the forward filled in or added
            if held or m._buffers:
                _put_buffers_back(m, self._copies.put_right(held))
        for m, training in self._modes:
            if m.training is not training:
                m.training = training
        if self._first:
            remove_leftovers(self._modules)

    def rewind(self) -> None:
        """Buffers and plain attributes as they were at the beginning of the block, for calling the model once more."""
        for m, attributes in self._plain:
            _put_back(m, {**attributes, "training": False} if "training" in attributes else attributes)
        for m, held in self._buffers:
            if held or m._buffers:
                _put_buffers_back(m, {k: b if b is None else self._copies.of(b) for k, b in held.items()})


def _same(now: dict[str, Any], attributes: dict[str, Any]) -> bool:
    """Whether a module's attributes are the objects that they were, in their order."""
    return len(now) == len(attributes) and all(map(operator.is_, now.values(), attributes.values()))


def _put_buffers_back(module: nn.Module, held: dict[str, Tensor | None]) -> None:
    """The buffers, in their order, without a moment in which one is missing."""
    now = module._buffers
    if list(now) == list(held):
        for name, buffer in held.items():
            if now[name] is not buffer:
                now[name] = buffer
    else:
        module.__dict__["_buffers"] = held


def _put_back(module: nn.Module, attributes: dict[str, Any]) -> None:
    """Undo what a forward pass set on a module, if that held tensors (a state); a mere counter goes on counting.

    By `setattr`, since recurrent modules keep a list of their weights beside the attributes.
    """
    now = vars(module)
    if _same(now, attributes):
        return
    added = [name for name in now if name not in attributes]
    changed = [name for name, value in attributes.items() if now.get(name, None) is not value]
    if not any(isinstance(t, Tensor) for name in (*added, *changed) for t in pytree.tree_leaves(now.get(name))):
        return
    for name in added:
        del now[name]
    for name in changed:
        setattr(module, name, attributes[name])
