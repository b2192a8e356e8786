"""The first pass of a call, with its graph: prediction, choice of a layer and first gradient are one pass, not three.

While methods share their passes (`share_passes`), the first one on the samples may run with a graph and note what
every module gave. Its output is the prediction, its shapes tell which layer is a grid, and the first gradient goes back
through it. It is held until it has been used or a method begins that loops over passes, and only where it equals the
passes in whose place it stands: one chunk of rows, floating-point inputs, no state left behind, no random draws.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_plugins.core.batching import samples_chunk
from interp_plugins.core.caches import call_cache, model_cache
from interp_plugins.core.differentiate import WrittenOverError, keep_values_from_now_on
from interp_plugins.core.forward import Forward, Gradients, gradients_of
from interp_plugins.core.grid import ModuleOutput, trace_modules
from interp_plugins.core.layers import Layer
from interp_plugins.core.tensors import is_float
from interp_plugins.engine.shared_passes import PassFacts, sharing

_KEY = ("first pass",)


@dataclass(eq=False)
class FirstPass:
    """A pass on all samples, still in its graph.

    Attributes:
        facts: all that it depends on.
        leaves: the inputs, which require gradients.
        output: what the model gave, as a tensor.
        modules: what each module gave, in the order of execution.
        begin: the modules where its graph begins, whose tensors alone are kept; None: it begins at the inputs.
        few: nothing is known of the other modules, not even the shapes of what they gave.
    """

    facts: PassFacts
    leaves: list[Tensor]
    output: Tensor
    modules: list[ModuleOutput]
    begin: frozenset[nn.Module] | None = None
    few: bool = False

    def at(self, layer: Layer) -> Tensor | None:
        """The tensor of a layer; None where it has to be read in a pass of its own (changed in place, hooked)."""
        calls = [one for one in self.modules if one.module is layer.module]
        if layer.io != "output" or not calls or (len(calls) > 1 and layer.call is None):
            return None
        if layer.call is not None and not -len(calls) <= layer.call < len(calls):
            return None
        return calls[layer.call or 0].unchanged()


def first_pass(
    forward: Forward,
    inputs: Sequence[Tensor],
    *,
    make: bool = True,
    graph: bool = True,
    layers: Sequence[Layer] | None = None,
) -> FirstPass | None:
    """The first pass of this call, made if there is none; None where there can be none.

    Args:
        forward: the model call; its target is not used.
        inputs: the samples.
        make: False: only one that is there.
        graph: False: where it is made, without its graph: layers are read, and nobody differentiates.
        layers: all that is read or differentiated at, if it is known: the graph begins there, and what the model does
            before takes the time and memory of a plain forward pass. None: the inputs, or any module; none at all:
            the inputs, and nothing is noted of modules.
    """
    memory = call_cache()
    if not sharing() or not (make or _KEY in memory):
        return None
    facts = PassFacts.of(forward, inputs, "first pass")
    if facts is None:
        return None
    known: FirstPass | None = memory.get(_KEY)
    begin = _beginning(layers)
    if known is not None and (not make or _serves(known, graph, begin)) and known.facts.holds(facts):
        return known
    n = inputs[0].shape[0]
    if not make or not all(map(is_float, inputs)) or n > samples_chunk(inputs):
        return None
    if n > 1 and forward.row_facts(inputs).single:
        return None
    before = facts.state()
    few = (layers is not None and not layers) or (begin is not None and _shapes_key(begin, inputs) in model_cache())
    try:
        with contextlib.nullcontext() if graph else torch.no_grad():
            leaves, output, modules = trace_modules(forward, inputs, begin=begin, few=few)
    except RuntimeError as error:
        if begin is not None:  # a model may ask that its inputs are in a graph
            return first_pass(forward, inputs, graph=graph)
        if "requires grad" not in str(error):
            raise
        return None  # the model leaves torch on its way, and whoever needs no gradient asks it without
    made = FirstPass(facts, leaves, output, modules, begin, few)
    if _serves(made, graph, begin) and facts.state() == before:
        memory[_KEY] = made
    return made


def _beginning(layers: Sequence[Layer] | None) -> frozenset[nn.Module] | None:
    """The modules where a graph can begin; None: at the inputs. What works in place has its output in its input."""
    modules = [one.module for one in layers or () if isinstance(one.module, nn.Module)]
    return frozenset(modules) if modules and not any(getattr(m, "inplace", False) for m in modules) else None


def shapes_asked(modules: Sequence[object], inputs: Sequence[Tensor], asked: bool) -> None:
    """Note whether the shapes that a model's other modules give were asked for, beside those of some modules.

    Where they were not, the next call's pass does not note them; one that asks nevertheless takes a pass of its own.
    """
    key = _shapes_key(modules, inputs)
    if asked:
        model_cache().pop(key, None)
    else:
        model_cache()[key] = True


def _shapes_key(modules: Iterable[object], inputs: Sequence[Tensor]) -> tuple[object, ...]:
    return ("shapes not asked", frozenset(map(id, modules)), tuple(x.shape[1:] for x in inputs))


def _serves(known: FirstPass, graph: bool, begin: frozenset[nn.Module] | None) -> bool:
    """Whether a pass has the graph that is asked for."""
    if known.begin is None:
        return known.output.requires_grad or not graph
    return begin is not None and begin <= known.begin


def forget_first_pass() -> None:
    """Let the graph go: a method begins that has no use for it."""
    call_cache().pop(_KEY, None)


def first_gradients(forward: Forward, inputs: Sequence[Tensor], wrt: Sequence[Layer] | None) -> Gradients | None:
    """The gradients of `core.forward.gradients` by way of the first pass, or None where they need a pass of their own.

    Args:
        forward: what to differentiate.
        inputs: the samples.
        wrt: layers, or None for the inputs.
    """
    first = first_pass(forward, inputs, make=False)
    if first is None or not first.output.requires_grad:
        return None
    try:
        return _through(first, forward, len(inputs[0]), wrt)
    except WrittenOverError:  # a pass of its own keeps what is written over
        keep_values_from_now_on()
        return None


def _through(first: FirstPass, forward: Forward, n: int, wrt: Sequence[Layer] | None) -> Gradients | None:
    if wrt is None and first.begin is not None:
        return None
    if wrt is None:
        return gradients_of(forward, first.output, first.leaves, "input", n, retain=True)
    read = [first.at(layer) for layer in wrt]
    found = [t for t in read if t is not None and t.requires_grad]
    if len(found) < len(read):
        return None
    got = gradients_of(forward, first.output, found, "layer", n, retain=True)
    return Gradients(got.scores, got.grads, got.activations, (1,) * len(found))
