"""A private view of a model: the same weights under module objects of our own, some of which are replaced.

Modules are copied shallowly, so a view costs no memory but what is replaced, and nothing done to it (a folded
convolution, a given activation, state that the forward sets) reaches the user's model.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from interp_plugins.core.layers import Layer, Neuron

M = TypeVar("M", bound=nn.Module)

# How far outputs of a view may be from the model's, relative to the largest.
AGREE = {torch.float64: 1e-9, torch.float32: 1e-3}

_CONTAINERS = (dict, OrderedDict, list, set)  # what a forward may add to; torch keeps weights, children, hooks in them
_KEPT_WHOLE = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.jit.ScriptModule)


class NoView(Exception):
    """There can be no private view of this callable."""


class View:
    """Copies of modules and of the callables around them.

    Args:
        stand_ins: modules to put in the place of others, by the id of the module that they replace.
    """

    def __init__(self, stand_ins: Mapping[int, nn.Module] | None = None):
        self._modules: dict[int, nn.Module] = dict(stand_ins or {})

    def module(self, module: nn.Module) -> nn.Module:
        """The view's own copy of a module, its stand-in where there is one."""
        if id(module) in self._modules:
            return self._modules[id(module)]
        if isinstance(module, _KEPT_WHOLE):
            raise NoView(f"{type(module).__name__} runs code that belongs to its own module objects")
        if hasattr(type(module), "__del__"):  # fastai's U-Net: a copy that goes would take the model's hooks with it
            raise NoView(f"{type(module).__name__} does something when an object of it goes")
        if isinstance(compiled := getattr(module, "_orig_mod", None), nn.Module):
            return self.module(compiled)  # while a model is explained its compiled code is not used
        mine = shallow(module)
        self._modules[id(module)] = mine
        for name, child in module._modules.items():
            mine._modules[name] = self.module(child) if child is not None else None
        for name, value in module.__dict__.items():  # modules that also stand in plain attributes or lists
            if isinstance(value, nn.Module):
                mine.__dict__[name] = self.module(value)
            elif type(value) is list:
                mine.__dict__[name] = [self.module(v) if isinstance(v, nn.Module) else v for v in value]
        return mine

    def of(self, func: Any) -> Callable[..., Any]:
        """The callable on the view's modules.

        Raises:
            NoView: a callable that holds its modules where they cannot be exchanged (a closure, an object's object).
        """
        if isinstance(func, nn.Module):
            return self.module(func)
        if inspect.ismethod(func) and isinstance(func.__self__, nn.Module):
            return types.MethodType(func.__func__, self.module(func.__self__))
        if not hasattr(func, "wrapped_callables") or hasattr(type(func), "__del__"):
            raise NoView(f"{type(func).__name__} may hold modules that cannot be exchanged")
        mine: Any = copy.copy(func)
        inside = func.wrapped_callables()
        held = [id(value) for value in vars(func).values()]
        if any(id(one) not in held for one in inside):
            raise NoView(f"{type(func).__name__} holds a model where it cannot be exchanged")
        for name, value in vars(func).items():
            if any(value is one for one in inside):
                setattr(mine, name, self.of(value))
            elif isinstance(value, Layer):
                setattr(mine, name, self.layer(value))
            elif isinstance(value, Neuron):
                setattr(mine, name, replace(value, layer=self.layer(value.layer)))
            elif isinstance(value, list) and value and all(isinstance(v, Layer) for v in value):
                setattr(mine, name, [self.layer(v) for v in value])
        return mine

    def layer(self, layer: Layer) -> Layer:
        """The place in the view that corresponds to a layer of the model."""
        module = layer.module
        return Layer(self.module(module), layer.io, layer.call) if isinstance(module, nn.Module) else layer


def shallow(module: nn.Module) -> nn.Module:
    """A module object of its own around the same weights, buffers, hooks and children, with containers of its own."""
    mine = module.__class__.__new__(module.__class__)
    mine.__dict__ = {name: copy.copy(v) if type(v) in _CONTAINERS else v for name, v in module.__dict__.items()}
    return mine


def with_class(cls: type[M], module: nn.Module) -> M:
    """A copy of a module as an object of a class of our own, which runs it in another way."""
    mine = shallow(module)
    mine.__class__ = cls
    assert isinstance(mine, cls)
    return mine


def layers_in(func: Any) -> list[Layer]:
    """The places that a callable reads or writes (`AtLayer`, `OfNeuron`, `NoisyAt`), also behind a `Call`."""
    found: list[Layer] = []
    for value in vars(func).values() if hasattr(func, "wrapped_callables") else ():
        if isinstance(value, Layer):
            found.append(value)
        elif isinstance(value, Neuron):
            found.append(value.layer)
        elif isinstance(value, list):
            found += [v for v in value if isinstance(v, Layer)]
    if hasattr(func, "wrapped_callables"):
        for inner in func.wrapped_callables():
            found += layers_in(inner)
    return found
