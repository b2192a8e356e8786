"""Paired differences: intervals that cover as often as they say, p-values as frequent as they say, no order felt."""

from __future__ import annotations

import itertools
import math

import pytest
import scipy.stats
import torch

from interp_plugins.core.errors import InputError
from interp_plugins.metrics.statistics import bootstrap, holm, paired, sign_flip
from tests.thorough import times


def draw(n: int, seed: int, skewed: bool = False) -> torch.Tensor:
    found = torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()
    return found.exp() - math.exp(0.5) if skewed else found


def test_few_differences_get_the_exact_share_of_all_signs() -> None:
    values = torch.tensor([0.3, -0.1, 0.4, 0.2])
    sums = [abs(sum(s * v for s, v in zip(signs, values.tolist()))) for signs in itertools.product((1, -1), repeat=4)]
    assert sign_flip(values) == sum(s >= abs(values.sum().item()) - 1e-9 for s in sums) / 16
    assert sign_flip(torch.zeros(3)) == 1 and math.isnan(sign_flip(torch.zeros(0)))
    assert sign_flip(torch.arange(1.0, 4.0)) == 0.25


def test_many_differences_get_what_scipy_gets() -> None:
    values = draw(40, 1) + 0.3
    expected = scipy.stats.permutation_test(
        (values.numpy(),), lambda v, axis: v.mean(axis), permutation_type="samples", n_resamples=20_000, rng=0
    ).pvalue
    assert sign_flip(values, draws=20_000) == pytest.approx(expected, abs=0.01)


def test_the_interval_is_scipys() -> None:
    values = draw(30, 2, skewed=True)
    expected = scipy.stats.bootstrap((values.numpy(),), lambda v, axis: v.mean(axis), n_resamples=20_000, rng=0)
    assert bootstrap(values, draws=20_000) == pytest.approx(tuple(expected.confidence_interval), abs=0.03)


def test_intervals_and_p_values_hold_what_they_say() -> None:
    trials = times(80, 1000)
    inside = small = 0
    for seed in range(trials):
        found = paired(draw(25, seed), level=0.9, draws=400)
        inside += found.low <= 0 <= found.high
        small += found.p <= 0.1
    error = 4 * math.sqrt(0.09 / trials)
    assert abs(inside / trials - 0.88) < error and abs(small / trials - 0.1) < error  # a bootstrap is a little narrow


def test_groups_widen_the_interval_by_what_differs_between_them() -> None:
    shift = draw(5, 3).repeat_interleave(40)
    values, groups = shift + 0.1 * draw(200, 4), [f"net {i // 40}" for i in range(200)]
    narrow, wide = paired(values), paired(values, groups=groups)
    assert wide.mean == pytest.approx(narrow.mean) and wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert wide.p >= 2 / 2**5  # five nets cannot say more
    assert all(map(math.isnan, bootstrap(values, groups=["one net"] * 200)))


def test_nothing_depends_on_the_order() -> None:
    values, turn = draw(50, 5), torch.randperm(50, generator=torch.Generator().manual_seed(6))
    groups = torch.arange(50) % 4
    assert repr(paired(values)) == repr(paired(values[turn]))
    assert paired(values, groups=groups) == paired(values[turn], groups=groups[turn])


def test_a_sample_without_a_value_loses_its_pair_alone() -> None:
    a, b = torch.tensor([1.0, math.nan, 3.0, 2.0]), torch.tensor([0.0, 1.0, math.nan, 2.0])
    found = paired(a, b)
    assert (found.n, found.left_out, found.mean, found.won) == (2, 2, 0.5, 0.75)
    assert not found.above and not found.below
    empty = paired(torch.tensor([math.nan]))
    assert empty.n == 0 and math.isnan(empty.mean) and math.isnan(empty.p)
    clear = paired(1 + 0.01 * draw(30, 7))
    assert clear.above and not clear.below and "n=30" in repr(clear) and "won 100%" in repr(clear)


def test_holm_is_holms() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, math.nan, 0.9])[0] == 1.0 and math.isnan(holm([0.5, math.nan, 0.9])[1]) and holm([]) == []


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: bootstrap(torch.ones(3), level=95), "level must be in"),
        (lambda: bootstrap(torch.tensor([math.nan, 1.0])), "hold NaN"),
        (lambda: bootstrap(torch.ones(2, 2)), "a number per sample"),
        (lambda: paired(torch.ones(3), groups=[1, 2]), "2 groups for 3 samples"),
    ],
)
def test_what_is_refused(call, text: str) -> None:
    with pytest.raises(InputError, match=text):
        call()
