"""`other_weights`: a model with other tensors in the place of its weights, for the length of a `with` block.

The user's tensors are never written to: the modules hold others meanwhile, and get their own back, the same objects,
also after an exception and Ctrl-C. Whatever finds the model finds it with the other weights: layers by name, hooks,
closures, method objects that were bound before. What is remembered of the weights (plans, transformed ones) is not used
inside, nor is anything kept of what was found there; whether rows feel each other is taken to be as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.caches import own_scope
from interp_plugins.core.errors import InputError
from interp_plugins.core.guard import exclusive, is_script, modules_below, modules_of
from interp_plugins.core.kept import closed_twice
from interp_plugins.core.row_memory import weights_exchanged


@dataclass(frozen=True)
class Held:
    """A place in a module that holds a tensor.

    Attributes:
        module: the module.
        name: of the place in it.
        path: dotted name in the model.
        tensor: what it holds.
        buffer: whether it is a buffer.
    """

    module: nn.Module
    name: str
    path: str
    tensor: Tensor
    buffer: bool


def held_by(func: Any) -> list[Held]:
    """All weights and persistent buffers of the modules behind a callable; tied weights once for each place.

    Args:
        func: an `nn.Module` or any callable around one.

    Raises:
        InputError: no module, or one whose weights cannot be exchanged.
    """
    roots = modules_of(func)
    if not roots:
        raise InputError(
            "The weights of this function cannot be found: give an nn.Module, or a function that holds one "
            "(a closure, a method, functools.partial)."
        )
    names = {id(m): name for root in reversed(roots) for name, m in root.named_modules(remove_duplicate=False)}
    found = []
    for module in modules_below(roots):
        if is_script(module):
            raise InputError("A TorchScript module keeps its weights where they cannot be exchanged: give the module.")
        path = names.get(id(module), type(module).__name__)
        prefix = f"{path}." if path else ""
        passing: set[str] = getattr(module, "_non_persistent_buffers_set", set())
        for name, p in module._parameters.items():
            if p is not None:
                found.append(Held(module, name, prefix + name, p, False))
        for name, b in module._buffers.items():
            if b is not None and name not in passing:
                found.append(Held(module, name, prefix + name, b, True))
    return found


@contextlib.contextmanager
def other_weights(func: Any, places: Sequence[Held], new: Mapping[int, Tensor]) -> Iterator[None]:
    """Let modules hold other tensors; other threads that explain the model wait.

    Args:
        func: an `nn.Module` or any callable around one.
        places: of `held_by`.
        new: the tensors to hold, by the id of the tensor that each replaces; the others stay.
    """
    stand_ins = {key: nn.Parameter(value.detach(), requires_grad=False) for key, value in new.items()}
    changed = [place for place in places if id(place.tensor) in new]

    def put_back() -> None:
        for place in changed:
            _hold(place, place.tensor)

    with exclusive(func), own_scope(), weights_exchanged(), closed_twice(put_back):
        for place in changed:
            mine = stand_ins[id(place.tensor)]
            _hold(place, mine.data if place.buffer else mine)
        yield


def _hold(place: Held, tensor: Tensor) -> None:
    """Put a tensor in its place; by `setattr`, since recurrent modules keep a list of their weights besides."""
    if place.buffer:
        place.module._buffers[place.name] = tensor
    elif place.module._parameters.get(place.name) is not tensor:
        setattr(place.module, place.name, tensor)


def is_drawable(place: Held) -> bool:
    """Whether a tensor holds what can be drawn anew: real numbers, all finite."""
    t = place.tensor
    plain = t.is_floating_point() and t.layout is torch.strided and not t.is_meta and t.numel() > 0
    return plain and bool(t.detach().isfinite().all())
