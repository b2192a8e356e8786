"""Features: what is perturbed together, by mask or by window."""

from __future__ import annotations

import pytest
import torch

from interp_plugins.core.features import MaskFeatures, Windows

X, Y = torch.zeros(2, 3), torch.zeros(2, 2)


def test_without_a_mask_every_element_is_a_feature() -> None:
    features = MaskFeatures((X, Y))
    assert len(features) == 5
    marked = [[m.int().tolist() for m in features.masks(k)] for k in range(5)]
    assert marked[1] == [[[0, 1, 0]], [[0, 0]]]
    assert marked[4] == [[[0, 0, 0]], [[0, 1]]]


def test_same_number_in_two_inputs_is_one_feature() -> None:
    features = MaskFeatures((X, Y), (torch.tensor([[0, 7, 7]]), torch.tensor([[7, 9]])))
    assert features.ids == [0, 7, 9]
    assert [m.int().tolist() for m in features.masks(1)] == [[[0, 1, 1]], [[1, 0]]]


def test_mask_may_lack_the_batch_or_differ_by_sample() -> None:
    assert MaskFeatures((X,), torch.tensor([0, 1, 1])).masks(1)[0].tolist() == [[False, True, True]]
    per_sample = MaskFeatures((X,), torch.tensor([[0, 1, 1], [1, 0, 0]]))
    assert per_sample.masks(0)[0].tolist() == [[True, False, False], [False, True, True]]


def boxes(size: int, window: int, stride: int | None, border: str) -> list[tuple[int, int]]:
    found = Windows((torch.zeros(1, size),), (window,), stride, border)
    return [(b.start, b.stop) for _, (b,) in (found.box(k) for k in range(len(found)))]


@pytest.mark.parametrize(
    ("size", "window", "stride", "shifted", "clipped"),
    [
        (6, 2, 2, [(0, 2), (2, 4), (4, 6)], [(0, 2), (2, 4), (4, 6)]),
        (5, 2, 2, [(0, 2), (2, 4), (3, 5)], [(0, 2), (2, 4), (4, 5)]),
        (4, 3, 2, [(0, 3), (1, 4)], [(0, 3), (2, 4)]),
        (3, 3, 3, [(0, 3)], [(0, 3)]),
        (3, 2, None, [(0, 2), (1, 3)], [(0, 2), (1, 3)]),
    ],
)
def test_windows_cover_everything_shifted_or_clipped_at_the_border(
    size: int, window: int, stride: int | None, shifted: list[tuple[int, int]], clipped: list[tuple[int, int]]
) -> None:
    assert boxes(size, window, stride, "shift") == shifted
    assert boxes(size, window, stride, "clip") == clipped
    for found in (shifted, clipped):
        assert {i for a, b in found for i in range(a, b)} == set(range(size))


def test_windows_of_two_inputs_come_one_after_the_other() -> None:
    found = Windows((torch.zeros(1, 2, 2), torch.zeros(1, 3)), ((1, 2), (2,)), ((1, 2), 1))
    assert [found.box(k)[0] for k in range(len(found))] == [0, 0, 1, 1]
    assert [m.any().item() for m in found.masks(2)] == [False, True]
    assert found.masks(3)[1].tolist() == [[False, True, True]]


def test_first_dimension_runs_fastest() -> None:
    found = Windows((torch.zeros(1, 2, 2),), (1, 1))
    assert [tuple(s.start for s in found.box(k)[1]) for k in range(4)] == [(0, 0), (1, 0), (0, 1), (1, 1)]
