"""The planned forward: a model's private, faster, equal view, for the loops that run it many times.

    forward, wrt = planned(forward, inputs, rows=50, chunk=8, wrt=layers)

Batch normalisation is folded into the layer before it, image networks run in the channels-last layout, 3 x 3
convolutions with fewer multiplications where that pays, and (for a straight path, `behind_first_layer`) the first
linear layer leaves the loop. A plan is made from one watched forward pass of
the first actual sample and checked on it against the plain model. One that does not agree is dropped, part by part,
until the plain model runs; there is nothing to configure. `engine.switch` switches it off. The few rows of the check
are not counted as passes of the method.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from interp_plugins.core.caches import call_cache
from interp_plugins.core.errors import InputError
from interp_plugins.core.forward import Forward
from interp_plugins.core.guard import modules_of, preserved_rng
from interp_plugins.core.layers import AtLayer, Layer
from interp_plugins.core.tensors import expand_rows, is_float
from interp_plugins.engine.plan.compiled import NO_LAYERS, compiling, through_compiler
from interp_plugins.engine.plan.convolutions import WinogradConv2d, winograd_candidates
from interp_plugins.engine.plan.first_layer import BehindFirstLayer, FirstLayer, first_layer
from interp_plugins.engine.plan.fold import LINEAR, NORMS, folded
from interp_plugins.engine.plan.layout import InLayout, channels_last, has_own_backward, pays
from interp_plugins.engine.plan.linear_map import faster
from interp_plugins.engine.plan.linears import linear_candidates, may_pay
from interp_plugins.engine.plan.replay import Memory, Replaying, before
from interp_plugins.engine.plan.tracer import Tracer
from interp_plugins.engine.plan.view import AGREE, NoView, View, layers_in
from interp_plugins.engine.switch import enabled

_WORTH_CUDA = 2000  # there a pass is short, and making a plan takes as long as it does on a CPU
_WORTH = 12  # rows from which a plan pays: the check runs two forward rows and a few more where a plan fails


@dataclass(frozen=True)
class Plan:
    """What planning chose, and what it runs on.

    Attributes:
        func: the callable to use in the place of the model's.
        view: the private view, to find layers in; None where the model stays as it is.
        behind: the callable behind the first linear layer, or None.
        replaying: whether `func` takes the numbers of the rows as one more argument.
        winograd: stand-ins of convolutions in the view.
    """

    func: Callable[..., Any]
    view: View | None = None
    behind: BehindFirstLayer | None = None
    replaying: bool = False
    winograd: Sequence[WinogradConv2d] = ()


def planned(
    forward: Forward,
    inputs: Sequence[Tensor],
    *,
    rows: int,
    chunk: int,
    wrt: Sequence[Layer] | None = None,
) -> tuple[Forward, Sequence[Layer] | None]:
    """The planned forward (or the given one), and the layers to read in it.

    Args:
        forward: a model call inside `frozen`.
        inputs: the inputs of the batch.
        rows: rows that are going to be sent through; few rows are not worth a plan.
        chunk: rows that go through at a time.
        wrt: layers that the caller reads.
    """
    if compiling() and wrt is not None:
        raise InputError(NO_LAYERS)
    plan = _plan(forward, inputs, rows, chunk, wrt)
    if compiling():
        return through_compiler(forward, plan.func if plan is not None and plan.view is not None else None), None
    if plan is None or plan.view is None:
        return forward, wrt
    args = (*forward.args, torch.arange(forward.n)) if plan.replaying else forward.args
    return replace(forward, func=plan.func, args=args), None if wrt is None else [plan.view.layer(site) for site in wrt]


def behind_first_layer(
    forward: Forward, inputs: Sequence[Tensor], *, rows: int, chunk: int
) -> tuple[Forward, BehindFirstLayer] | None:
    """The planned forward as a function of its first linear layer's output, if it has one that reads the one input."""
    plan = _plan(forward, inputs, rows, chunk, None)
    if plan is None or plan.behind is None:
        return None
    behind = through_compiler(forward, plan.behind) if compiling() else replace(forward, func=plan.behind)
    return behind, plan.behind


def _plan(
    forward: Forward,
    inputs: Sequence[Tensor],
    rows: int,
    chunk: int,
    wrt: Sequence[Layer] | None,
) -> Plan | None:
    worth = _WORTH_CUDA if inputs[0].device.type == "cuda" else _WORTH
    if not enabled() or rows < worth or not all(is_float(x) and x.dtype in AGREE for x in inputs):
        return None
    if torch.is_autocast_enabled(inputs[0].device.type) or not _may_gain(forward.func, inputs, wrt):
        return None
    memory, func = call_cache(), forward.func
    weights = tuple((id(p), p._version) for root in modules_of(func) for p in root.parameters() if not p.is_inference())
    sites = tuple((id(site.module), site.io, site.call) for site in wrt or ())
    shapes = tuple((x.shape[1:], x.dtype, x.device) for x in inputs)
    key = ("plan", id(func), weights, sites, shapes, len(forward.args), tuple(forward.kwargs), compiling())
    if key not in memory:
        memory[key] = (func, _made(forward, inputs, rows, chunk, wrt))  # with func, so that its identity stays its own
    return memory[key][1]


def _may_gain(func: Any, inputs: Sequence[Tensor], wrt: Sequence[Layer] | None) -> bool:
    """Whether the model has anything that a plan could change, seen without running it."""
    if not isinstance(func, nn.Module) and not inspect.ismethod(func) and not hasattr(func, "wrapped_callables"):
        return False
    modules = [m for root in modules_of(func) for m in root.modules()]
    first = wrt is None and len(inputs) == 1 and any(isinstance(m, LINEAR) for m in modules)
    return first or any(isinstance(m, (*NORMS, nn.Conv2d)) or may_pay(m) for m in modules)


def _made(
    forward: Forward, inputs: Sequence[Tensor], rows: int, chunk: int, wrt: Sequence[Layer] | None
) -> Plan | None:
    args, kwargs = _rows_of_first(forward, inputs)
    x = args[0] = args[0].requires_grad_().clone()  # with a graph, to see what would run backward
    probe = Tracer()
    with preserved_rng():
        try:
            output = probe.run(forward.func, *args, **kwargs)
        except Exception:  # whatever is wrong with this row is said where the rows are really run
            return None
        own_backward, plain = has_own_backward(output), _values(output)
        del output
        if isinstance(forward.func, AtLayer) and not own_backward:
            plan = _replaying(forward, inputs, probe, forward.func, rows, chunk, len(x))
            if plan is not None and _agrees(plan, args, kwargs, plain):
                return plan
        for plan in _candidates(forward, probe, x, rows, chunk, wrt, own_backward):
            if _agrees(plan, args, kwargs, plain):
                for conv in plan.winograd:
                    conv.enable_small_batches()
                return plan
    return None


def _rows_of_first(forward: Forward, inputs: Sequence[Tensor]) -> tuple[list[Any], dict[str, Any]]:
    """The first sample: one row; of a layer's tensors two, the second halved, which the score has to follow."""
    count = 2 if isinstance(forward.func, AtLayer) else 1
    rows = torch.zeros(count, dtype=torch.long, device=inputs[0].device)
    halves = 0.5 ** torch.arange(count, device=inputs[0].device)
    values = [x.detach().index_select(0, rows) * expand_rows(halves, x).to(x) for x in inputs]
    args, kwargs = forward.arguments(values, rows)
    return list(args), kwargs


def _replaying(
    forward: Forward, inputs: Sequence[Tensor], probe: Tracer, at: AtLayer, rows: int, chunk: int, watched: int
) -> Plan | None:
    """A plan that computes once what lies before the layer."""
    prefix = before(probe, at)
    if not prefix:
        return None
    memory = Memory(forward.n)
    stand_ins = folded(probe, at.layers)
    ends = {id(m) for module, _ in prefix.values() for m in module.modules()}
    stand_ins |= faster([*linear_candidates(probe, stand_ins, watched, ends)], rows)
    stand_ins |= {key: memory.stand_in(m, calls) for key, (m, calls) in prefix.items()}
    try:
        view = View(stand_ins)
        func = Replaying(view.of(at), memory)
        return Plan(func, view, replaying=True) if func.record(forward, inputs, chunk) else None
    except Exception:  # a model that cannot be viewed, or run on all samples at once
        return None


def _values(output: Any) -> list[Tensor]:
    return [t.detach() for t in pytree.tree_leaves(output) if is_float(t)]


def _candidates(
    forward: Forward,
    probe: Tracer,
    x: Tensor,
    rows: int,
    chunk: int,
    wrt: Sequence[Layer] | None,
    own_backward: bool,
) -> Iterator[Plan]:
    """The plans to try, the boldest first."""
    func = forward.func
    layout = not own_backward and pays(probe, x)
    stem = first_layer(probe, x) if wrt is None and not layers_in(func) else None
    found_faster = False
    for with_faster, with_stem, with_layout in itertools.product((True, False), repeat=3):
        if (with_layout and not layout) or (with_stem and stem is None):
            continue
        stand_ins = folded(probe, [*layers_in(func), *(wrt or ())])  # made anew: no two copies of the weights at once
        if with_layout:
            channels_last(probe, stand_ins)
        quick: dict[int, nn.Module] = {}
        if with_faster and not compiling():  # functions of our own are no part of a compiled graph
            in_layout = [*winograd_candidates(probe, stand_ins, min(rows, chunk))] if with_layout else []
            once = {id(stem)} if with_stem else ()
            quick = faster([*in_layout, *linear_candidates(probe, stand_ins, len(x), once)], rows)
            found_faster = found_faster or bool(quick)
        if not with_faster and not found_faster:
            return  # they would be the same again
        if not (with_layout or with_stem or stand_ins or quick):
            continue
        stand_ins |= quick
        entry = None
        if with_stem and stem is not None:
            entry = FirstLayer(stand_ins.get(id(stem), stem))
            stand_ins[id(stem)] = entry
        view = View(stand_ins)
        try:
            mine = view.of(func)
        except NoView:
            return
        behind = None
        if entry is not None:
            behind = BehindFirstLayer(mine, entry, tuple(x.shape[1:]), with_layout and x.ndim == 4)
        checked = [m for m in quick.values() if isinstance(m, WinogradConv2d)]
        yield Plan(InLayout(mine) if with_layout else mine, view, behind, winograd=checked)


def _agrees(plan: Plan, args: Sequence[Any], kwargs: dict[str, Any], plain: Sequence[Tensor]) -> bool:
    """Whether the plan gives the plain model's outputs; with a first layer taken out, by way of that."""
    try:
        with torch.no_grad():
            x, *rest = args
            if plan.replaying:
                rest.append(torch.zeros(len(x), dtype=torch.long))
            if plan.behind is None:
                return _close(_values(plan.func(x, *rest, **kwargs)), plain)
            return _close(_values(plan.behind(plan.behind.encode(x), *rest, **kwargs)), plain)
    except Exception:  # a view that the model's code cannot live with
        return False


def _close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    if [t.shape for t in found] != [t.shape for t in expected]:
        return False
    for a, b in zip(found, expected, strict=True):
        if a.dtype != b.dtype or a.dtype not in AGREE:
            return False
        if a.numel() and not bool((a - b).abs().max() <= AGREE[a.dtype] * b.abs().max()):  # NaN does not agree
            return False
    return True
