"""Rows through a plan: boxes as far as they stay boxes, whole tensors from there on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import fx

from interp_plugins.engine.incremental.change import Change, FeatureMap, Geometry, from_map
from interp_plugins.engine.incremental.traced_model import TracedModel

_ASKS_SHAPE = ("size", "dim", "shape", "ndim", "dtype", "device")


class ChangeRun:
    """One run of some perturbations of one sample.

    Args:
        plan: the model.
        maps: those of the pass that the rows differ from.
        change: the perturbations, as a change of the input.

    Attributes:
        products: multiplications per node.
    """

    def __init__(self, plan: TracedModel, maps: Mapping[fx.Node, FeatureMap], change: Change):
        self.plan, self.maps, self._input = plan, maps, change
        self.rows = change.delta.shape[0]
        self.geometry = Geometry()
        self.products: dict[fx.Node, float] = defaultdict(float)
        self._values: dict[fx.Node, Any] = {}
        self._node: fx.Node | None = None

    def count(self, products: float) -> None:
        """Multiplications done for the current node."""
        assert self._node is not None
        self.products[self._node] += products

    def output(self) -> Any:
        """What the model returns for these rows."""
        plan, output = self.plan, None
        for node in plan.nodes:
            if node in plan.constants:
                continue
            if node.op == "output":
                output = fx.node.map_arg(node.args[0], self._tensor)
            else:
                self._node = node
                self._values[node] = self._input if node.op == "placeholder" else self._run(node)
            for done in plan.done_after.get(node, ()):
                if done in self._values:
                    self.done(done, self._values.pop(done))
        return output

    def done(self, node: fx.Node, value: Any) -> None:
        """Nobody asks for a node's value any more."""

    def _run(self, node: fx.Node) -> Any:
        found = self.plan.matched.get(node)
        if found is None:
            asks_shape = str(node.target) in _ASKS_SHAPE or (len(node.args) > 1 and node.args[1] in _ASKS_SHAPE)
            return self.plan.call(node, self._shape if asks_shape else self._tensor)
        maps = self.maps
        inputs = [self._values[s] for s in found.sources]
        if all(isinstance(v, Change) for v in inputs) and self._pays(node, inputs):
            made = found.op.change(self, inputs, [maps[s] for s in found.sources], maps[node])
            if made is not None:
                return made
        self.count(self.rows * found.op.products(maps[node]))
        return found.op.plain(*[self._tensor(s) for s in found.sources])

    def _pays(self, node: fx.Node, inputs: list[Change]) -> bool:
        """Whether to go on with changes: they are smaller than the maps, or a cheaper convolution comes."""
        return node in self.plan.pays or any(not c.full or c.y.extent == c.x.extent == 1 for c in inputs)

    def _tensor(self, node: fx.Node) -> Any:
        """The whole tensor in the model's layout."""
        if node in self.plan.constants:
            return self.plan.constants[node]
        value = self._values[node]
        if isinstance(value, Change):
            whole = self.geometry.clean(value).whole().delta + self.maps[node].data
            return from_map(whole, self.plan.layouts[node])
        return value

    def _shape(self, node: fx.Node) -> Any:
        """Something of the whole tensor's shape and dtype."""
        value = self._values.get(node)
        if not isinstance(value, Change):
            return self._tensor(node)
        return from_map(self.maps[node].of_rows(self.rows), self.plan.layouts[node])
