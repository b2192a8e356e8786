"""The private views that could take a model's place in a loop, the boldest first, and what each of them changes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from interp_plugins.core.forward import Forward
from interp_plugins.core.layers import AtLayer, Layer
from interp_plugins.engine.plan.compiled import compiling
from interp_plugins.engine.plan.convolutions import WinogradConv2d, winograd_candidates
from interp_plugins.engine.plan.first_layer import BehindFirstLayer, FirstLayer, first_layer
from interp_plugins.engine.plan.fold import folded
from interp_plugins.engine.plan.layout import InLayout, channels_last, pays
from interp_plugins.engine.plan.linear_map import faster
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
    """

    forward: Forward
    inputs: Sequence[Tensor]
    rows: int
    chunk: int
    wrt: Sequence[Layer] | None
    first: bool = False
    backward: bool = False


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
    """

    func: Callable[..., Any]
    view: View
    changes: tuple[str, ...] = ()
    behind: BehindFirstLayer | None = None
    replaying: bool = False
    packed: Sequence[WinogradConv2d] = ()


def replaying(loop: Loop, tracer: Tracer, at: AtLayer) -> Plan | None:
    """A plan that computes once what lies before the layer, if anything does that is little enough to be kept.

    Args:
        loop: what the plan is for.
        tracer: what the plain model did.
        at: the model as a function of the layer.

    Raises:
        NoView: the model's modules cannot be exchanged.
    """
    prefix = before(tracer, at)
    if not prefix:
        return None
    memory = Memory(loop.forward.n)
    stand_ins = folded(tracer, at.layers)
    changes = _counted("folded", len(stand_ins) // 2)
    stand_ins |= {key: memory.stand_in(m, calls) for key, (m, calls) in prefix.items()}
    view = View(stand_ins)
    func = Replaying(view.of(at), memory)
    if not func.record(loop.forward, loop.inputs, loop.chunk):
        return None
    return Plan(func, view, (*changes, "what lies before the layer out of the loop"), replaying=True)


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
    for with_faster, with_first, with_layout in itertools.product((True, False), repeat=3):
        if (with_layout and not layout) or (with_first and first is None):
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
            return  # they would be the same again
        if not (with_layout or with_first or stand_ins or quick):
            continue
        stand_ins |= quick
        entry = None
        if with_first and first is not None:
            entry = FirstLayer(stand_ins.get(id(first), first))
            stand_ins[id(first)] = entry
        view = View(stand_ins)
        mine, behind = view.of(func), None
        if entry is not None:
            behind = BehindFirstLayer(mine, entry, tuple(x.shape[1:]), with_layout and x.ndim == 4)
        changes += _counted("winograd", len(quick))
        yield Plan(InLayout(mine) if with_layout else mine, view, changes, behind, packed=tuple(quick.values()))


def _counted(what: str, count: int) -> tuple[str, ...]:
    return (f"{what} {count}",) if count else ()
