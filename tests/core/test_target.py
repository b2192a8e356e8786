"""Targets: Captum's rules, functions, `Target` objects; one scalar per row, and each row its own sample's target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp_plugins.core.errors import TargetError
from interp_plugins.core.region import Region
from interp_plugins.core.target import (
    Contrast,
    Function,
    Index,
    PerSample,
    Probability,
    Target,
    Whole,
    as_target,
)

FLAT = torch.arange(9.0).reshape(3, 3)
DEEP = torch.arange(24.0).reshape(3, 2, 4)


@pytest.mark.parametrize(
    ("target", "output", "expected"),
    [
        (None, torch.arange(3.0), [0, 1, 2]),
        (1, FLAT, [1, 4, 7]),
        (-1, FLAT, [2, 5, 8]),
        (np.int64(2), FLAT, [2, 5, 8]),
        (torch.tensor(1), FLAT, [1, 4, 7]),
        (torch.tensor([1]), FLAT, [1, 4, 7]),
        (torch.tensor([2, 0, 1]), FLAT, [2, 3, 7]),
        (np.array([2, 0, 1]), FLAT, [2, 3, 7]),
        ([2, 0, 1], FLAT, [2, 3, 7]),
        ([np.int32(2), 0, 1], FLAT, [2, 3, 7]),
        ((1, 2), DEEP, [6, 14, 22]),
        ([(0, 0), (1, 1), (0, 3)], DEEP, [0, 13, 19]),
        (lambda out: out.sum(1), FLAT, [3, 12, 21]),
        (Contrast(Index((2,)), Index((0,))), FLAT, [2, 2, 2]),
    ],
    ids=lambda value: "function" if callable(value) else repr(value),
)
def test_target_selects_one_scalar_per_row(target: Any, output: Tensor, expected: list[float]) -> None:
    assert as_target(target, 3)(output).tolist() == expected


def test_slices_select_a_block() -> None:
    assert as_target((slice(None), 1), 3)(DEEP).shape == (3, 2)
    assert as_target([(slice(0, 1), 1)] * 3, 3)(DEEP).shape == (3, 1)


@pytest.mark.parametrize("target", [[2, 0, 1], [(2,), (0,), (1,)], torch.tensor([2, 0, 1])])
def test_rows_keep_the_target_of_their_sample(target: Any) -> None:
    rows = torch.tensor([2, 2, 0])
    assert as_target(target, 3).at(rows)(FLAT[rows]).tolist() == [7, 7, 2]


def test_a_common_target_is_the_same_for_any_rows() -> None:
    for target in (as_target(1, 3), as_target(None, 3), Function(lambda out: out[:, 0])):
        assert target.at(torch.tensor([0, 0])) is target
    assert as_target([0, 1, 2], 3).at(None).indices == [(0,), (1,), (2,)]  # type: ignore[attr-defined]


def test_probability_is_the_softmax_of_what_is_asked_for() -> None:
    p = Probability(PerSample([(2,), (0,), (1,)]))
    assert torch.allclose(p(FLAT), FLAT.softmax(1)[range(3), [2, 0, 1]])
    rows = torch.tensor([1, 1])
    assert torch.allclose(p.at(rows)(FLAT[rows]), FLAT.softmax(1)[[1, 1], [0, 0]])


def test_contrast_of_targets_per_sample_follows_the_rows() -> None:
    c = Contrast(PerSample([(2,), (0,), (1,)]), Index((0,))).at(torch.tensor([2]))
    assert c(FLAT[2:]).tolist() == [1]


def test_region_sums_the_scores_of_a_class_under_the_mask() -> None:
    output = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    mask = torch.tensor([[[True, False], [False, False]], [[True, True], [True, True]]])
    assert Region(1, mask)(output).tolist() == [4, 16 + 17 + 18 + 19]
    assert Region(1, mask).at(torch.tensor([1, 0, 0])).__call__(output[[1, 0, 0]]).tolist() == [70, 4, 4]
    assert Region(1, mask[0])(output).tolist() == [4, 16]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (Index((1,)), "class 1"),
        (PerSample([(4,), (5,)]), "4"),
        (Contrast(Index((2,)), Index((0,))), "2 rather than 0"),
        (Probability(Index((2,))), "p(2)"),
        (Region(3, torch.ones(2, 2)), "region of class 3"),
        (Function(lambda out: out), "<lambda>"),
        (Whole(), None),
        (Target(), None),
    ],
)
def test_target_describes_itself(target: Target, text: str | None) -> None:
    described = target.describe(0)
    assert described == (text if not isinstance(target, Index) else "1")


@pytest.mark.parametrize(
    ("target", "n", "says"),
    [
        (1.5, 3, "is not valid: 1.5"),
        (True, 3, "is not valid: True"),
        ("cat", 3, "Use an int, a tuple"),
        ({"a": 1}, 3, "is not valid"),
        (torch.tensor([True, False, True]), 3, "must hold integer indices"),
        (torch.zeros(3), 3, "must hold integer indices"),
        (torch.zeros(3, 1, dtype=torch.long), 3, "Tensor target dimension (3, 1)"),
        (torch.tensor([1, 2]), 3, "a batch of 3"),
        ([1, 2], 3, "2 targets came for 3 samples"),
        ([1], 3, "1 targets came for 3 samples"),
        ([1, (2,), 0], 3, "in list is not valid"),
        ([1.0, 2.0, 0.0], 3, "in list is not valid"),
        ((1, "a"), 3, "inside the tuple"),
        ((1, 2.0), 3, "inside the tuple"),
    ],
)
def test_other_targets_are_refused(target: Any, n: int, says: str) -> None:
    with pytest.raises(TargetError) as caught:
        as_target(target, n)
    assert says in str(caught.value)
    assert isinstance(caught.value, (ValueError, AssertionError, IndexError))


@pytest.mark.parametrize(
    ("target", "output", "says"),
    [
        (3, FLAT, "Target index 3 is out of range: the model's output has shape (3, 3), so dimension 1 takes 0 to 2."),
        (-4, FLAT, "Target index -4"),
        ((1, 4), DEEP, "dimension 2 takes 0 to 3"),
        ((1, 1, 1), DEEP, "the target (1, 1, 1) has 3 indices, the output has 2 dimension(s) after the batch"),
        (0, torch.arange(3.0), "Use target=None for one scalar per example"),
        ([0, 1, 2], FLAT[:2], "3 targets came for an output of shape (2, 3)"),
        ([0, 1, 5], FLAT, "Target index 5"),
        (Region(0, torch.ones(2, 2)), torch.zeros(3, 2, 4, 4), "Region mask of shape (2, 2) does not fit"),
        (Region(2, torch.ones(4, 4)), torch.zeros(3, 2, 4, 4), "Target index 2"),
    ],
)
def test_target_that_does_not_fit_the_output_is_refused(target: Any, output: Tensor, says: str) -> None:
    with pytest.raises(TargetError) as caught:
        as_target(target, 3)(output)
    assert says in str(caught.value)
