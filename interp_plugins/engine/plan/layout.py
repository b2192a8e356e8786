"""The channels-last layout for image networks on CPUs, where convolutions run faster in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.tensors import tensors_in
from interp_plugins.core.wrapper import Wrapper
from interp_plugins.engine.plan.tracer import Tracer, is_plain
from interp_plugins.engine.plan.view import shallow


def pays(probe: Tracer, x: Tensor) -> bool:
    """Whether the layout is faster: for the 2-D convolutions of pictures, in float32 on a CPU."""
    pictures = x.ndim == 4 and x.dtype == torch.float32 and x.device.type == "cpu"
    return pictures and any(is_plain(visit.module, (nn.Conv2d,)) for visit in probe.visits)


def channels_last(probe: Tracer, stand_ins: dict[int, nn.Module]) -> None:
    """Give all 2-D convolutions stand-ins, by module id, with channels-last weights; those there are become it."""
    done: set[int] = set()
    for visit in probe.visits:
        key = id(visit.module)
        if not is_plain(visit.module, (nn.Conv2d,)) or key in done:
            continue
        done.add(key)
        mine = stand_ins[key] = stand_ins.get(key) or shallow(visit.module)
        weight = mine.weight
        assert isinstance(weight, Tensor)
        mine._parameters["weight"] = nn.Parameter(
            weight.detach().contiguous(memory_format=torch.channels_last), requires_grad=False
        )


def has_own_backward(output: Any) -> bool:
    """Whether the graph behind an output holds a backward function written in Python, which may expect a layout."""
    todo = [t.grad_fn for t in tensors_in(output) if t.grad_fn is not None]
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


class InLayout(Wrapper):
    """A callable that gets its pictures channels-last."""

    def __init__(self, func: Callable[..., Any]):
        self.func = func

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the callable with its pictures channels-last."""
        return self.func(*(_converted(a) for a in args), **kwargs)


def _converted(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point():
        return value.contiguous(memory_format=torch.channels_last)
    return value
