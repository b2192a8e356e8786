"""Arguments for every registered metric, of any number of samples, and how to take some samples of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.metrics import metric_info

SHAPES = [(7,), (3, 9, 11), (2, 33, 31)]
ODD_ONES = ("zeros", "constant", "ties", "NaN", "infinity", "negative", "one-hot")


def maps_with_odd_ones(n: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Normal maps, the first of which are odd: zero, constant, tied, not finite, negative, one-hot."""
    g = torch.Generator().manual_seed(seed)
    maps = torch.randn(n + len(ODD_ONES), *shape, generator=g)
    maps[0] = 0
    maps[1] = 0.3
    maps[2] = maps[2].round()
    maps[3].flatten()[1] = math.nan
    maps[4].flatten()[2] = math.inf
    maps[5] = -maps[5].abs()
    maps[6] = 0
    maps[6].flatten()[3] = 2
    return maps


def model_of(shape: tuple[int, ...]) -> nn.Module:
    """A linear model with an elementwise bend, whose rows cannot feel each other."""
    weight = torch.linspace(-1, 1, math.prod(shape)).double()

    class Bent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.double().flatten(1).clamp(-1, 1) * weight).sum(1, keepdim=True)

    return Bent()


def case(name: str, maps: Tensor, seed: int = 1) -> dict[str, Any]:
    """What `Metric.update` takes beside the maps; tensors with a row per sample are cut by `rows_of`."""
    g = torch.Generator().manual_seed(seed)
    n, shape = maps.shape[0], maps.shape[1:]
    needs = metric_info(name).needs
    if needs == "masks":
        if name in ("grid_pointing", "focus"):
            return {"masks": torch.arange(n) % 4}
        masks = torch.rand(n, *shape[-2:], generator=g) > 0.6
        masks[n // 2] = False
        masks[n // 3] = True
        return {"masks": masks}
    if needs == "truth":
        truth = (torch.rand(n, *shape, generator=g) > 0.5).float()
        truth[n // 2] = 0
        truth[n // 3] = 1
        return {"truth": truth}
    if needs == "pair":
        return {"other": maps_with_odd_ones(n - len(ODD_ONES), tuple(shape), seed).flip(0)}
    if needs == "order":
        return {"model": model_of(tuple(shape)), "inputs": torch.randn(n, *shape, generator=g)}
    return {}


def fits(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a metric judges maps of this shape: some are of pictures alone."""
    return len(shape) > 1 or name not in ("ssim", "grid_pointing", "focus", "region_perturbation", "selectivity")


def rows_of(given: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """The same of some samples."""
    return {key: value[rows] if isinstance(value, Tensor) else value for key, value in given.items()}
