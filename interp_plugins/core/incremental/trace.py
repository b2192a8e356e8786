"""The model as a graph of calls, traced by torch.fx through a private view of its modules.

The view shares the weights and nothing else: its modules have dictionaries of their own, so whatever a forward sets,
counts or appends on `self` while it is traced (or run on intermediate values later) stays out of the user's model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import module as _hooks
from torch.nn.modules.lazy import LazyModuleMixin

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")


class _Tracer(fx.Tracer):
    """Modules whose forward is one of torch.nn's are calls of the graph, also when a subclass inherits it."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        of_torch = any(
            "forward" in vars(base) and base.__module__.startswith("torch.nn.modules.")
            for base in [next(b for b in type(m).__mro__ if "forward" in vars(b))]
        )
        return of_torch and not isinstance(m, nn.Sequential)


def trace(model: nn.Module) -> fx.GraphModule | None:
    """The graph over a private view of an evaluated model; None where it has hooks or cannot be traced."""
    if not is_plain(model):
        return None
    try:
        view = _view(model)
        tracer = _Tracer()
        graph = tracer.trace(view)
    except Exception:  # control flow, functions that need values, whatever a forward may raise on proxies
        return None
    if _mutates_what_is_used_again(graph, dict(view.named_modules())):
        return None
    return fx.GraphModule(view, graph)


def is_plain(model: nn.Module) -> bool:
    """Whether a model is evaluated, and nothing but its modules' classes says what they do: no hooks, no scripts."""
    hooked = any(getattr(_hooks, name, None) for name in _GLOBAL_HOOKS)
    return not hooked and not any(_resists(m) for m in model.modules())


def _resists(m: nn.Module) -> bool:
    return (
        m.training
        or "forward" in vars(m)
        or "__call__" in vars(m)
        or hasattr(type(m), "__del__")  # of a copy that goes
        or isinstance(m, (LazyModuleMixin, torch.jit.ScriptModule, nn.DataParallel))
        or any(getattr(m, name, None) for name in _HOOKS)
    )


def _view(model: nn.Module) -> nn.Module:
    copies: dict[int, nn.Module] = {}

    def copy(m: nn.Module) -> nn.Module:
        if id(m) in copies:
            return copies[id(m)]
        new = copies[id(m)] = m.__class__.__new__(m.__class__)
        held = {name: value.copy() if type(value) in (dict, list, set) else value for name, value in vars(m).items()}
        new.__dict__.update(held)
        for name in ("_parameters", "_buffers", "_modules"):
            new.__dict__[name] = vars(m)[name].copy()
        for name, child in m._modules.items():
            if child is not None:
                new._modules[name] = copy(child)
        # Modules that also stand in plain attributes or lists.
        for name, value in held.items():
            if isinstance(value, nn.Module):
                new.__dict__[name] = copy(value)
            elif type(value) is list:
                new.__dict__[name] = [copy(v) if isinstance(v, nn.Module) else v for v in value]
        return new

    return copy(model)


def _mutates_what_is_used_again(graph: fx.Graph, modules: dict[str, nn.Module]) -> bool:
    """Whether some call works in place on a tensor that a later call reads by its old name."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        if not in_place(node, modules) or not isinstance(source, fx.Node):
            continue
        if any(order[user] > order[node] for user in source.users):
            return True
    return False


def in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a call says that it works in place."""
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op.startswith("call_") and (
        bool(node.kwargs.get("inplace", False))
        or (name.endswith("_") and not name.endswith("__"))
        or name in ("iadd", "imul", "isub", "itruediv", "setitem")
    )


def depends_on_input(graph: fx.Graph) -> set[Any]:
    """The nodes that the input has a say in."""
    found: set[Any] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found
