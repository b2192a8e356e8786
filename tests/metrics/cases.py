"""Arguments for every registered metric, of any number of samples, and how to take some samples of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.attr.shared.grid_features import grid_mask
from interp_plugins.core.guard import modules_of
from interp_plugins.metrics import metric_info
from interp_plugins.metrics.registry import ASKING, REPEATING

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


def model_of(shape: tuple[int, ...], outputs: int = 1) -> nn.Module:
    """A linear model with an elementwise bend, whose rows cannot feel each other; elements 0 and 1 are alike to it."""

    class Bent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weight = torch.linspace(-1, 1.1, math.prod(shape)).double()
            weight[1] = weight[0]
            self.weight = nn.Parameter(weight)
            self.trained = self.weight.detach().clone()

        def forward(self, x: Tensor) -> Tensor:
            score = (x.double().flatten(1).clamp(-1, 1) * self.weight).sum(1, keepdim=True)
            return torch.cat([score * (1 + k) for k in range(outputs)], 1)

    return Bent()


def probability(output: Tensor) -> Tensor:
    """The model's only output as a number in [0, 1]; an exponential's last bit depends on how many there are."""
    return (0.5 + output[:, 0] / 64).clamp(0, 1)


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
    if needs in REPEATING:
        classes = {"model": model_of(tuple(shape), 3), "target": 1} if name == "random_target" else {}
        few = {key: value for key, value in FEW.items() if key in metric_info(name).parameters}
        other = {"other_model": model_of(tuple(shape))} if "other_model" in metric_info(name).parameters else {}
        return {"model": model_of(tuple(shape)), "inputs": encoded(maps), "explain": decoded, **few, **other, **classes}
    if name in ("non_sensitivity", "dummy"):
        inputs = torch.randn(n, *shape, generator=g)
        return {"model": model_of(tuple(shape)), "inputs": inputs, "n_draws": 1}
    if needs in ASKING:
        found = {"model": model_of(tuple(shape)), "inputs": torch.randn(n, *shape, generator=g)}
        if name == "aic":
            return {**found, "baselines": 0}
        return {**found, "target": probability} if name.startswith("average_") or name == "sic" else found
    return {}


FEW = {"n_neighbours": 3, "stages": 2, "n_seeds": 2, "pairs": [(0, 1)]}
NAN, INFINITY = 50, 100  # numbers in inputs that stand for what inputs must not hold; noise does not confuse them


def encoded(maps: Tensor) -> Tensor:
    """Inputs that `decoded` gives these maps for."""
    return maps.nan_to_num(NAN, INFINITY)


def decoded(model: Any, inputs: Tensor, target: Any) -> Tensor:
    """Maps as a method gives them that reads its input, the weights and the class, element by element."""
    root = modules_of(model)[0]
    inputs = inputs.double()
    maps = torch.where((inputs - NAN).abs() < 10, math.nan, inputs)
    maps = torch.where((inputs - INFINITY).abs() < 20, math.inf, maps)
    maps = maps * (root.weight / root.trained).reshape(inputs.shape[1:])
    if target is None:
        return maps
    return torch.stack([one.roll(int(k) - 1) for one, k in zip(maps, target)])  # class 1: as they are


def scaled(given: dict[str, Any], factor: float) -> dict[str, Any]:
    """The same where all maps are multiplied."""
    if "explain" not in given:
        return given
    return {**given, "explain": lambda model, inputs, target: factor * decoded(model, inputs, target)}


EACH_FEATURE = ("faithfulness_estimate", "irof", "monotonicity", "monotonicity_correlation", "non_sensitivity")


def settings(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Parameters that keep a metric's rows few: those that ask about each feature get cells of large maps."""
    known, found = metric_info(name).parameters, {}
    found.update({key: value for key, value in (("n_draws", 2), ("n_subsets", 12)) if key in known})
    if name in ("non_sensitivity", "dummy"):
        del found["n_draws"]  # `case` gives it
    if name.endswith("_classes") and math.prod(shape) > 300:
        found["features"] = grid_mask(torch.zeros(1, *shape), (2, 2), (-2 % (len(shape) + 1), -1 % (len(shape) + 1)))
    if name == "consistency_classes":
        found["k"] = 1
    if name == "sufficiency_classes":
        found["alike"] = 0.2
    if name == "monotonicity":
        found.update(share=True, steps=4)
    if name in EACH_FEATURE and math.prod(shape) > 300:
        found["features"] = grid_mask(torch.zeros(1, *shape), (4, 5), (-2 % (len(shape) + 1), -1 % (len(shape) + 1)))
    return found


def fits(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a metric judges maps of this shape: some are of pictures alone."""
    many = math.prod(shape) > 500
    if many and (name in ("non_sensitivity", "dummy") or metric_info(name).needs in REPEATING):
        return False  # these ask much
    if name in ("sic", "aic"):
        return len(shape) == 3 and min(shape[1:]) > 3
    flat = ("ssim", "grid_pointing", "focus", "region_perturbation", "selectivity", "equivariance", "road")
    return len(shape) > 1 or name not in flat


def rows_of(given: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """The same of some samples."""
    return {key: value[rows] if isinstance(value, Tensor) else value for key, value in given.items()}
