"""Path methods that move the input and read the gradient at a layer: conductance and internal influence.

LayerConductance (Dhamdhere, Sundararajan, Yan 2018, arXiv:1805.12233): sum over the path of dF/dy * change of y.
InternalInfluence (Leino et al. 2018, arXiv:1802.03788): mean over the path of dF/dy.
NeuronConductance: sum over the path of dF/dy_j * dy_j/dx * (x - x').

The conductance integral is evaluated on intervals that cover all of [0, 1]: they are as long as the rule's weights, the
gradient is taken at the rule's node, and the change of y over the whole interval, so that a linear layer is exact. With
Gauss-Legendre what y is there is read off the values at the nodes (`attr/gradient/slopes.py`): a pass each way per node
and two per path, for all layers at once. Other rules read it: two forward passes and one backward pass per interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.gradient.integrated_gradients import IntegratedGradients
from interp_plugins.attr.gradient.slopes import AlongNodes, add_along
from interp_plugins.attr.shared.arguments import args_from, layer_with_delta
from interp_plugins.attr.shared.at_layer import layer_tensors
from interp_plugins.attr.shared.base import (
    GradientAttribution,
    InternalMultipliesByInputs,
    LayerAttribution,
    NeuronAttribution,
    convergence_delta,
    prepared,
)
from interp_plugins.attr.shared.gradients_in_both import PartsInBoth, in_lower
from interp_plugins.attr.shared.path import (
    RowSum,
    check_rows,
    grid_rows,
    path_gradients,
    points,
    points_and_rows,
    targets_of,
)
from interp_plugins.attr.shared.quadrature import check_steps, quadrature
from interp_plugins.core.baseline import as_starts
from interp_plugins.core.batching import check_chunk, chunks, progress_bar
from interp_plugins.core.conventions import as_captum
from interp_plugins.core.errors import InputError
from interp_plugins.core.forward import Forward, Gradients, gradients, gradients_through
from interp_plugins.core.layer_rows import by_sample
from interp_plugins.core.layers import Layer, Neuron
from interp_plugins.core.multi_target import repeated
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import Inputs, InputsT, LayerMaps, check_float, credit, like
from interp_plugins.engine import planned


def path_conductance(
    forward: Forward,
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor],
    layers: Sequence[Layer],
    method: str,
    n_steps: int,
    chunk: int | None = None,
    progress: bool | None = None,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Sum over the intervals of dF/dy at the node times the change of y over each; (N, ...) per layer tensor."""
    if method == "riemann_trapezoid" and not as_captum():  # gradient: mean of both ends of an interval
        left = path_conductance(forward, inputs, baselines, layers, "riemann_left", n_steps, chunk, progress)
        right = path_conductance(forward, inputs, baselines, layers, "riemann_right", n_steps, chunk, progress)
        return tuple((a + b) / 2 for a, b in zip(left[0], right[0], strict=True)), left[1]
    n, size = inputs[0].shape[0], forward.rows_per_pass(inputs, chunk)
    count = n * n_steps
    forward, seen = planned(forward, inputs, rows=count, chunk=size, wrt=layers, backward=True, states=True)
    layers = seen or layers
    cells = _Cells(forward, inputs, baselines, layers, *_intervals(method, n_steps), size)

    def run() -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        total = RowSum(n * forward.target.count)
        counts: tuple[int, ...] = ()
        with progress_bar(count, "gradients", progress) as bar:
            if method == "gausslegendre" and not as_captum():
                along = AlongNodes(forward, inputs, baselines, layers, n_steps)
                for _, _, found in chunks(count, size, along, step=n_steps, bar=bar):
                    add_along(total, along, found)
                    counts = found.counts
                return total.result(), counts
            for _, _, (rows, parts, counts, last) in chunks(count, size, cells, step=n_steps, bar=bar):  # noqa: B007
                cells.last = last
                total.add(parts, rows)
        return total.result(), counts

    return in_lower(forward, run, lambda lower: PartsInBoth(forward, lower, n_steps, cells.parts, inputs[0].device))


def _intervals(method: str, n_steps: int) -> tuple[Tensor, Tensor]:
    """Edges (n + 1,) of the intervals, and the node (n,) of each where the gradient is taken."""
    if as_captum():  # from each of n + 1 nodes to the next, the gradient at the first; the path's ends may be missing
        edges = torch.tensor(quadrature(method, n_steps + 1).nodes, dtype=torch.float64)
        return edges, edges[:-1]
    rule = quadrature(method, n_steps)
    edges = torch.tensor([0.0, *accumulate(rule.weights)], dtype=torch.float64).clamp_max(1.0)
    edges[-1] = 1.0
    return edges, torch.tensor(rule.nodes, dtype=torch.float64)


class _Cells:
    """The cells of all paths, in the order "all cells of sample 0, of sample 1", so that neighbours share an edge.

    Edges stand in the same order, one more per sample than there are cells.

    Attributes:
        last: the number of the last edge read, and the layers' tensors there; the next chunk begins at it.
    """

    def __init__(
        self,
        forward: Forward,
        inputs: Sequence[Tensor],
        baselines: Sequence[Tensor],
        layers: Sequence[Layer],
        edges: Tensor,
        nodes: Tensor,
        size: int,
    ):
        self.forward, self.inputs, self.baselines, self.layers, self.size = forward, inputs, baselines, layers, size
        self.edges, self.nodes = edges, nodes
        self.last: tuple[int, Sequence[Tensor]] = (-1, ())

    def __call__(self, start: int, stop: int) -> tuple[Tensor, list[Tensor], tuple[int, ...], tuple[int, list[Tensor]]]:
        """For the cells [start, stop): maps they belong to, gradient times change, tensors per layer, the last edge."""
        cells, targets = torch.arange(start, stop), self.forward.target.count
        samples, steps = cells // len(self.nodes), cells % len(self.nodes)
        got = self._gradients(samples, steps)
        begin = samples * len(self.edges) + steps  # (cells,): the edge at which each begins
        first, last = int(begin[0]), int(begin[-1]) + 1
        read = self._at_edges(first, last + 1)
        index = (begin - first).to(self.inputs[0].device)
        # (edges, entries, ...) -> (cells, entries, ...)
        parts = self._credited(got, [t.index_select(0, index + 1) - t.index_select(0, index) for t in read])
        return targets_of(samples.to(index.device), targets), parts, got.counts, (last, [t[-1:] for t in read])

    def parts(self, samples: Tensor, steps: Tensor) -> list[Tensor]:
        """Gradient times change in single cells, the numbers `steps` of their paths."""
        got = self._gradients(samples, steps)
        begin, end = (self._read(samples, self.edges[steps + side]) for side in (0, 1))
        return self._credited(got, [b - a for a, b in zip(begin, end, strict=True)])

    def _gradients(self, samples: Tensor, steps: Tensor) -> Gradients:
        return gradients(
            self.forward, *points_and_rows(self.inputs, self.baselines, samples, self.nodes[steps]), wrt=self.layers
        )

    def _credited(self, got: Gradients, changes: Sequence[Tensor]) -> list[Tensor]:
        """Gradients (cells * targets * entries, ...) times changes (cells, entries, ...)."""
        change = repeated(changes, self.forward.target.count)
        return [credit(c.flatten(0, 1), g) for g, c in zip(got.grads, change, strict=True)]

    def _read(self, samples: Tensor, alphas: Tensor) -> list[Tensor]:
        """The layers' tensors at places of paths: (R, entries, ...) each."""
        read = layer_tensors(self.forward, *points_and_rows(self.inputs, self.baselines, samples, alphas), self.layers)
        check_rows(read, len(samples))
        return [t.unflatten(0, (len(samples), -1)) for t in read]

    def _at_edges(self, first: int, stop: int) -> list[Tensor]:
        """The layers' tensors at the edges [first, stop): (edges, entries, ...) each."""
        number, tensors = self.last
        parts = [tensors] if number == first else []
        todo = torch.arange(first + len(parts), stop)
        for some in todo.chunk(-(-len(todo) // self.size)):
            parts.append(self._read(some // len(self.edges), self.edges[some % len(self.edges)]))
        return [torch.cat(column) for column in zip(*parts, strict=True)]


@register(
    "layer_conductance",
    aliases=("conductance",),
    site="layer",
    reference="Dhamdhere et al. 2018, arXiv:1805.12233",
    shares_targets=True,
    embeds_ids=True,
    cost="n forward, n backward",
    axioms=("completeness", "linearity"),
    assumes="the baseline stands for nothing",
)
class LayerConductance(LayerAttribution, GradientAttribution):
    """How much of the change of the score flows through each unit of a layer.

    Example:
        LayerConductance(model, "0").attribute(x, target=3, n_steps=20).shape  # -> (2, 4, 22, 22)
    """

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: conductance multiplies gradients by the change of the layer."""
        return True

    @layer_with_delta
    @args_from(IntegratedGradients.attribute)
    def attribute(
        self,
        inputs: Inputs,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        progress: bool | None = None,
    ) -> LayerMaps | tuple[LayerMaps, Tensor]:
        """Conductance of the layer's units, of the layer's shape.

        Args:
            n_steps: intervals of the path.
            method: rule whose intervals and nodes are used; Gauss-Legendre costs one forward pass per node, and
                converges exponentially where the model is smooth, others cost two.
        """
        check_steps(method, n_steps)
        layers = self.resolved_layers(attribute_to_layer_input)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            bs = as_starts(baselines, xs, template=inputs)
            chunk = check_chunk("internal_batch_size", internal_batch_size)
            maps, counts = path_conductance(forward, xs, bs, layers, method, n_steps, chunk, progress)
            maps = tuple(by_sample(forward, layers, counts, maps, steps=forward.rows_per_pass(xs, chunk) != 1))
            out = self.formatted(maps, counts)
            return (out, convergence_delta(forward, maps, xs, bs, chunk)) if return_convergence_delta else out


@register(
    "internal_influence",
    aliases=("influence",),
    site="layer",
    reference="Leino et al. 2018, arXiv:1802.03788",
    shares_targets=True,
    embeds_ids=True,
    cost="n forward, n backward",
    axioms=("linearity",),
    assumes="the baseline stands for nothing",
)
class InternalInfluence(LayerAttribution, GradientAttribution):
    """Mean gradient at a layer along the input's path."""

    @args_from(LayerConductance.attribute)
    def attribute(
        self,
        inputs: Inputs,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        progress: bool | None = None,
    ) -> LayerMaps:
        """Mean gradient, of the layer's shape; arguments as in `LayerConductance.attribute`."""
        layers = self.resolved_layers(attribute_to_layer_input)
        check_steps(method, n_steps)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            bs = as_starts(baselines, xs, template=inputs)
            chunk = check_chunk("internal_batch_size", internal_batch_size)
            rule = quadrature(method, n_steps)
            maps, counts = path_gradients(forward, xs, bs, rule, wrt=layers, chunk=chunk, progress=progress)
            return self.formatted(
                tuple(by_sample(forward, layers, counts, maps, steps=forward.rows_per_pass(xs, chunk) != 1)), counts
            )


@register(
    "neuron_conductance",
    site="neuron",
    reference="Shrikumar, Su, Kundaje 2018, arXiv:1807.09946",
    variant_of="layer_conductance",
    cost="n forward, 2n backward",
    axioms=("linearity",),
    assumes="the baseline stands for nothing",
)
class NeuronConductance(InternalMultipliesByInputs, NeuronAttribution, GradientAttribution):
    """The part of the integrated gradients that flows through one neuron.

    Args:
        forward_func: model or callable.
        layer: module, dotted name or `core.layers.Layer`.
        device_ids: not needed.
        multiply_by_inputs: multiply by (input - baseline), the default.
    """

    @args_from(IntegratedGradients.attribute)
    def attribute(
        self,
        inputs: InputsT,
        neuron_selector: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "riemann_trapezoid",
        internal_batch_size: int | None = None,
        attribute_to_neuron_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        progress: bool | None = None,
    ) -> InputsT:
        """Conductance of a neuron for each input element.

        Args:
            neuron_selector: int, tuple (slices are blocks, each unit weighted by its own gradient), or a function of
                the layer's tensor -> (N,) that picks units.
            n_steps: nodes of the quadrature.
            method: quadrature rule; Captum's default here is the trapezoid.
            grad_kwargs: accepted for Captum's sake; not needed.
        """
        if isinstance(self.layer, list):
            raise InputError("A neuron lives in one layer; got a list of layers.")
        rule = quadrature(method, n_steps)
        neuron = Neuron(self.resolved_layers(attribute_to_neuron_input)[0], neuron_selector)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            bs = as_starts(baselines, xs, template=inputs)
            n, device = xs[0].shape[0], xs[0].device
            nodes, weights = (
                torch.tensor(rule.nodes, dtype=torch.float64),
                torch.tensor(rule.weights, dtype=torch.float64),
            )
            total = RowSum(n)

            def work(start: int, stop: int) -> Any:
                rows, steps = grid_rows(start, stop, n, device)
                at = points(xs, bs, rows, nodes[steps.cpu()].to(xs[0].dtype).to(device))
                return rows, steps, gradients_through(forward, at, rows, neuron)

            size = forward.rows_per_pass(xs, check_chunk("internal_batch_size", internal_batch_size))
            with progress_bar(n * n_steps, "gradients", progress) as bar:
                for _, _, (rows, steps, grads) in chunks(n * n_steps, size, work, step=n, bar=bar):
                    total.add(grads, rows, weights[steps.cpu()])
            maps = total.result()
            if self._multiply_by_inputs:
                maps = tuple(credit(x - b, g) for x, b, g in zip(xs, bs, maps, strict=True))
            return like(inputs, maps)
