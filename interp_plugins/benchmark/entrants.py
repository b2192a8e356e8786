"""Entrants: what is compared. A registered method with its parameters, a control, or a function of one's own."""

from __future__ import annotations

import ast
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.binding import method_info
from interp_plugins.api.explain import explain
from interp_plugins.benchmark.problem import Problem
from interp_plugins.core.enlarged import over_input
from interp_plugins.core.errors import InputError, RandomisationWarning, unknown
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.registry import Budget, canonical_name
from interp_plugins.metrics import controls

# What is entered where no methods are named: the plain ones of each family, not every variant.
GENERAL = (
    "saliency",
    "input_x_gradient",
    "integrated_gradients",
    "gradient_shap",
    "noise_tunnel",
    "deep_lift",
    "lrp",
    "guided_backprop",
    "feature_ablation",
    "shapley_value_sampling",
    "kernel_shap",
    "lime",
)
PICTURES = ("occlusion", "rise", "grad_cam", "layer_cam", "hi_res_cam")
KNOBS = {  # the parameter that says how long a method works; with it the error falls
    "integrated_gradients": "n_steps",
    "gradient_shap": "n_samples",
    "noise_tunnel": "nt_samples",
    "shapley_value_sampling": "n_samples",
    "kernel_shap": "n_samples",
    "lime": "n_samples",
}
BUDGETS = (10, 50, 200, 1000)
TRUTH = "control.truth"
CONTROLS = {**controls.CONTROLS, TRUTH: "what is true, as good as a map can be"}
_SLOW = {"feature_ablation", "shapley_value_sampling"}  # a feature at a time: not for pixels


@dataclass(frozen=True)
class Answer:
    """What an entrant gave for a problem.

    Attributes:
        maps: (N, ...) of the inputs' shape, or with one channel.
        forward: forward passes a sample.
        backward: backward passes a sample.
        seconds: wall-clock seconds a sample.
        note: what was warned of.
        exp: the maps with all that is known of them, for metrics that ask the method again; None: a control, or a
            function.
    """

    maps: Tensor
    forward: float = 0.0
    backward: float = 0.0
    seconds: float = 0.0
    note: str = ""
    exp: Explanation | None = None


@dataclass(frozen=True)
class Entrant:
    """One line of a leaderboard.

    Attributes:
        name: as tables show it.
        method: registered name, name of a control, or a function (problem, seed) -> maps.
        params: the method's parameters; the others are those that `explain` uses.
        game: what its values claim to be: "shapley", "aumann_shapley", "gradient" or None.
    """

    name: str
    method: str | Callable[[Problem, int], Tensor]
    params: Mapping[str, Any] = field(default_factory=dict)
    game: str | None = None

    @property
    def control(self) -> bool:
        """Whether it is a control."""
        return self.method in CONTROLS

    def fits(self, kind: str, truth_kind: str) -> bool:
        """Whether it can be asked about a kind of data and of truth at all."""
        if not isinstance(self.method, str):
            return True
        if self.control:
            limited = {"control.edges": ("image", "series"), "control.centre": ("image", "series")}
            return kind in limited.get(self.method, (kind,)) and not (self.method == TRUTH and truth_kind == "none")
        info = method_info(self.method)
        places = info.applies_to == "image" or info.site == "layer"
        return (kind == "image" or not places) and (info.applies_to != "transformer" or kind == "text")

    def explain(self, problem: Problem, seed: int, budget: Budget = "normal") -> Answer:
        """The maps of all samples of a problem, and what they cost.

        Args:
            problem: the samples.
            seed: of the method's draws.
            budget: "fast", "normal" or "thorough"; see `explain`.

        Raises:
            InterpError: the method cannot explain this model.
        """
        begun = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            meta: Mapping[str, Any] = {}
            exp = None
            if not isinstance(self.method, str):
                maps = self.method(problem, seed)
            elif self.control:
                maps = control_map(self.method, problem, seed)
            else:
                exp = _explained(self, problem, seed, budget)
                maps, meta = over_input(exp)[0].float(), exp.meta
        n, seconds = len(problem), time.perf_counter() - begun
        if not isinstance(maps, Tensor) or len(maps) != n or not bool(maps.isfinite().all()):
            raise InputError(f"{self.name} gave no finite map for each of {n} samples.")
        told = [str(w.message) for w in caught if not issubclass(w.category, RandomisationWarning)]
        forward, backward = (float(meta.get(f"{way}_passes") or 0) / n for way in ("forward", "backward"))
        return Answer(maps, forward, backward, seconds / n, told[0][:200] if told else "", exp)


def control_map(name: str, problem: Problem, seed: int) -> Tensor:
    """A control's maps: what is true, or what `evaluate` and `compare_methods` use, each sample's by its number.

    Args:
        name: of `CONTROLS`.
        problem: the samples.
        seed: of "control.random".

    Raises:
        InputError: "control.truth" where nothing is known to be true.
    """
    if name == TRUTH:
        return problem.truth_map
    x, keys = problem.inputs, range(problem.first, problem.first + len(problem))
    base = torch.as_tensor(problem.baselines, dtype=x.dtype).expand(x.shape)
    return controls.control_maps(name, [x], [base], keys, seed)[0]


def _explained(entrant: Entrant, problem: Problem, seed: int, budget: Budget) -> Explanation:
    assert isinstance(entrant.method, str)
    return explain(
        problem.model,
        problem.inputs,
        {entrant.method: dict(entrant.params)},
        target=problem.targets,
        baselines=problem.baselines,
        input_spec=problem.spec,
        seed=seed,
        budget=budget,
        progress=False,
    )[0]


def entrant(given: str | Entrant) -> Entrant:
    """An entrant from its name: a method or control, with parameters behind a colon.

    Args:
        given: "integrated_gradients", "ig:n_steps=10", "control.random"; an entrant stays as it is.

    Raises:
        UnknownNameError: no such method or control.
        InputError: parameters that cannot be read.

    Example:
        from interp_plugins.benchmark import entrant

        entrant("ig:n_steps=10").params["n_steps"]  # -> 10
    """
    if isinstance(given, Entrant):
        return given
    name, _, written = given.partition(":")
    if name.startswith("control."):
        if name not in CONTROLS:
            raise unknown("control", name, CONTROLS)
        return Entrant(name, name, game="shapley" if name == TRUTH else None)
    name = canonical_name(name)
    params = dict(_parameter(one) for one in written.split(",") if one)
    shown = name + "".join(
        f":{key}={value}" if i == 0 else f",{key}={value}" for i, (key, value) in enumerate(params.items())
    )
    return Entrant(shown, name, params, method_info(name).traits.game)


def _parameter(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise InputError(f"Parameters are written name=value, with commas between them; got {text!r}.")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def entrants(names: Iterable[str | Entrant] | None, kind: str, truth_kind: str) -> list[Entrant]:
    """Those that enter a task: the named ones that fit it, or the usual ones, and always the controls.

    Args:
        names: methods; None: the plain ones of each family.
        kind: of data.
        truth_kind: of the task.
    """
    usual: list[str | Entrant] = [m for m in GENERAL if not (kind == "image" and m in _SLOW)]
    usual += PICTURES if kind == "image" else ["occlusion"] if kind == "series" else []
    chosen = [entrant(one) for one in (usual if names is None else names)]
    known = {one.name for one in chosen}
    chosen += [entrant(one) for one in CONTROLS if one not in known]
    return [one for one in chosen if one.fits(kind, truth_kind)]


def by_budget(budgets: Iterable[int] = BUDGETS) -> list[Entrant]:
    """Methods that have a knob, at each of several settings of it: error against passes."""
    return [entrant(f"{method}:{knob}={n}") for method, knob in KNOBS.items() for n in budgets]
