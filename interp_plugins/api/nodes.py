"""Graphs whose rows are nodes: the graph is the sample, and one graph goes through per pass.

`explain(model, node_features, ..., additional_forward_args=(edge_index,), nodes=True)` explains a graph network as a
model of whole graphs: features (1, nodes, F) in; out comes a score per class for the graph (1, C), or for each of its
nodes (1, nodes, C), of which the target takes one, or a sum over all nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.arranged import Arranged
from interp_plugins.core.errors import InputError, ModelError
from interp_plugins.core.fixed import unmarked
from interp_plugins.core.forward import Call, select_output
from interp_plugins.core.literals import map_literals
from interp_plugins.core.rows import RowFacts
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple, describe, own_tree
from interp_plugins.core.wrapper import Wrapper


class OneGraph(Wrapper):
    """A graph network as a function of whole graphs, one per pass.

    Args:
        func: model or callable, called as `func(*features, *args, **kwargs)`.
        args: what goes along as it is: edges, edge weights.
        kwargs: keyword arguments that go along as they are.
        output: which part of the output is explained, as in `Call`.
    """

    known_rows = RowFacts(single=True, why="a graph is a sample")

    def __init__(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        output: Any = None,
    ):
        self.func, self.args, self.kwargs, self.output = func, args, dict(kwargs or {}), output

    def __call__(self, *features: Tensor) -> Tensor:
        """The scores of one graph: (1, C), or (1, nodes, C) where the model gives them per node."""
        if len(features[0]) != 1:
            raise ModelError(f"One graph goes through per pass, got {len(features[0])}.")
        found = select_output(self.func(*(x[0] for x in features), *self.args, **self.kwargs), self.output)
        nodes = features[0].shape[1]
        if found.ndim and found.shape[0] == 1 and nodes > 1:
            return found  # pooled over the nodes
        return found[None]


def as_graph(given: Arranged, args: Any, nodes: bool) -> tuple[Arranged, Any]:
    """The problem of one graph: its model of whole graphs, with inputs, baselines and masks (1, nodes, F).

    Beside it stand the additional arguments that are left: none, since the model of whole graphs has them.

    Args:
        given: inputs are node features (nodes, F), or several tensors whose first dimension is nodes, edges, ...
        args: additional positional arguments, which go along as they are.
        nodes: whether this is asked for; else both come back as they are.

    Raises:
        InputError: inputs that are no tensors, or have no features.
    """
    if not nodes:
        return given, args
    many = as_tuple(given.inputs)
    for x in many:
        if not isinstance(x, Tensor) or x.ndim < 2:
            raise InputError(
                f"nodes=True explains the features of one graph's nodes, a tensor (nodes, features); got {describe(x)}."
            )
    extra = () if args is None else own_tree(as_tuple(args))
    call = given.func if isinstance(given.func, Call) else Call(given.func)
    shapes = {x.shape for x in many}

    def one(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(one(v) for v in value)
        return value[None] if isinstance(value, Tensor) and value.shape in shapes else value

    graph = replace(
        given,
        func=OneGraph(call.func, unmarked(extra), unmarked(own_tree(call.kwargs)), call.output),
        inputs=one(given.inputs),
        spec=given.spec or InputSpec(),
        baselines=one(given.baselines),
        feature_mask=one(given.feature_mask),
    )
    return graph, None


def node_target(target: Any, output: Tensor, nodes: int) -> Any:
    """A target of a graph: as given for scores per graph; of scores per node one node's, or the sum over all.

    Args:
        target: None (of each node the class it is given), a class for all nodes, a tensor with a class per node; a
            tuple (node, class), a function or anything else is left as it is.
        output: the model's clean output.
        nodes: number of nodes.
    """
    if output.ndim not in (2, 3) or tuple(output.shape[:2]) != (1, nodes) or nodes == 1:
        return target
    return map_literals(target, lambda one: _node_literal(one, output, nodes))


def _node_literal(target: Any, output: Tensor, nodes: int) -> Any:
    if output.ndim == 2:  # a value per node
        return AllNodes(None) if target is None else target
    if target is None:
        return AllNodes(output[0].argmax(1))
    if isinstance(target, int) and not isinstance(target, bool):
        return AllNodes(torch.full((nodes,), target))
    if isinstance(target, Tensor) and target.ndim == 1 and len(target) == nodes:
        return AllNodes(target)
    return target


class AllNodes:
    """The sum of all nodes' scores, of a class each.

    Args:
        classes: per node; None where a node has a single score.
    """

    def __init__(self, classes: Tensor | None):
        self.classes = classes
        names = [] if classes is None else sorted(set(classes.tolist()))
        self.__name__ = f"class {names[0]} of all nodes" if len(names) == 1 else "sum over all nodes"

    def __call__(self, output: Tensor) -> Tensor:
        """The sum per graph (R,) of scores (R, nodes) or (R, nodes, C)."""
        if self.classes is None:
            return output.sum(1)
        where = self.classes.to(output.device)
        most = int(where.max())
        if most >= output.shape[2]:
            raise InputError(f"Class {most} was asked for, and each node has {output.shape[2]} scores.")
        return output[:, torch.arange(len(where), device=output.device), where].sum(1)
