"""What metrics are tried on: maps of methods, maps that must lose to them, and how each is made anew if it is asked.

Methods on the task's net; a method on the same net with its weights shuffled; maps that ignore the model; a good map
mixed with noise, turned over, and scaled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.api.explain import explain
from interp_plugins.benchmark.entrants import Entrant, control_map, entrant
from interp_plugins.benchmark.problem import Problem
from interp_plugins.core.random import sample_seed
from interp_plugins.metrics import Explainer
from interp_plugins.metrics.controls import fits

PLAIN = (
    "saliency",
    "input_x_gradient",
    "integrated_gradients:n_steps=16",
    "deep_lift",
    "lrp",
    "guided_backprop",
    "feature_ablation",
)
SHARES = (0.25, 0.5, 0.75, 1.0)  # of noise in a mixture; without any it is the map itself
BLIND = ("control.constant", "control.input", "control.edges", "control.centre")
SHUFFLED, NEGATED, SCALED, NOISE = "shuffled weights", "negated", "scaled", "control.random"
Explain = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Contender:
    """Maps with a name.

    Attributes:
        name: of a method or of what was done to a map.
        maps: (N, ...).
        again: how they are made, for metrics that ask for them again.
        game: which one its values claim to be.
    """

    name: str
    maps: Tensor
    again: Explainer
    game: str | None = None


def methods_of(problem: Problem, seed: int = 0) -> list[Contender]:
    """The maps of `PLAIN`.

    Args:
        problem: the samples.
        seed: of draws.
    """
    return [_method(entrant(name), problem, seed) for name in PLAIN]


def rivals(problem: Problem, good: Contender, seed: int = 0) -> list[Contender]:
    """Maps that must lose to a good one, and the good one scaled, which must not.

    Args:
        problem: the samples.
        good: of `methods_of`.
        seed: of the noise and of the shuffled weights.
    """
    other = shuffled(problem.model, seed)
    blind = [_blind(n, problem, seed) for n in (NOISE, *BLIND) if fits(n, [problem.inputs], problem.kind)]
    worse = []
    if other is not None:
        maps = entrant(good.name).explain(replace(problem, model=other), seed).maps
        worse.append(Contender(SHUFFLED, maps, Explainer(_of_model(other, good.again)), good.game))
    for name, weight in ((NEGATED, -1.0), (SCALED, 7.0)):
        worse.append(Contender(name, weight * good.maps, Explainer(_times(weight, good.again)), good.game))
    size = good.maps.double().flatten(1).std(1).float().reshape(-1, *[1] * (good.maps.ndim - 1))
    noise = blind[0].maps[:, : good.maps.shape[1]] * size
    for share in SHARES:
        mixed = (1 - share) * good.maps + share * noise
        worse.append(Contender(f"noise {share:.0%}", mixed, Explainer(_mixed(share, good.again)), good.game))
    return [*blind, *worse]


def _method(one: Entrant, problem: Problem, seed: int) -> Contender:
    assert isinstance(one.method, str)
    again = Explainer(one.method, dict(one.params), None, problem.baselines, None, problem.spec)
    return Contender(one.name, one.explain(problem, seed).maps, again, one.game)


def _blind(name: str, problem: Problem, seed: int) -> Contender:
    """A control, and the function that makes it: noise is the same for every input, the input's own follows it."""

    def again(model: Any, inputs: Tensor, target: Any) -> Tensor:
        one = replace(
            problem, inputs=inputs, targets=torch.zeros(len(inputs)), truth=None, truth_kind="none", parts=None
        )
        if isinstance(one.baselines, Tensor) and len(one.baselines) not in (1, len(inputs)):
            one = replace(one, baselines=one.baselines[:1])
        if name != NOISE:
            return control_map(name, one, seed).to(inputs)
        row = replace(one, inputs=inputs[:1], targets=torch.zeros(1))
        return control_map(name, row, seed).to(inputs).expand(inputs.shape)

    return Contender(name, control_map(name, problem, seed), Explainer(again))


def _asked(again: Explainer, model: Any, inputs: Any, target: Any) -> Any:
    options = {"layer": again.layer, "baselines": again.baselines, "input_spec": again.spec, "progress": False}
    return explain(model, inputs, {again.method: dict(again.params)}, target=target, **options)[0].attribution


def _of_model(model: Any, method: Explainer) -> Explain:
    return lambda _model, inputs, target: _asked(method, model, inputs, target)


def _times(weight: float, method: Explainer) -> Explain:
    return lambda model, inputs, target: weight * _asked(method, model, inputs, target)


def _mixed(share: float, method: Explainer) -> Explain:
    """A map mixed with noise of its own spread, which is the same for every input."""

    def again(model: Any, inputs: Tensor, target: Any) -> Tensor:
        maps: Tensor = _asked(method, model, inputs, target)
        noise = torch.randn(maps.shape[1:], generator=torch.Generator().manual_seed(sample_seed(0, "mixed")))
        size = maps.double().flatten(1).std(1).to(maps).reshape(-1, *[1] * (maps.ndim - 1))
        return (1 - share) * maps + share * size * noise.to(maps)

    return again


def shuffled(model: Callable[..., Tensor], seed: int) -> nn.Module | None:
    """A copy of a net, the numbers of each of its weights in another order; None where it has none.

    Args:
        model: the net, or a function.
        seed: of the order.
    """
    if not isinstance(model, nn.Module) or not list(model.parameters()):
        return None
    found = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in found.named_parameters():
            generator = torch.Generator().manual_seed(sample_seed(seed, name))
            order = torch.randperm(weight.numel(), generator=generator)
            weight.copy_(weight.flatten()[order].reshape(weight.shape))
    return found
