"""`TracedModel`: a traced model as operations, batch normalisation folded into the convolutions before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from interp_plugins.engine.incremental.change import FIRST, FeatureMap, as_map
from interp_plugins.engine.incremental.match import GraphCall, Matched, match
from interp_plugins.engine.incremental.ops import Add, Conv, Pointwise, Same
from interp_plugins.engine.incremental.trace import Traced, depends_on_input


class TracedModel:
    """The operations of a model, and which calls of the graph only the model itself can answer. Made by `of`.

    Attributes:
        products: multiplications of each operation in the plain model, per picture.
        planned: those of a planned forward in all, calls that are left to the model included.
        others: those in calls that are left to the model, estimated from their weights.
        left: names of the calls at which changes end.
        pays: nodes where a change of the whole map still pays: a convolution that is cheaper on changes comes later.
        asked_for: nodes whose maps changes may ask for the values of.
    """

    def __init__(self, traced: Traced):
        self.nodes: list[fx.Node] = list(traced.graph.nodes)
        self.modules: dict[str, nn.Module] = dict(traced.root.named_modules())
        self.root = traced.root
        self.dynamic = depends_on_input(traced.graph)
        self.constants: dict[fx.Node, Any] = {}
        self.products: dict[fx.Node, float] = {}
        self.planned = self.others = 0.0
        self.matched: dict[fx.Node, Matched] = {}
        self.layouts: dict[fx.Node, str] = {}
        self.left: list[str] = []
        self.pays: set[fx.Node] = set()
        self.asked_for: set[fx.Node] = set()
        for module in self.modules.values():
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # type: ignore[assignment]
        last_use: dict[fx.Node, fx.Node] = {}
        for node in self.nodes:
            for source in node.all_input_nodes:
                last_use[source] = node
        self.done_after: dict[fx.Node, list[fx.Node]] = {}
        for source, node in last_use.items():
            self.done_after.setdefault(node, []).append(source)

    @classmethod
    def of(cls, traced: Traced, x: Tensor) -> tuple[TracedModel, Reference]:
        """The plan of a traced model, and the pass of a sample x (1, C, H, W), which shows it the shapes."""
        plan = cls(traced)
        reference = plan._match(x)
        plan._fold(reference)
        plan.pays = plan._before_fast_convolutions()
        plan.asked_for = plan._asked_for(reference)
        plan.products = {node: found.op.products(reference.maps[node]) for node, found in plan.matched.items()}
        fewest = (found.op.fewest(reference.maps[node]) for node, found in plan.matched.items())
        plan.planned = sum(fewest) + plan.others
        return plan, reference

    def _match(self, x: Tensor) -> Reference:
        values: dict[fx.Node, Any] = {}
        output: Any = None
        for node in self.nodes:
            if node.op == "placeholder":
                values[node] = x
                self.layouts[node] = FIRST
            elif node.op == "get_attr":
                found: Any = self.root
                for name in str(node.target).split("."):
                    found = getattr(found, name)
                values[node] = self.constants[node] = found.detach() if isinstance(found, Tensor) else found
            elif node.op != "output":
                module = self.modules[str(node.target)] if node.op == "call_module" else None
                matched = (
                    match(GraphCall(node, module, values.__getitem__, self.layouts)) if node in self.dynamic else None
                )
                if matched is not None and matched.sources:
                    self.matched[node], self.layouts[node] = matched, matched.layout
                    values[node] = matched.op.plain(*[values[s] for s in matched.sources])
                else:
                    values[node] = self.call(node, lambda n: _own(values[n]))
                if node not in self.dynamic:
                    self.constants[node] = values[node]
                elif node not in self.matched:
                    constants = [self.constants.get(n) for n in node.all_input_nodes]
                    self.others += _products(values[node], module, constants)
                    self._leave(node, module, values[node])
            else:
                output = fx.node.map_arg(node.args[0], values.__getitem__)
        maps = {node: FeatureMap(as_map(values[node], layout)[0]) for node, layout in self.layouts.items()}
        return Reference(maps, output)

    def _leave(self, node: fx.Node, module: nn.Module | None, value: Any) -> None:
        """Note a call at which changes end, unless all it gives is something of a shape."""
        if not any(source in self.layouts for source in node.all_input_nodes):
            return
        name = type(module).__name__ if module is not None else str(getattr(node.target, "__name__", node.target))
        if any(isinstance(t, Tensor) for t in pytree.tree_leaves(value)) and name not in self.left:
            self.left.append(name)

    def _fold(self, first: Reference) -> None:
        for node, found in self.matched.items():
            after = self.matched.get(next(iter(node.users))) if len(node.users) == 1 else None
            if isinstance(found.op, Conv) and after and isinstance(after.op, Pointwise) and after.op.affine:
                found.op = found.op.scaled(*after.op.affine)
                after.op = Same(lambda t: t)
                first.maps[node] = first.maps[next(iter(node.users))]

    def _before_fast_convolutions(self) -> set[fx.Node]:
        found: set[fx.Node] = set()
        for node in reversed(self.nodes):
            op = self.matched[node].op if node in self.matched else None
            if (isinstance(op, Conv) and op.can_be_fast) or any(user in found for user in node.users):
                found.add(node)
        return found

    def _asked_for(self, first: Reference) -> set[fx.Node]:
        """Nodes whose maps changes may ask for the values of, wherever they go on as whole maps."""
        found: set[fx.Node] = set()
        for node in self.nodes:
            if node in self.matched:
                op, sources = self.matched[node].op, self.matched[node].sources
                shapes = {first.maps[s].data.shape for s in sources}
                whole = node not in self.pays or (isinstance(op, Add) and len(shapes) > 1)
                found.update(sources if whole or op.reads != "nothing" else ())
                found.update([node] if op.reads == "all" else ())
            elif node in self.dynamic:
                found.update(n for n in node.all_input_nodes if n in self.layouts)
        return found

    def run(self, x: Tensor, found: Callable[[fx.Node, Tensor], None]) -> Any:
        """The model's output for x (R, C, H, W); `found` gets every map, (R, H, W, C)."""
        output: Any = None
        values: dict[fx.Node, Any] = dict(self.constants)
        for node in self.nodes:
            if node.op == "placeholder":
                values[node] = x
            elif node.op == "output":
                output = fx.node.map_arg(node.args[0], values.__getitem__)
            elif node in self.matched:
                values[node] = self.matched[node].op.plain(*[values[s] for s in self.matched[node].sources])
            elif node in self.dynamic:
                values[node] = self.call(node, lambda n: _own(values[n]))
            if node in self.layouts:
                found(node, as_map(values[node], self.layouts[node]))
            for done in self.done_after.get(node, ()):
                values.pop(done, None)
        return output

    def call(self, node: fx.Node, value: Any) -> Any:
        """Run one call of the graph as the model would."""
        args, kwargs = fx.node.map_arg(node.args, value), fx.node.map_arg(node.kwargs, value)
        if node.op == "call_module":
            return self.modules[str(node.target)](*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


@dataclass
class Reference:
    """The unperturbed pass of one sample.

    Attributes:
        maps: what each operation gave (and the input).
        output: what the model returns.
    """

    maps: dict[fx.Node, FeatureMap]
    output: Any

    @classmethod
    def of(cls, plan: TracedModel, x: Tensor) -> Reference:
        """One more pass, of the sample x (1, C, H, W)."""
        maps: dict[fx.Node, FeatureMap] = {}

        def found(node: fx.Node, value: Tensor) -> None:
            maps[node] = FeatureMap(value[0])

        return cls(maps, plan.run(x, found))

    def finite(self) -> bool:
        """Whether differences can be taken everywhere."""
        return all(bool(m.data.sum().isfinite()) for m in self.maps.values())


def _products(made: Any, module: nn.Module | None, constants: list[Any]) -> float:
    """Each weight once per position of the output, as in linear layers and attention."""
    while isinstance(made, (tuple, list)) and made:
        made = made[0]
    if not isinstance(made, Tensor) or not made.ndim:
        return 0.0
    weights = list(module.parameters()) if module is not None else constants
    sizes = [w.numel() for w in weights if isinstance(w, Tensor) and w.ndim > 1]
    return float(sum(sizes) * made.numel() // max(1, made.shape[-1]))


def _own(value: Any) -> Any:
    """A call that is not known might work in place."""
    return value.clone() if isinstance(value, Tensor) else value
