"""Captum 0.9 as an oracle: the same problem for both, in double precision, with the same random numbers."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any
from unittest import mock

import captum.attr
import torch

import interp_plugins.attr as ours
from interp_plugins.api.binding import method_info
from interp_plugins.core.features import MaskFeatures
from tests.conformance.cases import CASES, Case, Problem, accepted, applies, arguments, distance, innermost, make

RULES = ("gausslegendre", "riemann_left", "riemann_right", "riemann_middle")
SEED = 5

LEFT_OUT = {
    "noise_tunnel/gradient_shap",  # both draw, one inside the other
    "lime",  # rounds its coefficients to float32: test_captum_perturbation.py
    "kernel_shap",  # weighs what is a constraint here: likewise
    "layer_feature_permutation",  # takes no function to shuffle with: likewise
}


# Cases where Captum has no rule for what the model does (functions instead of modules), or refuses it.
_FUNCTIONS = ("two inputs", "two inputs, tensor argument", "layer with two outputs")
_FLAT = tuple(case.name for case in CASES if len(case.shapes[0]) == 1)
_LRP = ("int", "list", "1-d tensor", "scalar", "column", "tuple", "list of tuples", "tuple with a slice", "one sample",
        "tuple of one input")  # fmt: skip # all that Captum has rules for; more in test_captum_rules.py
MEANT_OTHERWISE = {
    "lrp": [case.name for case in CASES if case.name not in _LRP],
    "layer_lrp": [case.name for case in CASES if case.name not in ("list", "1-d tensor")],  # not at activations
    **dict.fromkeys(("deep_lift", "deep_lift_shap", "neuron_deep_lift", "neuron_deep_lift_shap"), _FUNCTIONS),
    **dict.fromkeys(("layer_deep_lift", "layer_deep_lift_shap"), _FUNCTIONS),
    "guided_grad_cam": _FLAT,
}
FEWEST = {"guided_grad_cam": 4, "lrp": 10, "layer_lrp": 2}  # comparable cases, elsewhere 14


@contextlib.contextmanager
def double() -> Iterator[None]:
    """Captum casts its weights to float32, and sums in it; here both stay as exact as the model."""
    before, cast = torch.get_default_dtype(), torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    single, torch.float = torch.float, torch.float64
    try:
        yield
    finally:
        torch.Tensor.float = cast
        torch.float = single
        torch.set_default_dtype(before)


@contextlib.contextmanager
def fed(problem: Problem, n_samples: int, stdevs: Any) -> Iterator[None]:
    """Give Captum the numbers that GradientShap draws with this seed, in Captum's order: example by example."""
    generator = torch.Generator().manual_seed(SEED)
    n, rows = len(problem.xs[0]), 4
    stds = stdevs if isinstance(stdevs, tuple) else (stdevs,) * len(problem.xs)
    noise: list[list[torch.Tensor]] = [[] for _ in problem.xs]
    picks, alphas = [], []
    for _ in range(n_samples):
        for column, x, std in zip(noise, problem.xs, stds):
            column.append(
                std * torch.randn(x.shape, generator=generator, dtype=x.dtype) if std else torch.zeros_like(x)
            )
        picks.append(torch.randint(rows, (n,), generator=generator))
        alphas.append(torch.rand(n, generator=generator, dtype=problem.xs[0].dtype))

    def by_example(draws: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(draws, 1).flatten(0, 1)

    with (
        mock.patch("numpy.random.choice", return_value=by_example(picks).numpy()),
        mock.patch("numpy.random.uniform", return_value=by_example(alphas).numpy()),
        mock.patch("torch.normal", side_effect=[by_example(column) for column in noise]),
    ):
        yield


def captums(variant: str) -> bool:
    """Whether Captum has the method."""
    return hasattr(captum.attr, method_info(variant.partition("/")[0]).cls.__name__)


def rolled(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A shuffle that both libraries can be given."""
    return torch.where(mask, x.roll(1, 0), x)


def orders(problem: Problem, mask: Any, count: int) -> list[list[int]]:
    """The orders that ShapleyValueSampling draws, as mask ids; Captum wants those that the mask leaves out, too."""
    generator = torch.Generator().manual_seed(SEED)
    ids = MaskFeatures(problem.xs, mask).ids
    missing = [i for i in range(max(ids)) if i not in ids]
    drawn = [torch.randperm(len(ids), generator=generator).tolist() for _ in range(count)]
    return [[ids[k] for k in order] + missing for order in drawn]


def both(variant: str, case: Case, **more: Any) -> tuple[Any, Any]:
    """Our result and Captum's, for the same arguments."""
    problem = case.build()
    mine, theirs = make(variant, problem), make(variant, problem, captum.attr)
    my_arguments = {**arguments(variant, mine, problem), **more}
    their_arguments = {**arguments(variant, theirs, problem), **more}
    inner = innermost(variant)
    if inner == "occlusion":
        my_arguments["border"] = "clip"
    if inner == "layer_conductance" and more.get("method") == "riemann_left":
        their_arguments["method"] = "riemann_trapezoid"  # Captum's name for the gradient at the left of each cell
    if inner == "feature_permutation":
        mine.perm_func = theirs.perm_func = rolled
    if inner == "shapley_value_sampling":
        my_arguments["seed"] = SEED
        fixed = orders(problem, my_arguments.get("feature_mask"), my_arguments["n_samples"])
        theirs.permutation_generator = lambda total, count: iter(fixed)
    if variant.startswith("noise_tunnel"):
        their_arguments["nt_samples_batch_size"] = 1
        my_arguments["seed"] = SEED
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return mine.attribute(**my_arguments), theirs.attribute(**their_arguments)
    if method_info(inner).baselines == "distribution" and "n_samples" in their_arguments:
        my_arguments["seed"] = SEED
        with fed(problem, their_arguments["n_samples"], their_arguments["stdevs"]):
            return mine.attribute(**my_arguments), theirs.attribute(**their_arguments)
    return mine.attribute(**my_arguments), theirs.attribute(**their_arguments)


def comparable(variant: str, case: Case) -> bool:
    """Whether Captum can do this case, and means the same by it."""
    # Captum puts a leaf in at the layer, which an in-place operation behind it refuses.
    refused = case.in_place_behind and innermost(variant) == "layer_integrated_gradients"
    info = method_info(innermost(variant))
    if case.ids:  # Captum has gradients for ids at layers alone, and there none along a path in the input
        moves_the_input = "baselines" in accepted(info.cls) and not hasattr(info.cls, "at_layer")
        refused |= info.needs == "gradient" and (info.site != "layer" or moves_the_input)
        refused |= variant.startswith("noise_tunnel")
    if case.name in MEANT_OTHERWISE.get(innermost(variant), ()):
        return False
    return captums(variant) and variant not in LEFT_OUT and applies(variant, case) and not refused


def settings(variant: str) -> list[dict[str, Any]]:
    """Extra arguments to compare a method under: the quadrature rules, the kinds of NoiseTunnel, signs."""
    if variant.startswith("noise_tunnel"):
        return [{"nt_type": t} for t in ("smoothgrad", "smoothgrad_sq", "vargrad")]
    if variant == "layer_conductance":
        return [{"method": "riemann_left"}]
    parameters = inspect.signature(getattr(ours, method_info(variant).cls.__name__).attribute).parameters
    if "method" in parameters:
        return [{"method": rule} for rule in RULES]
    if "abs" in parameters:
        return [{"abs": True}, {"abs": False}]
    if "relu_attributions" in parameters:
        return [{"relu_attributions": r, "attr_dim_summation": s} for r in (False, True) for s in (False, True)]
    return [{}]


@cache
def agreement(variant: str) -> dict[str, float]:
    """Largest absolute difference per case, over all settings."""
    with double():
        return {
            case.name: max(distance(*both(variant, case, **more)) for more in settings(variant))
            for case in CASES
            if comparable(variant, case)
        }
