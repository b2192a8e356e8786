"""Every method, every case: shapes as documented, one result whatever the chunks, the dtype that came in, seeds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins.api.binding import method_info
from interp_plugins.core.errors import ConvergenceWarning
from tests.conformance.cases import (
    ATTENTION,
    BY_NAME,
    KEEPS_SINGLE,
    MAPS,
    OUTPUTS_APART,
    SHUFFLES,
    VARIANTS,
    Case,
    Problem,
    accepted,
    applies,
    attribute,
    distance,
    innermost,
    label,
    leaves,
    make,
    pairs,
    typical,
)

CHUNKS = ("internal_batch_size", "batch_size", "perturbations_per_eval", "nt_samples_batch_size")
SHUFFLED = [v for v in VARIANTS if innermost(v) in SHUFFLES]
# A number of its own for each sample of the batch; the other methods with a seed share their draws among the samples.
BY_PLACE = [v for v in VARIANTS if v.startswith("noise_tunnel") or "gradient_shap" in v]
TOLERANT = [v for v in BY_PLACE if "tol" in accepted(make(v, BY_NAME["int"].build()))]
SEEDED = [v for v in VARIANTS if "seed" in accepted(make(v, BY_NAME["int"].build()))]


@cache
def plain_result(variant: str, name: str) -> Any:
    return attribute(variant, BY_NAME[name].build(), **seeded(variant))


def seeded(variant: str, seed: int = 5) -> dict[str, int]:
    return {"seed": seed} if variant in SEEDED else {}


def activations(problem: Problem, to_input: bool) -> tuple[Tensor, ...]:
    """The layer's tensors, read by a plain hook."""
    seen: list[Any] = []
    side = (lambda m, i, o: seen.append(i)) if to_input else (lambda m, i, o: seen.append(o))
    handle = problem.layer.register_forward_hook(side)
    args = () if problem.args is None else problem.args if isinstance(problem.args, tuple) else (problem.args,)
    problem.model(*problem.xs, *args)
    handle.remove()
    return tuple(leaves(seen[0]))


@pytest.mark.parametrize(("variant", "case"), pairs(), ids=label)
def test_result_has_the_documented_layout(variant: str, case: Case) -> None:
    result, problem = plain_result(variant, case.name), case.build()
    site = method_info(innermost(variant)).site
    if site == "layer":
        sides = "attribute_to_layer_input" in accepted(make(variant, problem))
        expected = activations(problem, problem.case.to_input and sides)
        assert isinstance(result, tuple) == (len(expected) > 1)
    else:
        expected = problem.xs
        assert isinstance(result, tuple) == isinstance(problem.inputs, tuple)
    shapes = [tuple(t.shape) for t in expected]
    if innermost(variant) == "grad_cam":
        shapes = [(s[0], 1, *s[2:]) for s in shapes]
    if innermost(variant) in MAPS:
        last = case.ids or case is ATTENTION  # channels, and a class token in front
        shapes = [(s[0], 1, *(s[1:-1] if last else s[2:])) for s in shapes]
        shapes = [(3, 1, 2, 2)] if case is ATTENTION else shapes
    if method_info(innermost(variant)).applies_to == "transformer":
        shapes = [(3, 1, 2, 2)]  # the patches' grid
    if innermost(variant) in ("full_grad", "xrai", "extremal_perturbation"):
        shapes = [(s[0], 1, *s[2:]) for s in shapes]
    if case.block and site != "neuron" and method_info(innermost(variant)).needs != "forward":
        values = {"block": 2, "all outputs": 3}[case.name]
        apart = innermost(variant) in OUTPUTS_APART
        shapes = [(s[0], values, *s[1:]) if apart else (s[0] * values, *s[1:]) for s in shapes]
    if variant in KEEPS_SINGLE and case.name in ("column", "tuple with a slice"):
        shapes = [(s[0], 1, *s[1:]) for s in shapes]
    assert [tuple(t.shape) for t in leaves(result)] == shapes
    for t in leaves(result):
        assert type(t) is Tensor and not t.requires_grad and bool(torch.isfinite(t).all())


@pytest.mark.parametrize(("variant", "case"), pairs(), ids=label)
def test_result_does_not_depend_on_chunk_sizes(variant: str, case: Case) -> None:
    parameters = accepted(make(variant, case.build()))
    sizes = (2,) if case.name != "two inputs" else (1, 2, 4, 7, 1000)
    for name in CHUNKS:
        for size in sizes if name in parameters else ():
            result = attribute(variant, case.build(), **seeded(variant), **{name: size})
            assert distance(result, plain_result(variant, case.name)) <= 1e-10, f"{name}={size}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_chunk_size_bounds_the_rows_of_a_forward_pass(variant: str) -> None:
    problem = typical(variant).build()
    seen: list[int] = []
    problem.model.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    parameters = accepted(make(variant, problem))
    for name in ("internal_batch_size", "batch_size"):
        if name in parameters:
            seen.clear()
            attribute(variant, problem, **seeded(variant), **{name: 2})
            assert max(seen) <= 2, f"{name}=2 sent {max(seen)} rows"


def in_single_precision(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.randn` or `torch.rand` with the numbers of float32, whatever the type that is asked for."""

    def drawn(*size: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
        return draw(*size, dtype=torch.float32, **kwargs).to(dtype or torch.get_default_dtype())

    return drawn


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_and_single_precision_agree_with_double(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn", in_single_precision(torch.randn))  # float64 has a stream of its own
    monkeypatch.setattr(torch, "rand", in_single_precision(torch.rand))
    case = typical(variant)
    more = seeded(variant)
    if variant == "hsic":  # the width of its kernel is a median of score differences, and three samples have no median
        more["n_samples"] = 16
    exact = attribute(variant, case.build(), **more)
    scale = max(float(t.abs().max()) for t in leaves(exact))
    assert distance(attribute(variant, case.build(torch.float32), **more), exact) <= 1e-5 * scale
    assert distance(attribute(variant, case.build(torch.bfloat16), **more), exact) <= 0.1 * scale


@pytest.mark.parametrize("variant", VARIANTS)
def test_dtype_of_the_result_is_the_inputs_or_wider(variant: str) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        result = attribute(variant, typical(variant).build(dtype), **seeded(variant))
        allowed = {dtype} if dtype != torch.bfloat16 else {torch.bfloat16, torch.float32}
        assert {t.dtype for t in leaves(result)} <= allowed


@pytest.mark.parametrize("variant", VARIANTS)
def test_result_is_the_same_every_time(variant: str) -> None:
    problem = typical(variant).build()
    assert distance(attribute(variant, problem), attribute(variant, problem)) == 0


@pytest.mark.parametrize("variant", SEEDED)
def test_seed_decides_and_the_global_generators_do_not(variant: str) -> None:
    problem = BY_NAME["two inputs"].build()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = attribute(variant, problem, seed=3)
        torch.manual_seed(2)
        assert distance(attribute(variant, problem, seed=3), one) == 0
        assert distance(attribute(variant, problem, seed=4), one) > 0


@pytest.mark.parametrize("variant", SEEDED)
def test_without_a_seed_the_global_generator_decides(variant: str) -> None:
    problem = BY_NAME["two inputs"].build()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = attribute(variant, problem)
        torch.manual_seed(2)
        other = attribute(variant, problem)
        torch.manual_seed(1)
        assert distance(attribute(variant, problem), one) == 0 < distance(other, one)


@pytest.mark.parametrize("variant", SEEDED)
def test_generator_is_used_and_advanced(variant: str) -> None:
    problem = BY_NAME["two inputs"].build()
    generator = torch.Generator().manual_seed(3)
    first, second = (attribute(variant, problem, generator=generator) for _ in range(2))
    assert distance(first, attribute(variant, problem, seed=3)) == 0
    assert distance(first, second) > 0


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in (*BY_PLACE, *SHUFFLED)])
def test_sample_does_not_depend_on_its_batch_mates(variant: str) -> None:
    case = typical(variant)
    problem, together = case.build(), plain_result(variant, case.name)
    for i in range(case.n):
        alone = case.build()
        alone.inputs = problem.inputs[i : i + 1]
        alone.baselines = None if problem.baselines is None else problem.baselines[i : i + 1]
        for one, all_ in zip(leaves(attribute(variant, alone, **seeded(variant))), leaves(together)):
            assert float((one[0] - all_[i]).abs().max()) <= 1e-12


def among_others(problem: Problem, i: int, where: tuple[Any, ...] = ()) -> Problem:
    """The problem with other numbers in all samples but sample i; in a part of them only, if it is said where."""
    others = [j for j in range(problem.case.n) if j != i]
    generator = torch.Generator().manual_seed(i)
    for name in ("inputs", "baselines"):
        rows = getattr(problem, name)
        if rows is not None:
            rows, noise = rows.clone(), torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
            rows[(others, *where)] = 3 * noise[(others, *where)]
            setattr(problem, name, rows)
    return problem


@pytest.mark.parametrize(("variant", "tol"), [(v, None) for v in BY_PLACE] + [(v, 0.3) for v in TOLERANT])
def test_random_numbers_go_by_the_place_in_the_batch_and_not_by_what_stands_beside(
    variant: str, tol: float | None
) -> None:
    """Also where others settle sooner or later than the sample does."""
    case = typical(variant)
    more = {**seeded(variant), **({} if tol is None else {"tol": tol, "max_samples": 60})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        together = attribute(variant, case.build(), **more)
        for i in range(case.n):
            for one, all_ in zip(leaves(attribute(variant, among_others(case.build(), i), **more)), leaves(together)):
                assert float((one[i] - all_[i]).abs().max()) <= 1e-12


@pytest.mark.parametrize("variant", SHUFFLED)
def test_what_is_shuffled_depends_on_the_others_value_of_that_feature_alone(variant: str) -> None:
    case = typical(variant)
    together = attribute(variant, case.build(), **seeded(variant))
    moved = 0.0
    for i in range(case.n):  # one corner of the others is changed; it alone changes in the map
        changed = attribute(variant, among_others(case.build(), i, (slice(None), 0, 0)), **seeded(variant))
        assert float((changed - together)[i, :, 3, 3].abs().max()) <= 1e-12
        moved = max(moved, float((changed - together)[i, :, 0, 0].abs().max()))
    assert moved > 0


class _Marked(Tensor):
    """A tensor subclass, like those of fastai."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_tensor_subclasses_come_in_and_plain_tensors_go_out(variant: str) -> None:
    problem = typical(variant).build()
    expected = attribute(variant, problem, **seeded(variant))
    problem.inputs = problem.inputs.as_subclass(_Marked)
    if problem.baselines is not None:
        problem.baselines = problem.baselines.as_subclass(_Marked)
    result = attribute(variant, problem, **seeded(variant))
    assert all(type(t) is Tensor for t in leaves(result))
    assert distance(result, expected) == 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
def test_works_where_the_caller_has_gradients_off(variant: str, caller: Any) -> None:
    expected = plain_result(variant, typical(variant).name)
    with caller():
        result = attribute(variant, typical(variant).build(), **seeded(variant))  # made inside: inference tensors
        distance_ = distance(result, expected)
    assert distance_ == 0
    outside = typical(variant).build()
    with caller():
        result = attribute(variant, outside, **seeded(variant))
        distance_ = distance(result, expected)
    assert distance_ == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_convergence_delta_comes_with_the_same_maps(variant: str) -> None:
    problem = BY_NAME["two inputs"].build()
    if not make(variant, problem).has_convergence_delta() or not applies(variant, problem.case):
        pytest.skip("has no delta")
    result, delta = attribute(variant, problem, **seeded(variant), return_convergence_delta=True)
    assert distance(result, plain_result(variant, "two inputs")) <= 1e-12
    info = method_info(innermost(variant))
    draws = 3 * (3 if info.baselines == "distribution" and variant.startswith("noise") else 1)
    if info.baselines == "distribution" and "n_samples" not in accepted(make(variant, problem)):
        draws = 4  # each sample meets each of the four baselines
    per_sample = variant.startswith("noise") or info.baselines == "distribution"
    assert delta.shape == (3 * draws if per_sample else 3,)
    takes = accepted(make(variant, problem))
    if not variant.startswith("noise") and info.baselines == "point" and "baselines" in takes:
        again = make(variant, problem).compute_convergence_delta(
            result, problem.baselines, problem.inputs, problem.case.target, problem.args
        )
        assert torch.allclose(delta, again, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_layer_may_be_named(variant: str) -> None:
    problem = typical(variant).build()
    method = make(variant, problem)
    target = getattr(method, "attribution_method", method)
    if not hasattr(target, "layer"):
        pytest.skip("has no layer")
    target.layer = problem.case.layer
    from tests.conformance.cases import arguments

    result = method.attribute(**arguments(variant, method, problem), **seeded(variant))
    assert distance(result, plain_result(variant, typical(variant).name)) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_model_may_be_any_callable(variant: str) -> None:
    problem = typical(variant).build()
    model: nn.Module = problem.model
    expected = plain_result(variant, typical(variant).name)
    for func in (lambda x: model(x), model.forward):
        # What is around a model decides what can be accelerated, and so the rounding.
        assert distance(attribute(variant, problem, model=func, **seeded(variant)), expected) < 1e-12


def test_the_table_reaches_every_method() -> None:
    reached = {variant for variant, _ in pairs()}
    assert reached == set(VARIANTS)
    assert all(
        sum(applies(v, c) for c in BY_NAME.values()) >= 15
        for v in VARIANTS
        if {method_info(innermost(v)).applies_to, method_info(v.partition("/")[0]).applies_to} == {"any"}
    )
