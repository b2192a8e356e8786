"""Statistics over tasks: closed forms, scipy as an oracle, letters by their definition."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_plugins.benchmark.ranks import (
    critical_difference,
    friedman,
    letters,
    rank_interval,
    rank_rows,
    studentised_range,
)
from interp_plugins.core.errors import InputError

scipy_stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize(("k", "blocks", "expected"), [(5, 30, 1.114), (2, 14, 0.524), (10, 14, 3.620)])
def test_critical_difference(k, blocks, expected):
    """The first is the design's, the others q of Demsar's table 5 (1.960, 3.164) times sqrt(k (k + 1) / 6 N)."""
    assert critical_difference(k, blocks) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("k", [2, 3, 8, 20])
def test_studentised_range_against_scipy(k):
    for q in (0.5, 2.0, 4.0):
        assert studentised_range(q, k) == pytest.approx(scipy_stats.studentized_range.cdf(q, k, 1e7), abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 12), st.integers(3, 7), st.booleans())
def test_friedman_against_scipy(seed, n, k, ties):
    torch.manual_seed(seed)
    values = torch.randn(n, k, dtype=torch.float64)
    values = (values * 2).round() if ties else values
    if bool((values == values[:, :1]).all()):
        return
    found = friedman(values)
    statistic, p = scipy_stats.friedmanchisquare(*values.T.numpy())
    assert found.statistic == pytest.approx(statistic, abs=1e-9) and found.p == pytest.approx(p, rel=1e-4, abs=1e-7)
    assert found.mean_ranks == pytest.approx(scipy_stats.rankdata(-values.numpy(), axis=1).mean(0).tolist(), abs=1e-12)


def test_friedman_by_hand():
    agree = friedman(torch.tensor([[3.0, 2.0, 1.0]] * 4))
    assert agree.w == 1 and agree.statistic == 8
    assert friedman(torch.ones(3, 4)).p == 1
    with pytest.raises(InputError, match="two methods or more"):
        friedman(torch.ones(1, 4))


def test_ranks_average_ties():
    assert rank_rows(torch.tensor([[1.0, 3.0, 3.0, 0.0]])).tolist() == [[3, 1.5, 1.5, 4]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7))
def test_letters_say_exactly_who_was_told_apart(seed, k):
    generator = torch.Generator().manual_seed(seed)
    order = [f"m{i}" for i in range(k)]
    apart = {pair: bool(torch.rand(1, generator=generator) < 0.4) for pair in itertools.combinations(order, 2)}
    found = letters(order, apart)
    assert found[order[0]].startswith("a") and all(found.values())
    for (one, other), told in apart.items():
        assert bool(set(found[one]) & set(found[other])) != told


def test_rank_intervals_hold_the_rank():
    torch.manual_seed(0)
    tasks = [torch.randn(20, 3) + torch.tensor([2.0, 0.0, 0.1]) for _ in range(8)]
    (low, high), second, third = rank_interval(tasks, draws=500)
    assert low == high == 1 and second[0] < 2.5 < third[1] and second[1] <= 3
