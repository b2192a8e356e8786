"""Layers and neurons: where a map lives (`Layer`) and what inside a model can be explained (`Neuron`).

A layer is handled by re-parametrisation. `AtLayer(func, layer)` is a plain callable whose inputs are that layer's
activations; a hook substitutes them. Every method for inputs is then a method for layers, and `OfNeuron(func, layer,
selector)`, whose output is a neuron, makes every method one for neurons. Only forward hooks are used, and they are
removed in `finally`; gradients come from `torch.autograd.grad`, never from backward hooks.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from interp_plugins.core.errors import InputTypeError, InterpWarning, LayerError, did_you_mean
from interp_plugins.core.global_random import model_call
from interp_plugins.core.guard import is_script, modules_of, named_below
from interp_plugins.core.hooks import Hooks, hooked
from interp_plugins.core.target import Index, as_target
from interp_plugins.core.tensors import describe, own_tree
from interp_plugins.core.wrapper import Wrapper

_WRAPPERS = ("module", "_orig_mod")


def plain_name(name: str) -> str:
    """A dotted name without what `DataParallel` and `torch.compile` put in front: `module.conv` is `conv`."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


@dataclass(frozen=True)
class Layer:
    """A layer's output (or input).

    Args:
        module: the module, or its dotted name (names inside `DataParallel` or a compiled module work without prefix).
        io: "output" or "input".
        call: which call of the module within one forward pass counts (0 = first), for modules that are used several
            times. None: the only call; where there are several, the last one, with a warning.
        found: what it is to the model, "last convolution" say, where it was found and not named; for titles.

    Example:
        explain(model, x, "layer_integrated_gradients", layer=Layer("4", io="input"), target=3)
    """

    module: nn.Module | str
    io: str = "output"
    call: int | None = None
    found: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.io not in ("input", "output"):
            raise LayerError(f"Layer io must be 'input' or 'output', got {self.io!r}.")


@dataclass(frozen=True)
class Neuron:
    """A scalar per example inside the model.

    Args:
        layer: where.
        selector: index after the batch dimension (int or tuple; slices are summed), or a function of the layer's
            tensor (tuple of tensors, if it has several) -> (N,).
    """

    layer: Layer
    selector: int | tuple[int | slice, ...] | Callable[..., Tensor]

    def select(self, tensors: Sequence[Tensor]) -> Tensor:
        """The neuron's value per row (R,), from the layer's tensors."""
        chosen = self.select_block(tensors)
        return chosen.reshape(chosen.shape[0], -1).sum(1) if chosen.ndim > 1 else chosen

    def select_block(self, tensors: Sequence[Tensor]) -> Tensor:
        """The selected elements per row, before any sum over slices."""
        if callable(self.selector):
            return self.selector(tuple(tensors) if len(tensors) > 1 else tensors[0])
        if len(tensors) != 1:
            raise LayerError(
                f"Cannot select neuron index from layer with multiple tensors ({len(tensors)}); give a function of "
                "the tuple of tensors as neuron_selector instead."
            )
        chosen = as_target(self.selector, 0)
        if not isinstance(chosen, Index):
            raise InputTypeError(
                f"neuron_selector must be an int, a tuple of ints or slices, or a function; got "
                f"{describe(self.selector)}."
            )
        return chosen(tensors[0])


def layer_name(func: Any, module: nn.Module) -> str:
    """Dotted name of a module inside the model behind func; its class name if it is not found there."""
    for root in modules_of(func):
        for name, m in named_below(root):
            if m is module:
                return plain_name(name) or type(module).__name__
    return type(module).__name__


def _by_path(roots: Sequence[nn.Module], name: str) -> nn.Module | str:
    """The module of that name, gone to directly; the name where a wrapper may stand in between, or there is none."""
    for root in roots:
        found: nn.Module | None = root
        for part in name.split("."):
            if found is None or is_script(found) or any(wrapper in found._modules for wrapper in _WRAPPERS):
                return name
            found = found._modules.get(part)
        if found is not None:
            return found
    return name


def resolve_layer(func: Any, layer: Any) -> Layer:
    """A `Layer` with a module, from a module, a dotted name, a `Layer`, or a function model -> module.

    Raises:
        LayerError: no such module, with the nearest names.
    """
    asked = layer if isinstance(layer, Layer) else Layer(layer)
    module = asked.module
    roots = modules_of(func)
    if callable(module) and not isinstance(module, nn.Module) and roots:
        module = module(roots[0])
    if isinstance(module, str):
        module = _by_path(roots, module)
    if isinstance(module, str):
        names: dict[str, nn.Module] = {}
        for root in roots:
            for name, m in root.named_modules():
                plain = plain_name(name)
                names.setdefault(plain, m)
                names.setdefault(name, m)
        if module not in names:
            known = [n for n in names if n]
            raise LayerError(
                f"No layer named {module!r}.{did_you_mean(module, known)} The model has {len(known)} named modules"
                + (f", for instance {', '.join(known[-6:])}. " if known else " (no nn.Module behind this callable). ")
                + "See dict(model.named_modules())."
            )
        module = names[module]
    if not isinstance(module, nn.Module):
        raise LayerError(f"A layer must be an nn.Module or its dotted name, got {describe(module)}.")
    return Layer(module, asked.io, asked.call)


def refuse_script(module: nn.Module) -> None:
    """Refuse a layer that cannot be read.

    Raises:
        LayerError: it is TorchScript.
    """
    if is_script(module):
        raise LayerError(
            f"The layer {getattr(module, 'original_name', type(module).__name__)} is TorchScript (torch.jit.script, "
            "trace or load), whose tensors cannot be read or replaced from Python. Give the nn.Module that it was made "
            "from, or use a method without layers: integrated_gradients, occlusion, feature_ablation."
        )


def _tensor_leaves(value: Any, module: nn.Module) -> tuple[list[Any], list[int], Any]:
    """Leaves of nested containers, which of them are float tensors, and the tree to rebuild."""
    leaves, tree = pytree.tree_flatten(value)
    where = [i for i, v in enumerate(leaves) if isinstance(v, Tensor) and v.is_floating_point()]
    if not where:
        raise LayerError(
            f"The layer {type(module).__name__} gave no floating-point tensor but {describe(value)}; choose another "
            "layer or the other side (attribute_to_layer_input)."
        )
    return leaves, where, tree


class _Tap:
    """Hooks on one layer: reads its tensors call by call, substitutes them (`replace`), or adds to them (`add`)."""

    def __init__(
        self,
        layer: Layer,
        replace: Sequence[Tensor] | None = None,
        total_calls: int | None = None,
        add: Iterator[Tensor] | None = None,
    ):
        assert isinstance(layer.module, nn.Module)
        self.add = add
        self.layer, self.module, self.replace, self.total = layer, layer.module, replace, total_calls
        self.calls = 0
        self.seen: list[tuple[Tensor, ...]] = []

    def _touch(self, value: Any) -> Any:
        leaves, where, tree = _tensor_leaves(value, self.module)
        call, self.calls = self.calls, self.calls + 1
        mine = self.layer.call == call or (self.layer.call is None and call == (self.total or 1) - 1)
        if self.add is not None:
            if mine:
                for i in where:
                    leaves[i] = leaves[i] + next(self.add)
        elif self.replace is None:
            for i in where:
                # Token ids in, frozen weights: the graph starts here.
                if torch.is_grad_enabled() and not leaves[i].requires_grad:
                    leaves[i] = leaves[i].detach().requires_grad_()
            self.seen.append(tuple(leaves[i] for i in where))
            # The network goes on with a copy: an in-place operation behind the layer cannot change what was seen.
            for i in where:
                leaves[i] = leaves[i].clone()
        elif mine:
            if len(where) != len(self.replace):
                raise LayerError(f"The layer gave {len(where)} tensors, {len(self.replace)} are to be put in.")
            for i, new in zip(where, self.replace, strict=True):
                leaves[i] = new.clone()
        return pytree.tree_unflatten(leaves, tree)

    def _pre(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._touch((args, kwargs))

    def _post(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self._touch(output)

    def attach(self, hooks: Hooks) -> None:
        refuse_script(self.module)
        if self.layer.io == "input":
            hooks.before(self.module, self._pre, with_kwargs=True, prepend=False)
        else:
            hooks.behind(self.module, self._post, prepend=True)

    def chosen(self, func: Any) -> tuple[Tensor, ...]:
        """The tensors of the call asked for."""
        name = layer_name(func, self.module)
        if not self.seen:
            raise LayerError(
                f"Forward hook did not obtain any outputs for given layer: {name!r} "
                f"({type(self.module).__name__}) did not run in this forward pass. Choose a layer that the model "
                "calls (some modules are only containers, or used through their weights)."
            )
        if self.layer.call is None:
            if len(self.seen) > 1:
                warnings.warn(
                    f"The layer {name!r} runs {len(self.seen)} times in one forward pass; its last call is explained. "
                    f"Choose with Layer({name!r}, call=0..{len(self.seen) - 1}).",
                    InterpWarning,
                    stacklevel=2,
                )
            return self.seen[-1]
        if not -len(self.seen) <= self.layer.call < len(self.seen):
            raise LayerError(f"Layer {name!r} ran {len(self.seen)} times; call={self.layer.call} does not exist.")
        return self.seen[self.layer.call]


@contextlib.contextmanager
def _attached(taps: Sequence[_Tap]) -> Iterator[None]:
    with hooked() as hooks:
        for tap in taps:
            tap.attach(hooks)
        yield


def run_and_read(
    func: Callable[..., Any], layers: Sequence[Layer], *args: Any, **kwargs: Any
) -> tuple[Any, list[tuple[Tensor, ...]]]:
    """Call func once; return its output and each layer's tensors (still in the graph)."""
    taps = [_Tap(layer) for layer in layers]
    with _attached(taps):
        output = func(*args, **kwargs)
    return output, [tap.chosen(func) for tap in taps]


class AtLayer(Wrapper):
    """func as a function of some layers' activations: `f(*activations, *inputs, *args)`.

    The original inputs follow the activations as ordinary (batched) arguments, so that whatever expands the
    activations over steps, samples or perturbations expands them as well.
    """

    def __init__(self, func: Callable[..., Any], layers: Sequence[Layer]):
        self.func, self.layers = func, list(layers)
        self.counts: list[int] = []
        self.calls: list[int] = [1] * len(layers)
        self.entries: dict[int, int] = {}  # of tensors with k rows per sample, given as (R, k, ...): k

    def counted_layers(self) -> list[Layer]:
        """The layers, calls counted from the first (known after `encode`)."""
        return [
            layer if layer.call is None or layer.call >= 0 else Layer(layer.module, layer.io, calls + layer.call)
            for layer, calls in zip(self.layers, self.calls, strict=True)
        ]

    def identity(self) -> Any:
        """The layers that are read or replaced."""
        return tuple((id(layer.module), layer.io, layer.call) for layer in self.layers)

    def encode(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """The layers' activations for ordinary inputs, detached; one flat tuple over all layers."""

        def call() -> list[_Tap]:
            taps = [_Tap(layer) for layer in self.layers]
            own_args, own_kwargs = own_tree((args, kwargs))  # the model may work on them in place
            with torch.no_grad(), _attached(taps):
                self.func(*own_args, **own_kwargs)
            return taps

        taps = model_call(call)
        found = [tap.chosen(self.func) for tap in taps]
        self.counts = [len(tensors) for tensors in found]
        self.calls = [tap.calls for tap in taps]
        return tuple(t.detach() for tensors in found for t in tensors)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call func with the activations (first) put in at the layers, on the inputs that follow."""
        taps, start = [], 0
        if self.entries:
            args = tuple(t.flatten(0, 1) if i in self.entries else t for i, t in enumerate(args))
        for layer, count, calls in zip(self.counted_layers(), self.counts, self.calls, strict=True):
            taps.append(_Tap(layer, replace=args[start : start + count], total_calls=calls))
            start += count
        with _attached(taps):
            return self.func(*args[start:], **kwargs)


class NoisyAt(Wrapper):
    """func with noise added to some layers' tensors: `f(*inputs, *args, *noise)`, one noise tensor per layer tensor.

    The noise comes last, as ordinary batched arguments, so that it stays with its rows.
    """

    def __init__(self, at: AtLayer):
        self.func, self.layers, self.calls, self.count = at.func, at.counted_layers(), at.calls, sum(at.counts)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call func on the arguments before the noise, with the noise added at the layers."""
        noise = iter(args[len(args) - self.count :])
        taps = [_Tap(layer, add=noise, total_calls=calls) for layer, calls in zip(self.layers, self.calls, strict=True)]
        with _attached(taps):
            return self.func(*args[: len(args) - self.count], **kwargs)


class OfNeuron(Wrapper):
    """func with a neuron as its output: `f(*inputs, *args) -> (N,)`.

    Args:
        func: the model.
        neuron: what is read in it.
        shared: of a selector that gives one number for the whole batch, every row has an equal part, so that their sum,
            and its gradient, is that number's.
    """

    def __init__(self, func: Callable[..., Any], neuron: Neuron, shared: bool = False):
        self.func, self.neuron, self.shared = func, neuron, shared

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The neuron's value per row."""
        _, (tensors,) = run_and_read(self.func, [self.neuron.layer], *args, **kwargs)
        found = self.neuron.select(tensors)
        rows = next((len(v) for v in args if isinstance(v, Tensor) and v.ndim), 1)
        if self.shared and found.numel() == 1 and rows > 1:
            return found.reshape(1).expand(rows) / rows
        return found
