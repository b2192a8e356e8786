"""What lies before a layer, computed once: for methods that start at a layer's activation.

`AtLayer` runs the model on the clean inputs and puts an activation in at the layer. Whatever ended before that depends
on the clean inputs alone, so it is the same at every step and perturbation: it runs once, and its output is given from
memory to the rows of each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from interp_plugins.core.forward import Forward
from interp_plugins.core.layers import AtLayer
from interp_plugins.core.wrapper import Wrapper
from interp_plugins.engine.plan.tracer import ModuleCall, Tracer
from interp_plugins.engine.plan.view import shallow

_BYTES = 2**28  # remembered outputs at most


class Memory:
    """Outputs of the modules that ran before the layer, and the rows that are running now."""

    def __init__(self, n: int):
        self.n = n
        self.rows: Tensor | None = None  # None: outputs are being recorded
        self.outputs: dict[int, list[Any]] = {}
        self.counts: dict[int, int] = {}

    def begin(self, rows: Tensor | None) -> None:
        """Before each call of the model."""
        self.rows, self.counts = rows, {}

    def stand_in(self, module: nn.Module, calls: int) -> nn.Module:
        """The module, with its first calls answered from memory."""
        mine, key = shallow(module), id(module)
        real: Callable[..., Any] = mine.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            count = self.counts[key] = self.counts.get(key, 0) + 1
            if count > calls:
                return real(*args, **kwargs)
            if self.rows is None:
                output = real(*args, **kwargs)
                self.outputs.setdefault(key, []).append(output)
                return output
            return self._for_rows(self.outputs[key][count - 1])

        mine.forward = forward
        return mine

    def join(self, parts: Sequence[dict[int, list[Any]]], sizes: Sequence[int]) -> None:
        """Put together what was recorded of some samples after the others."""

        def joined(*values: Any) -> Any:
            batched = all(isinstance(v, Tensor) and v.shape[:1] == (s,) for v, s in zip(values, sizes, strict=True))
            return torch.cat(values) if batched else values[0]

        whole: dict[int, list[Any]] = {}
        for key in parts[0]:
            columns = zip(*(part[key] for part in parts), strict=True)
            whole[key] = [pytree.tree_map(joined, *column) for column in columns]
        self.outputs = whole

    def _for_rows(self, output: Any) -> Any:
        rows = self.rows
        assert rows is not None

        def pick(value: Any) -> Any:
            batched = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == self.n
            return value.index_select(0, rows.to(value.device)) if batched else value

        return pytree.tree_map(pick, output)

    def nbytes(self) -> int:
        """Bytes of the outputs that are remembered."""
        return sum(t.nbytes for t in pytree.tree_leaves(self.outputs) if isinstance(t, Tensor))


class Replaying(Wrapper):
    """A callable that tells its memory which rows run: `f(*args, rows)`."""

    def __init__(self, func: Callable[..., Any], memory: Memory):
        self.func, self.memory = func, memory

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call func on all arguments but the last."""
        self.memory.begin(args[-1])
        return self.func(*args[:-1], **kwargs)

    def record(self, forward: Forward, inputs: Sequence[Tensor], chunk: int) -> bool:
        """Run once on all samples, a chunk of them at a time, and remember; whether that is little enough to keep."""
        parts: list[dict[int, list[Any]]] = []
        sizes: list[int] = []
        taken = 0
        for rows in torch.arange(forward.n, device=inputs[0].device).split(chunk):
            args, kwargs = forward.arguments([x.detach().index_select(0, rows) for x in inputs], rows)
            self.memory.begin(None)
            self.memory.outputs = {}
            with torch.no_grad():
                self.func(*args, **kwargs)
            taken += self.memory.nbytes()
            if taken * forward.n > _BYTES * (sum(sizes) + len(rows)):  # what all of them will take
                return False
            parts.append(self.memory.outputs)
            sizes.append(len(rows))
        self.memory.join(parts, sizes)
        return True


def before(probe: Tracer, at: AtLayer) -> dict[int, tuple[nn.Module, int]]:
    """The outermost modules that ended before the first layer put in, with their numbers of calls until then."""
    ends = [_put_in(probe, layer.module, layer.io, layer.call) for layer in at.counted_layers()]
    if any(end is None for end in ends):
        return {}
    limit = min(end for end in ends if end is not None)
    outermost: list[ModuleCall] = []
    for visit in probe.visits:  # in the order of their beginnings
        inside = outermost and visit.end < outermost[-1].end
        if inside and any(visit.module is layer.module for layer in at.layers):
            return {}  # a call of the layer itself would not be seen any more
        if not inside and 0 <= visit.end <= limit:
            outermost.append(visit)
    found: dict[int, tuple[nn.Module, int]] = {}
    for visit in outermost:
        found[id(visit.module)] = (visit.module, found.get(id(visit.module), (visit.module, 0))[1] + 1)
    return found


def _put_in(probe: Tracer, module: Any, io: str, call: int | None) -> int | None:
    """The event up to which nothing depends on the tensor put in at a layer."""
    calls: Sequence[ModuleCall] = probe.calls(module)
    which = len(calls) - 1 if call is None else call
    if not 0 <= which < len(calls):
        return None
    return calls[which].end if io == "output" else calls[which].begin - 1
