"""Passes that end at the deepest layer that is asked for, and what they showed.

Behind that layer the network is not run: a private exception ends the pass, and the numbers are those of a full one.
Not where an objective needs the output, nor where the layer is read again later in the pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from interp_plugins.core.errors import LayerError
from interp_plugins.core.forward import Forward
from interp_plugins.core.grid import Grid, ModuleOutput, find_grid, trace_shapes
from interp_plugins.core.hooks import hooked
from interp_plugins.core.layers import Layer, layer_name, refuse_script, resolve_layer
from interp_plugins.core.wrapper import Wrapper
from interp_plugins.engine import planned
from interp_plugins.optim.objective import SeenLayer, whole


class _Reached(BaseException):
    """All that was asked for is there. No `Exception`: a model that catches those shall not catch this."""


def first_tensor(value: Any) -> Tensor | None:
    """The first floating-point tensor in nested containers: of an attention or a recurrent net its output."""
    leaves = pytree.tree_leaves(value)
    return next((v for v in leaves if isinstance(v, Tensor) and v.is_floating_point()), None)


@dataclass
class _Wanted:
    """One layer that is read: in which call, and what was read."""

    layer: Layer
    call: int
    early: bool
    calls: int = 0
    found: Tensor | None = None


class _Pass(Wrapper):
    """A model that is run until all wanted layers were seen."""

    def __init__(self, func: Callable[..., Any], wanted: Sequence[_Wanted], whole: bool):
        self.func, self.wanted, self.whole = func, wanted, whole

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for one in self.wanted:
            one.calls, one.found = 0, None
        try:
            return self.func(*args, **kwargs)
        except _Reached:
            return None

    def hook(self, one: _Wanted) -> Callable[..., Any]:
        def seen(module: nn.Module, args: Any, *rest: Any) -> Any:
            # behind: (module, args, output); before: (module, args, kwargs)
            number, one.calls = one.calls, one.calls + 1
            if number != one.call:
                return None
            given = rest[0] if one.layer.io == "output" else (args, rest[0])
            value = first_tensor(given)
            if value is None:
                raise LayerError(f"The layer {type(module).__name__} gave no floating-point tensor; choose another.")
            last = not self.whole and all(w.found is not None or w is one for w in self.wanted)
            one.found = value
            if last:
                raise _Reached
            # The network goes on with a copy: what it does in place behind the layer cannot change what was seen.
            return pytree.tree_map(lambda v: v.clone() if v is value else v, given)

        return seen


class _UpTo(Wrapper):
    """A model that ends at its layers, and gives them: what a plan is made of, so that it ends there too."""

    def __init__(self, func: Callable[..., Any], layers: Sequence[Layer], calls: Sequence[int]):
        self.func, self.layers, self.calls = func, list(layers), list(calls)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        wanted = [_Wanted(layer, call, True) for layer, call in zip(self.layers, self.calls, strict=True)]
        until = _Pass(self.func, wanted, False)
        with hooked() as hooks:
            for one in wanted:
                module: Any = one.layer.module
                if one.layer.io == "input":
                    hooks.before(module, until.hook(one), with_kwargs=True)
                else:
                    hooks.behind(module, until.hook(one))  # behind those that read a pass of this
            until(*args, **kwargs)
        return tuple(one.found for one in wanted)


@dataclass
class Capture:
    """A model as what it shows at some layers.

    Attributes:
        forward: the model call.
        layers: per layer as it was named, the layer.
        grids: per layer as it was named, how its tensor lies.
        calls: per layer as it was named, which call of it counts.
        output: whether the output is asked for.
        shapes: per layer as it was named, its shape for one row.
        trace: what every module gave, in order, for one row.
        until: the model that ends at the layers, once it is asked for.
        probabilities: whether the output, where it is asked for, is probabilities of classes.
    """

    forward: Forward
    layers: dict[Any, Layer]
    grids: dict[Any, Grid]
    calls: dict[Any, int]
    output: bool
    shapes: dict[Any, tuple[int, ...]] = field(default_factory=dict)
    trace: list[ModuleOutput] = field(default_factory=list)
    until: _UpTo | None = None
    probabilities: bool = False

    @classmethod
    def of(cls, forward: Forward, inputs: Sequence[Tensor], names: Sequence[Any], output: bool) -> Capture:
        """Look up layers, and run one row through to see how their tensors lie.

        Args:
            forward: a model call inside `frozen`.
            inputs: one row of every input, in the model's units.
            names: layers, as the objectives name them.
            output: whether the output is asked for.

        Raises:
            LayerError: no such layer, or one that does not run.
        """
        layers = {name: resolve_layer(forward.func, name) for name in names}
        if not output and forward.output is None:  # whatever the model returns: it is not looked at
            forward = replace(forward, output=first_tensor)
        forward.row_facts(inputs)
        for one in layers.values():
            assert isinstance(one.module, nn.Module)
            refuse_script(one.module)
        with torch.no_grad():
            _, trace = trace_shapes(forward, inputs)
        counts = _counts(forward, inputs, layers)
        calls = {}
        for name, one in layers.items():
            count = counts[name]
            assert isinstance(one.module, nn.Module)
            if not count:
                raise LayerError(
                    f"The layer {layer_name(forward.func, one.module)!r} did not run in this forward pass. Choose a "
                    "layer that the model calls (some modules are only containers, or used through their weights)."
                )
            calls[name] = count - 1 if one.call is None else one.call if one.call >= 0 else count + one.call
        made = cls(forward, layers, {}, calls, output, {}, trace)
        with made.running(torch.no_grad()) as run:
            made.probabilities = _adds_up(run(inputs, None))
            for name, t in run.tensors().items():
                made.shapes[name] = tuple(t.shape)
                made.grids[name] = find_grid(layers[name].module, t.shape, inputs, trace)  # type: ignore[arg-type]
        made.trace = [replace(one, tensor=None) for one in trace]  # shapes alone: tensors are as much as a pass
        return made

    def faster(self, inputs: Sequence[Tensor], rows: int, chunk: int, backward: bool = True) -> Capture:
        """The same on the engine's private, faster, equal view of the model, where that pays.

        Args:
            inputs: of a first batch.
            rows: that are going to be sent through.
            chunk: of them at a time.
            backward: whether gradients are taken.
        """
        wrt = list(self.layers.values())
        ours = replace(self.forward, passes=dict(self.forward.passes))
        if wrt and not self.output:
            if self.until is None:  # kept, since plans are remembered by what they are of
                self.until = _UpTo(self.forward.func, wrt, list(self.calls.values()))
            ours = replace(ours, func=self.until)
        forward, found = planned(ours, inputs, rows=rows, chunk=chunk, wrt=wrt or None, backward=backward)
        if forward.args != self.forward.args or forward.func is self.until:
            return self
        places = found if found is not None else wrt
        return replace(self, forward=forward, layers=dict(zip(self.layers, places, strict=True)))

    @contextlib.contextmanager
    def running(self, *around: Any) -> Iterator[Running]:
        """Hooks at the layers for the length of a `with` block; gives what runs a pass."""
        wanted = [_Wanted(layer, self.calls[name], not self.output) for name, layer in self.layers.items()]
        whole = self.output or not wanted
        until = _Pass(self.forward.func, wanted, whole)
        with hooked() as hooks, contextlib.ExitStack() as stack:
            for one in around:
                stack.enter_context(one)
            for one in wanted:
                module: Any = one.layer.module
                if one.layer.io == "input":
                    hooks.before(module, until.hook(one), with_kwargs=True)
                else:
                    hooks.behind(module, until.hook(one), prepend=True)
            yield Running(self, replace(self.forward, func=until), wanted)


@dataclass
class Running:
    """A model with hooks at its layers."""

    capture: Capture
    forward: Forward
    wanted: Sequence[_Wanted]

    def __call__(self, inputs: Sequence[Tensor], rows: Tensor | None) -> Tensor | None:
        """Run some rows; the output, where it is asked for."""
        found = self.forward.called(inputs, rows)
        self.forward.passes["forward"] += len(inputs[0])
        return whole(self.forward.readable(found)) if self.capture.output else None

    def tensors(self) -> dict[Any, Tensor]:
        """What the last pass showed, per layer."""
        found = {name: one.found for name, one in zip(self.capture.layers, self.wanted, strict=True)}
        gone = next((name for name, t in found.items() if t is None), None)
        if gone is not None:
            raise LayerError(f"The layer {gone!r} did not run, or not in the call that was asked for.")
        return {name: t for name, t in found.items() if t is not None}

    def seen(self) -> dict[Any, SeenLayer]:
        """The same, with how it lies."""
        return {name: SeenLayer(t, self.capture.grids[name]) for name, t in self.tensors().items()}


def _adds_up(output: Tensor | None) -> bool:
    """Whether an output (N, classes) is probabilities."""
    if output is None or output.ndim != 2 or output.shape[1] < 2:
        return False
    return bool((output >= 0).all()) and bool(((output.sum(1) - 1).abs() < 1e-4).all())


def _counts(forward: Forward, inputs: Sequence[Tensor], layers: dict[Any, Layer]) -> dict[Any, int]:
    """How often each layer runs in one pass."""
    found = dict.fromkeys(layers, 0)

    def counter(name: Any) -> Callable[..., None]:
        def count(*_: Any) -> None:
            found[name] += 1

        return count

    with hooked() as hooks, torch.no_grad():
        for name, one in layers.items():
            hooks.before(one.module, counter(name))  # type: ignore[arg-type]

        def again() -> None:
            for name in found:
                found[name] = 0

        forward.called([x.clone() for x in inputs], None, again)
    return found
