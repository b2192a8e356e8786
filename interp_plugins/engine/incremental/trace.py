"""The model as a graph of calls, traced by torch.fx through a private view of its modules.

So whatever a forward sets, counts or appends on `self` while it is traced (or run on intermediate values later) stays
out of the user's model.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import fx, nn
from torch.nn.modules import module as _hooks
from torch.nn.modules.lazy import LazyModuleMixin

from interp_plugins.core.hooks import hook_numbers
from interp_plugins.engine.meter import reason
from interp_plugins.engine.plan.view import NoView, View

_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")


class _Tracer(fx.Tracer):
    """Modules whose forward is one of torch.nn's are calls of the graph, also when a subclass inherits it."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        of_torch = any(
            "forward" in vars(base) and base.__module__.startswith("torch.nn.modules.")
            for base in [next(b for b in type(m).__mro__ if "forward" in vars(b))]
        )
        return of_torch and not isinstance(m, nn.Sequential)


class Unfit(Exception):
    """Changes cannot be followed through this model, and why."""


class Traced(NamedTuple):
    """A graph of calls and the module that their names are of; a `GraphModule`'s code would be kept for ever."""

    root: nn.Module
    graph: fx.Graph


def trace(model: nn.Module) -> Traced:
    """The graph over a private view of an evaluated model.

    Raises:
        Unfit: the model has hooks, or cannot be traced.
    """
    why = opaque(model)
    if why is not None:
        raise Unfit(why)
    try:
        view = View().module(model)
        tracer = _Tracer()
        graph = tracer.trace(view)
    except NoView as error:
        raise Unfit(f"no private view: {error}") from error
    except Exception as error:  # control flow, functions that need values, whatever a forward may raise on proxies
        raise Unfit(f"cannot be traced, {reason(error, 'incremental')}") from error
    if _mutates_what_is_used_again(graph, dict(view.named_modules())):
        raise Unfit("works in place on what it uses again")
    return Traced(view, graph)


def opaque(model: nn.Module) -> str | None:
    """What besides its modules' classes says what an evaluated model does: hooks, scripts; None: nothing."""
    if any(getattr(_hooks, name, None) for name in _GLOBAL_HOOKS):
        return "hooks on all modules"
    for name, module in model.named_modules():
        why = _opaque(module)
        if why is not None:
            return f"{why} {name}" if name else f"{why} the model"
    return None


def _opaque(m: nn.Module) -> str | None:
    if hook_numbers([m]):
        return "hooks on"
    if "forward" in vars(m) or "__call__" in vars(m):
        return "a forward of its own on"
    if m.training:
        return "training mode of"
    return "no shapes yet of" if isinstance(m, LazyModuleMixin) else None


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
