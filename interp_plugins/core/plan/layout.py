"""The channels-last layout for image networks on CPUs, where convolutions run faster in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .probe import Probe, is_plain
from .view import shallow


def channels_last(probe: Probe, x: Tensor, folds: Mapping[int, nn.Module] | None = None) -> dict[int, nn.Module]:
    """Stand-ins, by module id, with channels-last weights for the 2-D convolutions; none where it does not pay."""
    if x.ndim != 4 or x.dtype != torch.float32 or x.device.type != "cpu":
        return {}
    out: dict[int, nn.Module] = {}
    for visit in probe.visits:
        module = visit.module
        if not is_plain(module, (nn.Conv2d,)) or id(module) in out:
            continue
        mine = shallow((folds or {}).get(id(module), module))
        weight = mine.weight
        assert isinstance(weight, Tensor)
        mine._parameters["weight"] = nn.Parameter(
            weight.detach().contiguous(memory_format=torch.channels_last), requires_grad=False
        )
        out[id(module)] = mine
    return out


def has_own_backward(output: Any) -> bool:
    """Whether the graph behind an output holds a backward function written in Python, which may expect a layout."""
    todo = [t.grad_fn for t in _tensors(output) if t.grad_fn is not None]
    seen: set[Any] = set()
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "_forward_cls"):
            return True
        todo += [n for n, _ in node.next_functions if n is not None]
    return False


def _tensors(output: Any) -> list[Tensor]:
    from torch.utils import _pytree as pytree

    return [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]


class InLayout:
    """A callable that gets its pictures channels-last."""

    def __init__(self, func: Callable[..., Any]):
        self.func = func

    def wrapped_callables(self) -> list[Any]:
        """The callables inside (for the guard)."""
        return [self.func]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call func."""
        return self.func(*(_converted(a) for a in args), **kwargs)


def _converted(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point():
        return value.contiguous(memory_format=torch.channels_last)
    return value
