"""What runs once for all methods of a call: passes on the samples themselves.

The prediction, the ends of completeness deltas, the unperturbed scores of perturbation methods and the gradients that
the class activation maps of a layer begin with are the same few passes. `cached_pass` remembers what came of one for
as long as the model is frozen (`core/caches.py`), and gives it again only where everything it depends on is as it was:
model, weights, buffers, hooks, inputs and arguments (bit by bit), target, autocast. A pass that drew random numbers or
left a state behind in the model is not remembered, nor is what takes much memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import ContextVar
from itertools import filterfalse
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from interp_plugins.core.batching import chunks
from interp_plugins.core.caches import call_cache
from interp_plugins.core.forward import Forward
from interp_plugins.core.generator_states import rng_state
from interp_plugins.core.guard import modules_below, modules_of
from interp_plugins.core.hooks import hook_numbers
from interp_plugins.engine.meter import dropped, reason, used
from interp_plugins.engine.switch import enabled

T = TypeVar("T")
_sharing: ContextVar[str] = ContextVar("interp_plugins_sharing", default="")


def sharing() -> bool:
    """Whether passes on the samples are shared here."""
    return bool(_sharing.get())


def alone() -> bool:
    """Whether a single method is all that follows, so that nobody asks for its gradients again."""
    return _sharing.get() == "one"


@contextlib.contextmanager
def share_passes(several: bool = True) -> Iterator[None]:
    """Let what runs in a `with` block, inside one `frozen`, share its passes on the samples.

    `explain` shares; a method's own `attribute` asks for nothing twice, and comparing takes time.

    Args:
        several: whether several methods or targets follow each other.
    """
    token = _sharing.set("several" if several or _sharing.get() == "several" else "one")
    try:
        yield
    finally:
        _sharing.reset(token)


_NAME = "shared passes"
_MOST = 32  # results remembered,
_BYTES = 2**26  # and how large one of them may be
_SHORT = 64  # containers longer than this are data, not a state
_PLAIN = frozenset((bool, int, float, str, type(None)))
_OF_TORCH = frozenset(vars(nn.Module()))


class PassFacts:
    """All that the result of a pass on the samples depends on, and, once it ran, that result."""

    def __init__(self, forward: Forward, inputs: Sequence[Tensor], what: Hashable):
        device = inputs[0].device.type
        leaves: list[Any] = list(inputs)
        tree: Any = (len(inputs), forward.output)
        if forward.args or forward.kwargs:
            more, tree = pytree.tree_flatten((forward.args, dict(forward.kwargs), forward.output))
            leaves += more
        self.modules = modules_below(modules_of(forward.func))
        weights = [p for m in self.modules if m._parameters for p in m._parameters.values() if p is not None]
        self.alive = (forward, leaves, weights)  # so that identities stay their own
        self.facts = (
            (what, id(forward.func), tree, tuple(_fact(v) for v in leaves if not isinstance(v, Tensor))),
            (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)),
            tuple((id(p), p._version) for p in weights),
            hook_numbers(self.modules),
        )
        self.tensors = _versions([*(v for v in leaves if isinstance(v, Tensor)), *self._buffers()])
        self.result: Any = None
        self.made: list[tuple[Tensor, int]] = []

    @classmethod
    def of(cls, forward: Forward, inputs: Sequence[Tensor], what: Hashable) -> PassFacts | None:
        """What a pass depends on, or None where that cannot be told, or accelerations are off.

        Tensors of inference mode have no version, and lazy modules no weights yet.
        """
        try:
            return cls(forward, inputs, what) if enabled() else None
        except RuntimeError as error:
            dropped(_NAME, reason(error, _NAME))
            return None

    def holds(self, now: PassFacts) -> bool:
        """Whether the result that was remembered here is that of another, equal pass."""
        return (
            self.facts == now.facts
            and len(self.tensors) == len(now.tensors)
            and all(t._version == version for t, version in (*self.tensors, *self.made))
            and all(_equal(a, b) for (a, _), (b, _) in zip(self.tensors, now.tensors, strict=True))
        )

    def state(self) -> tuple[Any, ...]:
        """What a pass may leave behind: the generators' states, buffers, tensors in plain attributes."""
        own = []
        for held in map(vars, self.modules):
            more = filterfalse(_OF_TORCH.__contains__, held)
            own += [v for k in more if type(v := held[k]) not in _PLAIN and _may_hold_tensors(v)]
        tensors = [t for t in pytree.tree_leaves(own) if isinstance(t, Tensor)] if own else []
        tensors += self._buffers()
        return (
            rng_state(),
            [(id(t), t._version) for t in tensors],
        )

    def _buffers(self) -> list[Tensor]:
        return [b for m in self.modules if m._buffers for b in m._buffers.values() if b is not None]


def _may_hold_tensors(value: Any) -> bool:
    """Whether an attribute is a tensor, or a short container of more than numbers and text."""
    if isinstance(value, Tensor):
        return True
    if not isinstance(value, (list, tuple, dict)) or len(value) > _SHORT:
        return False
    parts = value.values() if isinstance(value, dict) else value
    if _PLAIN.issuperset(map(type, parts)):  # mostly: sizes, strides, names
        return False
    return any(isinstance(v, (Tensor, list, tuple, dict)) for v in parts)


def _fact(value: Any) -> tuple[type, Any]:
    return type(value), value if isinstance(value, (bool, int, float, str)) else id(value)


def _versions(tensors: Sequence[Tensor]) -> list[tuple[Tensor, int]]:
    return [(t, t._version) for t in tensors]


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits."""
    if a is b:
        return True
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device) or a.layout is not torch.strided:
        return False  # sparse tensors are not compared: their pass runs again
    bits = [t.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return torch.equal(*bits)


def cached_pass(forward: Forward, inputs: Sequence[Tensor], what: Hashable, compute: Callable[[], T]) -> T:
    """`compute()`, or what it gave before in this scope.

    Args:
        forward: the model call.
        inputs: the samples.
        what: names what is computed, with everything besides model, inputs and arguments that it depends on. A target
            goes in as `id(forward.target)`: the forward that is remembered keeps it alive.
        compute: gives tensors in tuples, lists or dicts, and whatever else does not change; None is not remembered.
    """
    mine = PassFacts.of(forward, inputs, what) if sharing() else None
    if mine is None:
        return compute()
    memory = call_cache().setdefault(("passes",), [])
    for known in memory:
        if known.holds(mine):
            used(_NAME, what if isinstance(what, str) else str(what[0]) if isinstance(what, tuple) else "")
            return pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, known.result)
    if len(memory) == _MOST:
        return compute()
    before = mine.state()
    result = compute()
    made = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
    if result is None:
        return result
    if sum(t.nbytes for t in made) > _BYTES:
        dropped(_NAME, "what came of a pass is too large to keep")
    elif mine.state() != before:
        dropped(_NAME, "the model draws random numbers or keeps a state")
    else:
        mine.result, mine.made = result, _versions(made)
        memory.append(mine)
    return result


class MergesBatch(Exception):
    """The model gives one value for the whole batch."""


def clean_scores(forward: Forward, inputs: Sequence[Tensor], size: int | None = None) -> Tensor:
    """What the target selects for every sample, without gradient: outputs are computed once for all targets.

    A model that gives one value per batch gets the whole batch.

    Args:
        forward: the model call.
        inputs: the samples.
        size: samples per pass; None = automatic.
    """
    n, device = inputs[0].shape[0], inputs[0].device
    size = forward.samples_per_pass(inputs, size)
    selected: list[Tensor] = []

    def work(start: int, stop: int) -> tuple[Tensor, Tensor]:
        if stop - start == n:
            output = forward.raw(inputs)
            return output, forward.target(output)
        rows = torch.arange(start, stop, device=device)
        output = forward.raw([x[start:stop] for x in inputs], rows)
        chosen = forward.target.at(rows)(output)
        if chosen.ndim == 0 or chosen.shape[0] != stop - start:
            raise MergesBatch
        return output, chosen

    def outputs() -> Tensor | None:
        """All of them, unless they take much memory, or cannot be put together."""
        parts: list[Tensor] | None = []
        for start, stop, (output, chosen) in chunks(n, size, work):
            selected.append(chosen)
            whole = stop - start == n
            if not whole and (output.ndim == 0 or output.shape[0] != stop - start):
                parts = None
            if parts is not None:
                fits = output.nbytes // (stop - start) * n <= _BYTES
                parts = [*parts, output] if fits else None
        return None if parts is None else parts[0] if len(parts) == 1 else torch.cat(parts)

    with torch.no_grad():
        try:
            output = cached_pass(forward, inputs, "output", outputs)
        except MergesBatch:
            return forward.selected(inputs)
        if output is not None:
            return forward.target(output).detach()
        return selected[0].detach() if len(selected) == 1 else torch.cat(selected)
