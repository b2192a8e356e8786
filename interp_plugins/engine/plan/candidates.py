"""The private views that could take a model's place in a loop, the boldest first, and what each of them changes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.forward import Forward
from interp_plugins.core.layers import AtLayer, Layer
from interp_plugins.engine.plan.compiled import compiling
from interp_plugins.engine.plan.convolutions import WinogradConv2d, winograd_candidates
from interp_plugins.engine.plan.first_layer import BehindFirstLayer, FirstLayer, first_layer
from interp_plugins.engine.plan.fold import folded
from interp_plugins.engine.plan.layout import InLayout, channels_last, pays
from interp_plugins.engine.plan.linear_map import faster
from interp_plugins.engine.plan.lower import Lower, lower_dtype, lower_ways_back
from interp_plugins.engine.plan.replay import Memory, Replaying, before
from interp_plugins.engine.plan.tracer import Tracer
from interp_plugins.engine.plan.view import View, layers_in


@dataclass(frozen=True)
class Loop:
    """What a plan is made for.

    Attributes:
        forward: the model call.
        inputs: the inputs of the batch.
        rows: rows that are going to be sent through.
        chunk: rows that go through at a time.
        wrt: layers that the caller reads.
        first: whether the first linear layer may leave the loop.
        backward: whether gradients are taken.
        lower: whether it may run in lower precision, where one was asked for.
    """

    forward: Forward
    inputs: Sequence[Tensor]
    rows: int
    chunk: int
    wrt: Sequence[Layer] | None
    first: bool = False
    backward: bool = False
    lower: bool = True


@dataclass(frozen=True)
class Plan:
    """A view that could take the model's place.

    Attributes:
        func: the callable to use in the place of the model's.
        view: the private view, to find layers in.
        changes: what is different in it, for the meter.
        behind: the callable behind the first linear layer, or None.
        replaying: whether `func` takes the numbers of the rows as one more argument.
        packed: stand-ins that run from transformed weights.
        lower: the precision of its gradients, where it is a lower one.
    """

    func: Callable[..., Any]
    view: View
    changes: tuple[str, ...] = ()
    behind: BehindFirstLayer | None = None
    replaying: bool = False
    packed: Sequence[WinogradConv2d] = ()
    lower: Lower | None = None


def replaying(loop: Loop, tracer: Tracer, at: AtLayer) -> Iterator[Plan]:
    """Plans that compute once what lies before the layer, if anything does that is little enough to be kept.

    Args:
        loop: what the plan is for.
        tracer: what the plain model did.
        at: the model as a function of the layer.

    Raises:
        NoView: the model's modules cannot be exchanged.
    """
    prefix = before(tracer, at)
    if not prefix:
        return
    dtype, ends = _lower_of(loop), {id(m) for module, _ in prefix.values() for m in module.modules()}
    for lower in (*([] if dtype is None else [Lower(dtype)]), None):
        memory = Memory(loop.forward.n)
        stand_ins = folded(tracer, at.layers)
        changes = _counted("folded", len(stand_ins) // 2)
        if lower is not None:
            ways = lower_ways_back(tracer, stand_ins, lower, ends)
            stand_ins |= ways
            changes += _counted(f"gradients in {lower.name}", len(ways))
        stand_ins |= {key: memory.stand_in(m, calls) for key, (m, calls) in prefix.items()}
        view = View(stand_ins)
        func = Replaying(view.of(at), memory)
        if not func.record(loop.forward, loop.inputs, loop.chunk):
            return
        changes += ("what lies before the layer out of the loop",)
        yield Plan(func, view, changes, replaying=True, lower=lower)


def _lower_of(loop: Loop) -> torch.dtype | None:
    """The lower precision that gradients of a loop may run in; functions of our own are no part of a compiled graph."""
    known = loop.backward and loop.lower and loop.inputs[0].dtype == torch.float32 and not compiling()
    return lower_dtype(loop.inputs[0].device) if known else None


def candidates(loop: Loop, tracer: Tracer, x: Tensor, own_backward: bool) -> Iterator[Plan]:
    """Plans, the boldest first.

    Args:
        loop: what the plans are for.
        tracer: what the plain model did.
        x: the first input in that pass.
        own_backward: whether the model goes backward through functions written in Python, which may know one layout.

    Raises:
        NoView: the model's modules cannot be exchanged.
    """
    func, wrt = loop.forward.func, loop.wrt
    layout = not own_backward and pays(tracer, x)
    first = first_layer(tracer, x) if loop.first and wrt is None and not layers_in(func) else None
    found_faster = False
    lower = _lower_of(loop)
    for with_lower, with_faster, with_first, with_layout in itertools.product((True, False), repeat=4):
        if (with_layout and not layout) or (with_first and first is None) or (with_lower and lower is None):
            continue
        stand_ins = folded(tracer, [*layers_in(func), *(wrt or ())])  # made anew: no two copies of the weights at once
        changes = _counted("folded", len(stand_ins) // 2)
        if with_layout:
            channels_last(tracer, stand_ins)
            changes += ("channels-last",)
        quick: dict[int, WinogradConv2d] = {}
        if with_faster and with_layout and not compiling():  # functions of our own are no part of a compiled graph
            quick = faster(winograd_candidates(tracer, stand_ins, min(loop.rows, loop.chunk)), loop.rows)
            found_faster = found_faster or bool(quick)
        if not with_faster and not found_faster:
            continue  # they would be the same again
        stand_ins |= quick
        mine = Lower(lower) if with_lower and lower is not None else None
        if mine is not None:
            ways = lower_ways_back(tracer, stand_ins, mine, {id(first)} if with_first else ())
            stand_ins |= ways
            changes += _counted(f"gradients in {mine.name}", len(ways))
        if not (with_layout or with_first or stand_ins):
            continue
        changes += _counted("winograd", len(quick))
        plan = _plan_of(loop, stand_ins, first if with_first else None, x, with_layout)
        yield replace(plan, changes=changes, packed=tuple(quick.values()), lower=mine)


def _plan_of(loop: Loop, stand_ins: dict[int, nn.Module], first: nn.Module | None, x: Tensor, last: bool) -> Plan:
    """The view with these stand-ins, behind the first layer if there is one, in the channels-last layout if `last`."""
    entry = None
    if first is not None:
        entry = FirstLayer(stand_ins.get(id(first), first))
        stand_ins[id(first)] = entry
    view = View(stand_ins)
    mine, behind = view.of(loop.forward.func), None
    if entry is not None:
        behind = BehindFirstLayer(mine, entry, tuple(x.shape[1:]), last and x.ndim == 4)
    return Plan(InLayout(mine) if last else mine, view, behind=behind)


def _counted(what: str, count: int) -> tuple[str, ...]:
    return (f"{what} {count}",) if count else ()
