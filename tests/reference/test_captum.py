"""Agreement with Captum 0.9 to 1e-10, method by method. `pytest tests/reference -k table -s` prints the numbers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import captum.attr
import pytest
import torch
from torch import Tensor, nn

import interp_plugins.attr as ours
from interp_plugins.api.binding import list_methods, method_info
from tests.conformance.cases import BY_NAME, VARIANTS, Case, distance, innermost, make
from tests.reference.oracle import FEWEST, LEFT_OUT, RULES, SEED, agreement, both, captums, comparable, double, settings

EXACT = 1e-10
COMPARED = [v for v in VARIANTS if v not in LEFT_OUT and captums(v)]
SHARED = [name for name in list_methods() if captums(name)]


@pytest.fixture
def doubles() -> Iterator[None]:
    with double():
        yield


@pytest.mark.parametrize("variant", COMPARED)
@pytest.mark.filterwarnings("ignore:.* met no rectifier")
def test_agrees_with_captum(variant: str) -> None:
    differences = agreement(variant)
    assert len(differences) >= FEWEST.get(variant, 14)
    assert {name: d for name, d in differences.items() if not d <= EXACT} == {}


def test_table_of_agreement() -> None:
    print(f"\n{'method':<42} cases  runs  largest |difference|")
    for variant in COMPARED:
        found = agreement(variant)
        print(f"{variant:<42} {len(found):>5} {len(found) * len(settings(variant)):>5}  {max(found.values()):.1e}")
    assert all(max(agreement(v).values()) <= EXACT for v in COMPARED)


# -- signatures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("function", ["__init__", "attribute"])
def test_signature_is_captums_with_keyword_only_extras(name: str, function: str) -> None:
    cls = method_info(name).cls
    theirs = getattr(captum.attr, cls.__name__)

    def positional(owner: type) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(getattr(owner, function)).parameters.values()
        return [
            (p.name, "function" if callable(p.default) and p.default is not p.empty else p.default, p.kind)
            for p in parameters
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]

    assert positional(cls) == positional(theirs)


@pytest.mark.parametrize("name", SHARED)
def test_properties_are_captums(name: str) -> None:
    problem = BY_NAME["conv"].build()
    mine, theirs = make(name, problem), make(name, problem, captum.attr)
    assert mine.get_name() == theirs.get_name()
    assert mine.has_convergence_delta() == theirs.has_convergence_delta()
    if name not in (
        "saliency",
        "neuron_gradient",
        "layer_activation",
        "grad_cam",
        "noise_tunnel",
        "internal_influence",
        "layer_conductance",
    ):  # Captum raises NotImplementedError or has no property there
        assert mine.multiplies_by_inputs == theirs.multiplies_by_inputs


def test_classes_beyond_captums_are_registered_methods() -> None:
    own = {"Attribution", "InternalAttribution", "ClassActivationMap"}  # bases
    own |= {"ShapleyInteractions", "IntegratedHessians"}  # give a matrix
    own |= {"CheckpointAverage", "LayerAverage"}  # made of other methods
    own |= {"Stat", "InputIdentity", "ModelInputWrapper", "interpretable_embedding_layer"}  # helpers
    classes = {method_info(name).cls.__name__ for name in list_methods()}
    beyond = [n for n in vars(ours)["__all__"] if n not in own and not hasattr(captum.attr, n)]
    assert [n for n in beyond if n not in classes] == []


# -- what the table does not hold ------------------------------------------------------------------------------


def compared(cls: str, model: nn.Module, *init: Any, mine: Any = None, theirs: Any = None, **arguments: Any) -> float:
    """Distance of our result and Captum's for one call; extra arguments for one side in `mine` and `theirs`."""
    one = getattr(ours, cls)(model, *init).attribute(**arguments, **(mine or {}))
    two = getattr(captum.attr, cls)(model, *init).attribute(**arguments, **(theirs or {}))
    return distance(one, two)


@pytest.mark.parametrize(
    "variant",
    [
        "integrated_gradients",
        "layer_integrated_gradients",
        "neuron_integrated_gradients",
        "internal_influence",
        "neuron_conductance",
    ],
)
@pytest.mark.parametrize("n_steps", [2, 7])
def test_trapezoid_is_captums_times_n_over_n_minus_1(doubles: None, variant: str, n_steps: int) -> None:
    for case in ("conv", "two inputs", "layer with two outputs"):
        mine, theirs = both(variant, BY_NAME[case], n_steps=n_steps, method="riemann_trapezoid")
        assert distance(mine, _scaled(theirs, n_steps / (n_steps - 1))) <= EXACT


def _scaled(result: Any, factor: float) -> Any:
    return tuple(t * factor for t in result) if isinstance(result, tuple) else result * factor


@pytest.mark.parametrize("n_steps", [1, 6])
def test_conductance_of_left_cells_is_captums_trapezoid(doubles: None, n_steps: int) -> None:
    for case in ("conv", "two inputs", "layer with two outputs", "in-place ReLU"):
        mine, theirs = both("layer_conductance", BY_NAME[case], n_steps=n_steps, method="riemann_left")
        assert distance(mine, theirs) <= EXACT


@pytest.mark.parametrize("cls", ["IntegratedGradients", "GradientShap"])
def test_local_attribution_agrees(doubles: None, cls: str) -> None:
    problem = BY_NAME["two inputs"].build()
    if cls == "IntegratedGradients":
        one, two = (getattr(lib, cls)(problem.model, multiply_by_inputs=False) for lib in (ours, captum.attr))
        assert distance(one.attribute(problem.inputs, target=0), two.attribute(problem.inputs, target=0)) <= EXACT
    else:  # the gradient times the difference, summed, is the global map for one baseline and one draw
        pool = tuple(torch.zeros_like(x[:1]) for x in problem.xs)
        local, global_ = (
            ours.GradientShap(problem.model, flag).attribute(problem.inputs, pool, 1, target=0, seed=1)
            for flag in (False, True)
        )
        assert distance(tuple(g * x for g, x in zip(local, problem.xs)), global_) <= EXACT


@pytest.mark.parametrize("cls", ["LayerIntegratedGradients", "LayerGradientXActivation"])
def test_layer_maps_without_the_activation_agree(doubles: None, cls: str) -> None:
    problem = BY_NAME["conv"].build()
    one, two = (getattr(lib, cls)(problem.model, problem.layer, None, False) for lib in (ours, captum.attr))
    assert distance(one.attribute(problem.inputs, target=0), two.attribute(problem.inputs, target=0)) <= EXACT


@pytest.mark.filterwarnings("ignore:Multiple layers provided")
@pytest.mark.parametrize("cls", ["LayerActivation", "LayerGradientXActivation", "LayerIntegratedGradients"])
def test_list_of_layers_gives_a_list(doubles: None, cls: str) -> None:
    problem = BY_NAME["two inputs"].build()
    layers = [problem.model.a, problem.model.b]
    target = {} if cls == "LayerActivation" else {"target": 1}
    one, two = (
        getattr(lib, cls)(problem.model, layers).attribute(problem.inputs, **target) for lib in (ours, captum.attr)
    )
    assert isinstance(one, list) and isinstance(two, list)
    assert distance(one, two) <= EXACT


@pytest.mark.parametrize(
    "variant", ["integrated_gradients", "layer_integrated_gradients", "layer_conductance", "noise_tunnel"]
)
def test_deltas_agree(doubles: None, variant: str) -> None:
    for case in ("conv", "two inputs, tensor argument"):
        more = {"method": "riemann_left"} if variant == "layer_conductance" else {}
        (_, mine), (_, theirs) = both(variant, BY_NAME[case], return_convergence_delta=True, **more)
        if variant == "noise_tunnel":  # Captum, one copy at a time, gives them copy by copy; its text says by example
            theirs = theirs.reshape(3, -1).t().reshape(-1)
        assert distance(mine, theirs) <= EXACT


def test_deltas_of_gradient_shap_agree(doubles: None) -> None:
    for name in ("gradient_shap", "layer_gradient_shap"):
        for case in ("conv", "two inputs"):
            (_, mine), (_, theirs) = both(name, BY_NAME[case], return_convergence_delta=True)
            if name == "gradient_shap" or case == "conv":
                assert distance(mine, theirs) <= EXACT


@pytest.mark.parametrize(
    ("window", "stride"), [((2, 2, 2), 2), ((1, 3, 2), (1, 1, 2)), ((2, 4, 4), (2, 4, 4)), ((1, 2, 2), None)]
)
def test_occlusion_agrees_whatever_the_border_where_the_stride_divides(doubles: None, window: Any, stride: Any) -> None:
    problem = BY_NAME["conv"].build()
    for border in ("shift", "clip"):
        assert (
            compared(
                "Occlusion",
                problem.model,
                inputs=problem.inputs,
                sliding_window_shapes=window,
                strides=stride,
                target=1,
                baselines=0.2,
                mine={"border": border},
            )
            <= EXACT
        )


@pytest.mark.parametrize(("window", "stride"), [((2, 3, 3), (1, 2, 2)), ((1, 3, 3), (1, 3, 2))])
def test_occlusion_clips_like_captum_where_the_stride_does_not_divide(doubles: None, window: Any, stride: Any) -> None:
    problem = BY_NAME["conv"].build()
    same = {"inputs": problem.inputs, "sliding_window_shapes": window, "strides": stride, "target": 1}
    assert compared("Occlusion", problem.model, **same, mine={"border": "clip"}) <= EXACT


@pytest.mark.parametrize("per_eval", [1, 2, 5])
def test_perturbations_per_eval_agrees(doubles: None, per_eval: int) -> None:
    problem = BY_NAME["two inputs"].build()
    same = {"inputs": problem.inputs, "target": 1, "perturbations_per_eval": per_eval}
    assert compared("FeatureAblation", problem.model, **same, feature_mask=problem.case.mask()) <= EXACT
    assert compared("Occlusion", problem.model, **same, sliding_window_shapes=((2,), (1,))) <= EXACT


def test_mask_per_sample_agrees(doubles: None) -> None:
    problem = BY_NAME["int"].build()
    mask = torch.tensor([[0, 0, 1, 2], [2, 1, 1, 0], [0, 1, 2, 3]])
    assert compared("FeatureAblation", problem.model, inputs=problem.inputs, target=0, feature_mask=mask) <= EXACT


@pytest.mark.parametrize(
    "value",
    [lambda out: out.sum().item(), lambda out: out.sum(), lambda out: out.sum().reshape(1), lambda out: out.sum(0)],
)
def test_model_with_one_value_per_batch_agrees(doubles: None, value: Any) -> None:
    problem = BY_NAME["int"].build()
    assert (
        compared(
            "FeatureAblation",
            lambda x: value(problem.model(x)),
            inputs=problem.inputs,
            baselines=0.5,
        )
        <= EXACT
    )


def test_bool_and_int_inputs_agree() -> None:
    def model(ids: Tensor, flags: Tensor) -> Tensor:
        return (ids * 2 + flags).double().cumsum(1)[:, -1]

    inputs = (torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[True, False, True], [False, True, True]]))
    assert compared("FeatureAblation", model, inputs=inputs) <= EXACT


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel_is_captums_under_the_same_manual_seed(doubles: None, nt_type: str) -> None:
    problem = BY_NAME["two inputs"].build()
    found = []
    with torch.random.fork_rng(devices=[]):
        for lib in (ours, captum.attr):
            torch.manual_seed(SEED)
            nt = lib.NoiseTunnel(lib.IntegratedGradients(problem.model))
            found.append(nt.attribute(problem.inputs, nt_type, 4, 1, (0.3, 0.1), target=[0, 1, 2], n_steps=6))
    assert distance(*found) <= EXACT


def test_interpolate_is_captums(doubles: None) -> None:
    x = torch.randn(2, 1, 3, 3)
    for mode in ("nearest", "bilinear"):
        one, two = (lib.LayerAttribution.interpolate(x, (6, 5), mode) for lib in (ours, captum.attr))
        assert distance(one, two) == 0


def test_integrated_gradients_of_captum_are_float32_in_their_weights() -> None:
    """The reason for `double`: without it Captum's own rounding is what would be measured."""
    problem = BY_NAME["conv"].build()
    one, two = (
        lib.IntegratedGradients(problem.model).attribute(problem.inputs, target=1, n_steps=7)
        for lib in (ours, captum.attr)
    )
    assert 1e-12 < distance(one, two) < 1e-6


def test_noise_tunnel_around_captums_methods(doubles: None) -> None:
    problem = BY_NAME["conv"].build()
    foreign = ours.NoiseTunnel(captum.attr.IntegratedGradients(problem.model))
    own = ours.NoiseTunnel(ours.IntegratedGradients(problem.model))
    same = {"nt_samples": 3, "stdevs": 0.2, "seed": 1, "target": [0, 1, 2], "n_steps": 4}
    assert distance(foreign.attribute(problem.inputs, **same), own.attribute(problem.inputs, **same)) <= EXACT


def test_left_out_variants_say_why() -> None:
    assert all(innermost(v) in list_methods() for v in LEFT_OUT)
    assert not any(comparable(v, Case("x", nn.Module)) for v in LEFT_OUT)
    assert len(RULES) == 4
