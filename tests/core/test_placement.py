"""Tensors are put where a model has its weights, in its type, and nothing else is touched."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from interp_plugins.core.placement import beside_weights, moved


def test_floating_point_tensors_take_the_type_and_all_the_device() -> None:
    tree = {"a": torch.ones(2), "b": [torch.ones(2, dtype=torch.long), "text", None], "c": (torch.ones(1).bool(),)}
    meta = moved(tree, torch.device("meta"), torch.float64)
    assert [t.device.type for t in (meta["a"], meta["b"][0], meta["c"][0])] == ["meta"] * 3
    assert (meta["a"].dtype, meta["b"][0].dtype, meta["c"][0].dtype) == (torch.float64, torch.long, torch.bool)
    assert meta["b"][1:] == ["text", None]
    assert moved(tree, torch.device("cpu"))["a"] is tree["a"]


def test_a_model_says_where_by_its_weights_or_else_its_buffers() -> None:
    x, ids = torch.ones(2), torch.arange(2)
    double = nn.Linear(2, 1).double()
    held = nn.Module()
    held.register_buffer("count", torch.zeros(1, dtype=torch.long))
    held.register_buffer("mean", torch.zeros(1, dtype=torch.float64))
    for model in (double, double.forward, functools.partial(double), held):
        found = beside_weights((x, ids), model)
        assert (found[0].dtype, found[1].dtype) == (torch.float64, torch.long)
    for without in (nn.ReLU(), lambda x: x, nn.Module()):
        assert isinstance(beside_weights(x, without), Tensor) and beside_weights(x, without) is x
