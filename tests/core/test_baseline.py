"""Baselines: names that know the normalisation, numbers, tensors, functions; one tensor of the input's shape each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp_plugins.core.baseline import BASELINES, as_baselines, named_baseline
from interp_plugins.core.errors import InputError, InputTypeError, UnknownNameError
from interp_plugins.core.spec import InputSpec

X = torch.arange(24.0).reshape(2, 3, 2, 2)
SPEC = InputSpec("image", mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))


def one(value: Any, x: torch.Tensor = X, **more: Any) -> torch.Tensor:
    return as_baselines(value, (x,), **more)[0]


def test_nothing_and_zero_are_zeros() -> None:
    assert torch.equal(one(None), torch.zeros_like(X))
    assert torch.equal(one("zero"), torch.zeros_like(X))
    assert one(None, torch.tensor([[True]])).dtype == torch.bool


def test_black_is_black_pixels_under_normalisation() -> None:
    black = one("black", spec=SPEC)
    assert torch.allclose(SPEC.denormalise(black), torch.zeros_like(X), atol=1e-6)
    assert not torch.allclose(black, torch.zeros_like(X))
    assert torch.allclose(one("BLACK", spec=InputSpec("image", value_range=(-1.0, 1.0))), torch.tensor(-1.0))


def test_mean_is_each_samples_own_colour() -> None:
    assert torch.allclose(one("mean")[0, :, 0, 0], X[0].mean((1, 2)))
    assert torch.allclose(one("mean")[1, :, 1, 1], X[1].mean((1, 2)))


def test_mean_of_a_table_is_the_mean_row() -> None:
    table = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    assert torch.equal(one("mean", table), torch.tensor([[2.0, 4.0], [2.0, 4.0]]))


def test_blur_keeps_flat_pictures_and_smooths_others() -> None:
    flat = torch.full((1, 3, 16, 16), 0.7)
    assert torch.allclose(one("blur", flat), flat, atol=1e-6)
    noise = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert one("blur", noise).std() < 0.3 * noise.std()
    with pytest.raises(InputError, match=r"'blur' needs images \(N, C, H, W\), got shape \(2, 4\)"):
        one("blur", torch.zeros(2, 4))


@pytest.mark.parametrize("name", ["uniform", "gaussian"])
def test_random_baselines_stay_in_the_valid_range_and_follow_the_generator(name: str) -> None:
    x = SPEC.normalise(torch.full((2, 3, 8, 8), 0.5))
    first, again, other = (one(name, x, spec=SPEC, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    raw = SPEC.denormalise(first)
    assert raw.min() >= -1e-5 and raw.max() <= 1 + 1e-5
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_named_baselines_have_the_inputs_shape_and_dtype(name: str) -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    made = named_baseline(name, x, InputSpec.guess(x), torch.Generator().manual_seed(0))
    assert made.shape == x.shape and made.dtype == x.dtype


def test_numbers_and_tensors_are_spread_over_the_batch() -> None:
    assert torch.equal(one(2), torch.full_like(X, 2))
    assert torch.equal(one(torch.tensor(0.5)), torch.full_like(X, 0.5))
    assert torch.equal(one(X[:1]), X[:1].expand_as(X))
    assert torch.equal(one(X.double()), X) and one(X.double()).dtype == X.dtype
    assert one(torch.ones_like(X).requires_grad_()).requires_grad is False


def test_tuple_has_one_baseline_per_input() -> None:
    a, b = as_baselines((None, 1.5), (X, X[:, 0]))
    assert torch.equal(a, torch.zeros_like(X)) and torch.equal(b, torch.full_like(X[:, 0], 1.5))
    a, b = as_baselines(0.5, (X, X[:, 0]))
    assert a.unique().tolist() == b.unique().tolist() == [0.5]


def test_function_gets_the_inputs_in_the_callers_layout_or_nothing() -> None:
    assert torch.equal(one(lambda x: x * 0.5), X * 0.5)
    assert torch.equal(one(lambda: 0.25), torch.full_like(X, 0.25))
    (made,) = as_baselines(lambda xs: (xs[0] + 1,), (X,), template=(X,))
    assert torch.equal(made, X + 1)
    assert torch.equal(one(lambda x: "mean"), one("mean"))


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        ("blck", UnknownNameError, "Unknown baseline 'blck'. Did you mean 'black'"),
        (torch.zeros(4, 2, 2), InputError, "has shape (4, 2, 2), the input (2, 3, 2, 2); expected (2, 3, 2, 2), (1,"),
        (torch.zeros(5, 3, 2, 2), InputError, "just one input and broadcasted"),
        ((0, 1), InputError, "`baselines` has 2 entries for 1 inputs"),
        ([0.0], InputTypeError, "got list of 1 (float)"),
        (SPEC, InputTypeError, "a tensor, a name (zero, black, mean, blur, uniform, gaussian) or a function"),
    ],
)
def test_other_baselines_are_refused(value: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        one(value)
    assert says in str(caught.value)
    assert isinstance(caught.value, AssertionError)


def test_one_tensor_for_two_inputs_is_refused() -> None:
    with pytest.raises(InputError, match="for 2 inputs; give a tuple with one per input"):
        as_baselines(X, (X, X))


def test_spec_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="only one of mean and std"):
        InputSpec(mean=(0.5,))
    with pytest.raises(InputError, match="mean has 1 channels, std has 2"):
        InputSpec(mean=(0.5,), std=(1.0, 2.0))
    with pytest.raises(InputError, match="std must be positive"):
        InputSpec(mean=(0.5,), std=(0.0,))
    with pytest.raises(InputError, match=r"does not have the 3 channels of the normalisation"):
        one("black", torch.zeros(1, 4, 2, 2), spec=SPEC)


@pytest.mark.parametrize("value", [None, 0.5, "zero", "black", torch.tensor(2.0), torch.ones(1, 3, 4, 4)])
def test_what_is_the_same_for_all_samples_is_held_once(value: Any) -> None:
    x = torch.rand(50, 3, 4, 4)
    (made,) = as_baselines(value, (x,), InputSpec("image", mean=(0.5,) * 3, std=(0.2,) * 3))
    assert made.shape == x.shape and made.untyped_storage().nbytes() == x[0].nbytes
