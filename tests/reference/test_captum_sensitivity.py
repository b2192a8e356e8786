"""`metrics.sensitivity_max` has Captum's numbers under one seed, and what is different is in docs/differences.md."""

from __future__ import annotations

import inspect
from typing import Any

import captum.attr as their_methods
import captum.metrics as theirs
import pytest
import torch
from torch import Tensor, nn

import interp_plugins.attr as methods
import interp_plugins.metrics as ours
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor . did not already require gradients")


class Pair(nn.Module):
    """Two inputs and an argument per sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.out = nn.Linear(3, 5), nn.Linear(2, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        z = self.a(x).tanh() + self.b(y)
        return self.out(z.tanh() if weight is None else z.tanh() * weight)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def both(attribute: tuple[Any, Any], inputs: Any, **given: Any) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    mine = ours.sensitivity_max(attribute[0], inputs, **given)
    torch.manual_seed(3)
    return mine, theirs.sensitivity_max(attribute[1], inputs, **given)


def attributes(name: str, model: nn.Module) -> tuple[Any, Any]:
    return getattr(methods, name)(model).attribute, getattr(their_methods, name)(model).attribute


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"max_examples_per_batch": 7},
        {"max_examples_per_batch": 12, "n_perturb_samples": 6},
        {"norm_ord": 1},
        {"norm_ord": float("inf"), "perturb_radius": 0.5, "n_perturb_samples": 3},
        {"perturb_func": lambda x: x + 0.1 * torch.randn_like(x)},
    ],
)
def test_sensitivity_is_captums_under_one_seed(dtype: torch.dtype, given: dict) -> None:
    model = net().to(dtype)
    for name in ("Saliency", "InputXGradient"):
        found, expected = both(attributes(name, model), X.to(dtype), target=[0, 1, 2], **given)
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_sensitivity_of_several_inputs_and_arguments_is_captums() -> None:
    model, inputs = Pair(), (torch.randn(3, 3), torch.randn(3, 2))
    given = {"target": torch.tensor([2, 0, 1]), "additional_forward_args": torch.rand(3, 1)}
    pair = attributes("InputXGradient", model)
    torch.testing.assert_close(*both(pair, inputs, **given), rtol=1e-6, atol=0)
    pair = attributes("IntegratedGradients", model)
    given["baselines"] = (torch.randn(3, 3), torch.randn(3, 2))
    torch.testing.assert_close(*both(pair, inputs, n_perturb_samples=2, **given), rtol=1e-4, atol=1e-7)


def test_sensitivity_has_captums_arguments_and_more_behind() -> None:
    mine, captums = (
        list(inspect.signature(f).parameters.values()) for f in (ours.sensitivity_max, theirs.sensitivity_max)
    )
    names = [p.name for p in captums]
    assert [p.name for p in mine if p.name in names] == names
    assert [p.name for p in mine if p.name not in names] == ["seed", "progress"]
    for a, b in zip([p for p in mine if p.name in names], captums):
        assert a.default == b.default or a.name == "perturb_func"
        assert a.kind == b.kind
    assert {*ours.__all__} >= {"sensitivity_max", "default_perturb_func"}


def test_a_map_of_norm_zero_is_divided_by_one_as_in_captum() -> None:
    def map_(x: Any, **kwargs: Any) -> Any:
        (x,) = x if isinstance(x, tuple) else (x,)
        return ((x - X.repeat_interleave(len(x) // 3, 0)).abs(),)

    found, expected = both((map_, map_), X)
    assert torch.equal(found, expected) and found.min() > 0


def test_sensitivity_freezes_the_model_and_leaves_the_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp_plugins.core.global_random.others_run", lambda: False)  # threads of earlier tests
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).train()
    mean, before = model[1].running_mean.clone(), torch.get_rng_state()
    ours.sensitivity_max(methods.Saliency(model).attribute, X, target=0)
    assert torch.equal(model[1].running_mean, mean) and model.training
    assert torch.equal(torch.get_rng_state(), before)
    theirs.sensitivity_max(their_methods.Saliency(model).attribute, X, target=0)
    assert not torch.equal(model[1].running_mean, mean) and not torch.equal(torch.get_rng_state(), before)


def test_the_explanation_sees_what_the_user_gave_and_may_answer_with_a_tensor_or_a_future() -> None:
    seen: list[type] = []

    def plain(x: Any, **kwargs: Any) -> Tensor:
        seen.append(type(x))
        return 2 * (x[0] if isinstance(x, tuple) else x)

    assert ours.sensitivity_max(plain, X).shape == (3,) and {*seen} == {Tensor}
    with pytest.raises(RuntimeError, match="must match the size of tensor"):
        theirs.sensitivity_max(plain, X)

    def later(x: Tensor) -> torch.futures.Future:
        future: torch.futures.Future = torch.futures.Future()
        future.set_result(2 * x)
        return future

    torch.manual_seed(3)
    one = ours.sensitivity_max(later, X)
    torch.manual_seed(3)
    assert torch.equal(one, ours.sensitivity_max(plain, X))


def test_noise_keeps_the_inputs_type_and_a_seed_decides_it() -> None:
    captums = inspect.signature(theirs.sensitivity_max).parameters["perturb_func"].default
    (half,), (wide,) = ours.default_perturb_func(X.half(), 0.1), captums(X.half(), 0.1)
    assert half.dtype == torch.float16 and wide.dtype == torch.float32
    ids, _ = ours.default_perturb_func((torch.tensor([[1, 2]]), X), 0.1)
    assert torch.equal(ids, torch.tensor([[1, 2]]))
    given = {"target": 0, "n_perturb_samples": 2}
    a, b, c = (ours.sensitivity_max(methods.InputXGradient(net()).attribute, X, seed=s, **given) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"n_perturb_samples": 0}, InputError, "n_perturb_samples must be a positive int, got 0"),
        ({"norm_ord": "nuc"}, InputError, "norm_ord must be a number or 'fro'"),
        ({"perturb_func": lambda x: x[:1]}, InputError, r"perturb_func returned shapes \[\(1, 4\)\]"),
        ({"max_examples_per_batch": 0}, InputError, "max_examples_per_batch must be a positive int"),
    ],
)
def test_wrong_questions_about_sensitivity_are_refused(given: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        ours.sensitivity_max(methods.Saliency(net()).attribute, X, target=0, **given)
    with pytest.raises(InputTypeError, match="returned a float"):
        ours.sensitivity_max(lambda x: 1.0, X)


def test_a_size_that_is_not_kept_is_told() -> None:
    with pytest.warns(InterpWarning, match="at least 3 and at most 30 at a time"):
        ours.sensitivity_max(methods.Saliency(net()).attribute, X, target=0, max_examples_per_batch=2)
