"""What the callbacks of fastai and Lightning share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp_plugins import attr
from interp_plugins.api.callbacks import check_choice, check_count, check_names, contained
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, UnknownNameError


def test_names_are_checked_in_every_form() -> None:
    for good in ("ig", ("ig", "gradcam"), {"ig": {"n_steps": 3}}, attr.Saliency(torch.nn.Linear(2, 2))):
        check_names(good)
    for wrong in (3, [], {}):
        with pytest.raises(InputTypeError, match="methods must be a name, a list of names or a dict, got"):
            check_names(wrong)
    with pytest.raises(UnknownNameError, match="gradcam"):
        check_names(["ig", "gradcamm"])


@pytest.mark.parametrize("wrong", [0, True, 1.0, "1"])
def test_a_count_is_a_whole_number(wrong: Any) -> None:
    check_count("n", 1, 1)
    with pytest.raises(InputError, match="n must be an int of at least 1, got"):
        check_count("n", wrong, 1)


def test_a_choice_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="warn"):
        check_choice("on_error", "warm", ("warn", "raise"))


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_an_error_is_contained_and_random_numbers_stay(on_error: str) -> None:
    given_up: list[bool] = []
    before = torch.get_rng_state()
    warned = pytest.warns(InterpWarning, match="It failed, and training goes on: ValueError: no")
    outcome = warned if on_error == "warn" else pytest.raises(ValueError, match="no")
    with outcome, contained("It", on_error, lambda: given_up.append(True)):
        torch.rand(3)
        raise ValueError("no")
    assert given_up == [True] and torch.equal(torch.get_rng_state(), before)
