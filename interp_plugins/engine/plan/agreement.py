"""Whether a private view computes what the model does: its outputs and, where gradients are taken, theirs.

One row of the actual batch goes through the plain model, watched, and through each view that could take its place.
Where a method goes backward, gradients of a fixed mixture of all outputs are compared as well: at the inputs, or at the
layers that the method reads. They differ more than outputs do, since a unit whose input is zero but for rounding passes
a gradient on or does not; so they are compared as a whole, and once more at a point near by before a view is dropped.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from interp_plugins.core.forward import Forward
from interp_plugins.core.global_random import model_call
from interp_plugins.core.layers import AtLayer, Layer, run_and_read
from interp_plugins.core.tensors import expand_rows, is_float
from interp_plugins.engine.meter import percent
from interp_plugins.engine.plan.candidates import Plan
from interp_plugins.engine.plan.layout import has_own_backward
from interp_plugins.engine.plan.mixture import mixture_gradients, waves
from interp_plugins.engine.plan.tracer import Tracer
from interp_plugins.engine.plan.view import AGREE

# How far gradients of a view may be from the model's, by their norms.
AGREE_GRADIENTS = {torch.float64: 1e-6, torch.float32: 2e-2}
_LOWER = 0.1  # of the largest output, for passes in lower precision: whether that is too much, rows tell
_NEAR = 0.02  # of the largest value of the input: how far away the second point is

Results = tuple[list[Tensor], list[Tensor | None]]  # outputs, gradients


class Trial:
    """The first sample, the plain model's results for it, and the comparison with a view's.

    It is one row; of a layer's tensors there are two, the second halved, which the score has to follow.

    Args:
        forward: the model call.
        inputs: the inputs of the batch.
        wrt: layers whose gradients are taken, in place of the inputs'.
        backward: whether gradients are taken.

    Attributes:
        tracer: what the plain model did.
        x: the first input as the model got it.
        own_backward: whether the model goes backward through functions written in Python.
    """

    def __init__(self, forward: Forward, inputs: Sequence[Tensor], wrt: Sequence[Layer] | None, backward: bool):
        self._forward, self._wrt, self._backward = forward, wrt, backward
        count = 2 if isinstance(forward.func, AtLayer) else 1
        self.rows = torch.zeros(count, dtype=torch.long, device=inputs[0].device)
        halves = 0.5 ** torch.arange(count, device=inputs[0].device)
        self._values = [x.detach().index_select(0, self.rows) * expand_rows(halves, x).to(x) for x in inputs]
        leaves = [v.clone().requires_grad_() for v in self._values]  # with a graph, to see what would run backward

        def watched() -> Any:
            self.tracer = Tracer()
            args, kwargs = forward.arguments(leaves, self.rows)
            self.x: Tensor = args[0]
            return self.tracer.run(forward.func, *args, **kwargs)

        output = model_call(watched)
        self.own_backward = has_own_backward(output)
        grads = mixture_gradients(output, leaves) if backward and not wrt else []
        self._plain: Results = _values(output), grads
        del output
        if backward and wrt:
            self._plain = self._plain[0], self._run(forward.func, self._values, wrt)[1]

    def disagreement(self, plan: Plan) -> str | None:
        """How far the plan's results are off; None where it agrees."""
        found = self._planned(plan, self._values)
        off = _off(found[0], self._plain[0])
        if off is not None:
            return f"outputs are off by {off}"
        off = _off_as_a_whole(found[1], self._plain[1])
        if off is None:
            return None
        near, plain = self._near
        off = _off_as_a_whole(self._planned(plan, near)[1], plain)
        return None if off is None else f"gradients are off by {off}"

    def far_off(self, func: Callable[..., Any]) -> str | None:
        """How far outputs of passes in lower precision are off; None where it is no more than that allows."""
        found, within = self._run(func, self._values, None)[0], {torch.float32: _LOWER}
        off = _off(found, self._plain[0], within)
        return None if off is None else f"outputs are off by {off}"

    @functools.cached_property
    def _near(self) -> tuple[list[Tensor], list[Tensor | None]]:
        """The second point, where no unit's input is zero that was zero at the first, and the model's gradients."""
        values = [v + _NEAR * (float(v.abs().max()) or 1.0) * waves(v) for v in self._values]
        return values, self._run(self._forward.func, values, self._wrt)[1]

    def _planned(self, plan: Plan, values: Sequence[Tensor]) -> Results:
        if plan.behind is None:
            layers = None if self._wrt is None else [plan.view.layer(layer) for layer in self._wrt]
            rows = (torch.zeros(len(self.rows), dtype=torch.long),) if plan.replaying else ()
            return self._run(plan.func, values, layers, rows)
        args, kwargs = self._forward.arguments(values, self.rows)
        y = plan.behind.encode(values[0]).detach().requires_grad_(self._backward)
        with torch.set_grad_enabled(self._backward):
            output = plan.behind(y, *args[1:], **kwargs)
        grads = mixture_gradients(output, [y]) if self._backward else []
        return _values(output), [None if g is None else plan.behind.pull_back(values[0], g) for g in grads]

    def _run(
        self, func: Callable[..., Any], values: Sequence[Tensor], layers: Sequence[Layer] | None, more: Any = ()
    ) -> Results:
        """Outputs and, where they are asked for, gradients of a callable at some values of the inputs."""
        leaves: Sequence[Tensor] = [v.clone().requires_grad_(self._backward) for v in values]
        with torch.set_grad_enabled(self._backward):
            args, kwargs = self._forward.arguments(leaves, self.rows)
            if layers and self._backward:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what there is to say of a layer is said by the method
                    output, read = run_and_read(func, layers, *args, *more, **kwargs)
                leaves = [t for tensors in read for t in tensors]
            else:
                output = func(*args, *more, **kwargs)
        return _values(output), mixture_gradients(output, leaves) if self._backward else []


def _values(output: Any) -> list[Tensor]:
    return [t.detach() for t in pytree.tree_leaves(output) if is_float(t)]


def _off(
    found: Sequence[Tensor], expected: Sequence[Tensor], within: Mapping[torch.dtype, float] = AGREE
) -> str | None:
    """How far outputs are off, element by element; None where it is no more than rounding allows."""
    if [(t.shape, t.dtype) for t in found] != [(t.shape, t.dtype) for t in expected]:
        return "their shapes or types"
    for a, b in zip(found, expected, strict=True):
        if a.dtype not in within:
            return f"their type, {str(a.dtype).removeprefix('torch.')}"
        if a.numel():
            off, scale = float((a - b).abs().max()), float(b.abs().max())
            if not off <= within[a.dtype] * scale:  # NaN does not agree
                return percent(off / scale if scale else math.inf)
    return None


def _off_as_a_whole(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> str | None:
    """How far gradients are off, by their norms; None where it is no more than rounding and kinks allow."""
    if [g is None for g in found] != [g is None for g in expected]:
        return "all, where there are none" if any(g is not None for g in found) else "all"
    for a, b in zip(found, expected, strict=True):
        if a is None or b is None:
            continue
        if a.shape != b.shape or a.dtype not in AGREE_GRADIENTS:
            return "their shapes or types"
        off, scale = (float(torch.linalg.vector_norm(t)) for t in (a - b, b))
        if not off <= AGREE_GRADIENTS[a.dtype] * scale:
            return percent(off / scale if scale else math.inf)
    return None
