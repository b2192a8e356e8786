"""Similarity and sparseness of maps: closed forms, slow references, an oracle, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.metrics import cosine_similarity, gini_index, spearman_correlation


def slow_ranks(values: list[float]) -> list[float]:
    """1 + how many are smaller, plus half of the others that are equal."""
    return [1 + sum(w < v for w in values) + (sum(w == v for w in values) - 1) / 2 for v in values]


def slow_correlation(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b))
    spread = sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)
    return covariance / math.sqrt(spread) if spread > 0 else math.nan


def slow_gini(values: list[float]) -> float:
    """Half the mean absolute difference of all pairs, relative to the mean."""
    sizes = [abs(v) for v in values]
    n, total = len(sizes), sum(sizes)
    return sum(abs(x - y) for x in sizes for y in sizes) / (2 * n * total) if total else math.nan


# Whole numbers make ties; a map of them is exact in float32 as well.
maps = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=12)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_each_formula_is_its_slow_reference(data) -> None:
    a = data.draw(maps)
    b = data.draw(st.lists(st.integers(-5, 5).map(float), min_size=len(a), max_size=len(a)))
    x, y = torch.tensor([a]), torch.tensor([b])
    size = math.sqrt(sum(v * v for v in a) * sum(v * v for v in b))
    cosine = sum(v * w for v, w in zip(a, b)) / size if size else math.nan
    assert cosine_similarity(x, y).item() == pytest.approx(cosine, abs=1e-12, nan_ok=True)
    rank = slow_correlation(slow_ranks(a), slow_ranks(b))
    assert spearman_correlation(x, y).item() == pytest.approx(rank, abs=1e-12, nan_ok=True)
    assert gini_index(x).item() == pytest.approx(slow_gini(a), abs=1e-12, nan_ok=True)


def test_closed_forms() -> None:
    right_angle = (
        torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]),
        torch.tensor([[0.0, 3.0], [1.0, 0.0], [-2.0, -4.0]]),
    )
    assert cosine_similarity(*right_angle).tolist() == pytest.approx([0.0, math.sqrt(0.5), -1.0])
    growing = torch.arange(1.0, 6.0)[None]
    assert spearman_correlation(growing, growing.exp()).item() == pytest.approx(1.0)
    assert spearman_correlation(growing, -growing).item() == pytest.approx(-1.0)
    assert spearman_correlation(growing, torch.tensor([[1.0, 2.0, 3.0, 5.0, 4.0]])).item() == pytest.approx(0.9)
    assert gini_index(torch.tensor([[0.0, 0.0, 0.0, -5.0], [2.0, -2.0, 2.0, 2.0]])).tolist() == [0.75, 0.0]
    assert gini_index(torch.arange(1.0, 101.0)[None]).item() == pytest.approx((100 - 1) / (3 * 100))


def test_rank_correlation_is_scipys() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 3, 8, 8, generator=g).relu(), torch.randn(5, 3, 8, 8, generator=g)
    expected = [stats.spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b)]
    assert spearman_correlation(a, b).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e300])
@pytest.mark.parametrize("shape", [(3, 7), (3, 2, 4, 4), (3,)])
def test_scale_and_layout_do_not_matter(scale, shape) -> None:
    a, b = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    for of in (cosine_similarity, spearman_correlation):
        if len(shape) > 1:
            torch.testing.assert_close(of(a * scale, b), of(a, b))
            torch.testing.assert_close(of((a, b), (b, a)), of(torch.cat([a, b], 1), torch.cat([b, a], 1)))
    torch.testing.assert_close(gini_index(a * -scale), gini_index(a))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_precision_and_order_in_memory_gives_float64_and_changes_nothing(dtype) -> None:
    a = torch.randn(2, 3, 4, 4).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    before = a.detach().clone()
    for found in (cosine_similarity(a, a), spearman_correlation(a, a), gini_index(a)):
        assert found.dtype == torch.float64 and found.shape == (2,) and not found.requires_grad
    assert torch.allclose(cosine_similarity(a, a), torch.ones(2, dtype=torch.float64))
    assert torch.equal(a, before)


def test_what_is_not_defined_is_nan_and_only_there() -> None:
    a, b = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 3.0]]), torch.tensor([[1.0, 2.0]] * 3)
    assert cosine_similarity(a, b).isnan().tolist() == [True, False, False]
    assert spearman_correlation(a, b).isnan().tolist() == [True, False, True]
    assert gini_index(a).isnan().tolist() == [True, False, False]
    broken = torch.tensor([[math.nan, 1.0]])
    for found in (cosine_similarity(broken, b[:1]), spearman_correlation(b[:1], broken), gini_index(broken)):
        assert bool(found.isnan().all())


def test_what_is_refused() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(InputError, match=r"must have the same shapes; got \[\(2, 3\)\] and \[\(2, 4\)\]"):
        cosine_similarity(x, torch.ones(2, 4))
    with pytest.raises(InputError, match="samples as first dimension, equally many"):
        gini_index((x, torch.ones(1, 3)))
    with pytest.raises(InputError, match="holds no numbers"):
        gini_index(torch.ones(2, 0))
    with pytest.raises(InputTypeError, match="b must be a real tensor or a tuple of them, got list"):
        spearman_correlation(x, [x])
