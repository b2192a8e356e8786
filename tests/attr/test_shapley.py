"""Shapley values against the definition, written out slowly, and what sampling promises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain, row_probe
from interp_plugins.attr import KernelShap, ShapleyValues, ShapleyValueSampling
from interp_plugins.core.errors import ConvergenceWarning, InputError
from interp_plugins.core.report import collect

D = 5


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def base() -> Tensor:
    return torch.randn(1, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def by_definition(f: Callable[[Tensor], Tensor], x: Tensor, base: Tensor, groups: list[list[int]]) -> Tensor:
    """sum over S of |S|! (d - |S| - 1)! / d! (v(S + i) - v(S)), one sample, one feature and one coalition at a time."""
    d = len(groups)

    def v(s: tuple[int, ...]) -> Tensor:
        z = base[0].clone()
        for g in s:
            z[groups[g]] = x[groups[g]]
        return f(z[None])[0].detach()

    out = []
    for i in range(d):
        rest = [j for j in range(d) if j != i]
        total = torch.zeros((), dtype=x.dtype)
        for size in range(d):
            weight = math.factorial(size) * math.factorial(d - size - 1) / math.factorial(d)
            for s in itertools.combinations(rest, size):
                total = total + weight * (v((*s, i)) - v(s))
        out.append(total)
    return torch.stack(out)


def test_exact_values_are_those_of_the_definition(net: nn.Module, x: Tensor, base: Tensor) -> None:
    groups = [[0, 3], [1], [2, 4]]
    mask = torch.tensor([[7, 1, 9, 7, 9]])  # any numbers
    order = [1, 0, 2]  # groups by rising number: 1, 7, 9
    found = ShapleyValues(net).attribute(x, base, target=1, feature_mask=mask)
    for sample, row in zip(x, found):
        expected = by_definition(lambda z: net(z)[:, 1], sample, base, [groups[k] for k in order])
        assert torch.allclose(row[[1, 0, 2]], expected, atol=1e-12)
        assert row[0] == row[3] and row[2] == row[4]


@row_probe(False)
def test_every_coalition_is_evaluated_once(net: nn.Module, x: Tensor) -> None:
    rows: list[Tensor] = []

    def model(z: Tensor) -> Tensor:
        rows.extend(z)
        return net(z)[:, 0]

    ShapleyValues(model).attribute(x[:1])
    clean_once, unique = len(rows), {tuple(r.tolist()) for r in rows}
    assert len(unique) == 2**D
    assert clean_once == 2**D + 1  # F(x) is the score that is reported


def test_too_many_features_are_refused_with_a_way_out(net: nn.Module) -> None:
    with pytest.raises(InputError, match=r"d = 21 features would need 2\^21 .* feature_mask, or use ShapleyValueSampl"):
        ShapleyValues(lambda z: z.sum(1)).attribute(torch.ones(1, 21))
    assert issubclass(InputError, AssertionError)


@pytest.mark.parametrize("antithetic", [False, True])
def test_any_number_of_orders_is_complete(net: nn.Module, x: Tensor, base: Tensor, antithetic: bool) -> None:
    change = (net(x) - net(base))[:, 2].detach()
    for n_samples in (1, 3):
        found = ShapleyValueSampling(net).attribute(
            x, base, target=2, n_samples=n_samples, antithetic=antithetic, seed=1
        )
        assert torch.allclose(found.sum(1), change)


def test_sampling_is_unbiased_and_its_standard_error_is_right(net: nn.Module, x: Tensor, base: Tensor) -> None:
    """Over 40 seeds the errors, in units of the reported standard error, have variance about one."""
    exact = ShapleyValues(net).attribute(x, base, target=0)
    scaled = []
    for seed in range(40):
        with collect() as report:
            found = ShapleyValueSampling(net).attribute(x, base, target=0, n_samples=40, seed=seed)
        scaled.append((found - exact) / report["standard_error"])
    spread = torch.stack(scaled)
    assert spread.mean(0).abs().max() < 4 / 40**0.5
    assert 0.7 < float((spread**2).mean()) < 1.4


def test_antithetic_orders_need_fewer_passes_for_the_same_error(net: nn.Module, x: Tensor, base: Tensor) -> None:
    exact = ShapleyValues(net).attribute(x, base, target=0)

    def error(antithetic: bool, n_samples: int) -> float:
        found = [
            ShapleyValueSampling(net).attribute(
                x, base, target=0, n_samples=n_samples, antithetic=antithetic, seed=seed
            )
            for seed in range(30)
        ]
        return float((torch.stack(found) - exact).square().mean())

    assert error(True, 10) < 0.5 * error(False, 20)  # the same number of passes


def test_tolerance_is_reached_and_reported(net: nn.Module, x: Tensor, base: Tensor) -> None:
    exact = ShapleyValues(net).attribute(x, base, target=0)
    with collect() as report:
        found = ShapleyValueSampling(net).attribute(x, base, target=0, tol=0.01, max_samples=2000, seed=0)
    true = (found - exact).norm(dim=1) / exact.norm(dim=1)
    assert max(report["map_error"]) <= 0.01 and float(true.max()) < 0.03
    assert all(n % 25 == 0 and n > 25 for n in report["n_draws"])


def test_missed_tolerance_is_said(net: nn.Module, x: Tensor) -> None:
    with pytest.warns(ConvergenceWarning, match=r"tol=0.0001 was not reached for 2 of 2 samples with 30 orders"):
        ShapleyValueSampling(net).attribute(x, target=0, tol=1e-4, max_samples=30, seed=0)
    with pytest.raises(InputError, match="tol is a relative error of the map, a positive number"):
        ShapleyValueSampling(net).attribute(x, target=0, tol=0)


def test_map_error_reaches_the_explanation(net: nn.Module, x: Tensor) -> None:
    exp = explain(net, x, "shapley_value_sampling", target=0, n_samples=30)[0]
    assert len(exp.meta["per_sample"]["map_error"]) == 2


def test_a_sample_alone_gets_the_map_it_gets_in_a_batch(net: nn.Module, x: Tensor) -> None:
    for cls in (ShapleyValueSampling, KernelShap):
        together = cls(net).attribute(x, target=0, seed=3, n_samples=9)
        assert torch.allclose(cls(net).attribute(x[1:], target=0, seed=3, n_samples=9)[0], together[1])


def test_feature_across_two_inputs_and_a_mask_per_sample(net: nn.Module, x: Tensor) -> None:
    def two(a: Tensor, b: Tensor) -> Tensor:
        return net(torch.cat([a, b], 1))[:, 0]

    whole = ShapleyValues(lambda z: net(z)[:, 0]).attribute(x, feature_mask=torch.tensor([[0, 1, 1, 2, 0]]))
    a, b = ShapleyValues(two).attribute(
        (x[:, :2], x[:, 2:]), feature_mask=(torch.tensor([[0, 1]]), torch.tensor([[1, 2, 0]]))
    )
    assert torch.allclose(torch.cat([a, b], 1), whole)
    masks = torch.tensor([[0, 1, 1, 2, 0], [1, 0, 0, 2, 2]])
    own = ShapleyValues(net).attribute(x, target=0, feature_mask=masks)
    alone = torch.cat(
        [ShapleyValues(net).attribute(x[i : i + 1], target=0, feature_mask=masks[i : i + 1]) for i in (0, 1)]
    )
    assert torch.allclose(own, alone)


# -- Kernel SHAP -------------------------------------------------------------------------------------------------


def test_kernel_shap_is_exact_once_all_coalitions_fit(net: nn.Module, x: Tensor, base: Tensor) -> None:
    exact = ShapleyValues(net).attribute(x, base)
    assert torch.allclose(KernelShap(net).attribute(x, base, n_samples=2**D), exact, atol=1e-12)


def test_kernel_shap_of_one_feature_is_the_whole_change(net: nn.Module, x: Tensor) -> None:
    mask = torch.zeros(1, D, dtype=torch.long)
    found = KernelShap(net).attribute(x, target=1, feature_mask=mask)
    change = (net(x) - net(x * 0))[:, 1:2].detach()
    assert torch.allclose(found, change.expand_as(found))


@pytest.mark.parametrize("n_samples", [2, 3, 8, 20])
def test_kernel_shap_is_complete_for_any_number_of_samples(net: nn.Module, x: Tensor, n_samples: int) -> None:
    change = (net(x) - net(x * 0))[:, 1].detach()
    for paired in (False, True):
        found = KernelShap(net).attribute(x, target=1, n_samples=n_samples, paired=paired, seed=0)
        assert float((found.sum(1) - change).abs().max()) < 1e-12


def test_paired_coalitions_reduce_the_error_of_kernel_shap() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 1), nn.Flatten(0)).double()
    x = torch.randn(1, 9, dtype=torch.float64)
    exact = ShapleyValues(net).attribute(x)

    def error(paired: bool) -> float:
        found = [KernelShap(net).attribute(x, n_samples=80, paired=paired, seed=seed) for seed in range(20)]
        return float((torch.stack(found) - exact).square().mean())

    assert error(True) < 0.7 * error(False)


def test_kernel_shap_goes_on_to_a_tolerance(net: nn.Module) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 1), nn.Flatten(0)).double()
    x = torch.randn(2, 8, dtype=torch.float64)
    exact = ShapleyValues(net).attribute(x)
    with collect() as report:
        found = KernelShap(net).attribute(x, n_samples=60, paired=True, tol=0.05, seed=0)
    assert max(report["map_error"]) <= 0.05
    assert float(((found - exact).norm(dim=1) / exact.norm(dim=1)).max()) < 0.1


# -- null players: features that are as their baseline -----------------------------------------------------------------


@row_probe(False)
def test_orders_leave_out_features_that_are_as_their_baseline(net: nn.Module, x: Tensor, base: Tensor) -> None:
    """The same orders give what a model gives that does not look at these features, from fewer rows."""
    kept = torch.tensor([True, False, True, False, True])
    seen: list[int] = []

    def looks_away(z: Tensor) -> Tensor:
        return net(torch.where(kept, z, base))

    def counted(z: Tensor) -> Tensor:
        seen.append(len(z))
        return net(z)

    how = {"baselines": base, "target": 1, "n_samples": 3, "stratified": True, "seed": 0}
    found = ShapleyValueSampling(counted).attribute(torch.where(kept, x, base), **how)
    assert torch.allclose(found, ShapleyValueSampling(looks_away).attribute(x, **how), atol=1e-12)
    assert not found[:, ~kept].any() and sum(seen) <= 2 * 2**3 + 2
    nothing = ShapleyValueSampling(net).attribute(base.expand(2, -1).clone(), **how)
    assert not nothing.any()


@pytest.mark.parametrize("n_samples", [2, 6, 20])
@row_probe(False)
def test_kernel_shap_gives_nothing_to_features_that_are_as_their_baseline(
    net: nn.Module, x: Tensor, base: Tensor, n_samples: int
) -> None:
    mixed = x.clone()
    mixed[0, [1, 3]] = base[0, [1, 3]]
    mixed[1] = base[0]
    seen: list[int] = []

    def counted(z: Tensor) -> Tensor:
        seen.append(len(z))
        return net(z)

    def found(z: Tensor) -> Tensor:
        return KernelShap(counted).attribute(z, base, target=1, n_samples=n_samples, stratified=True, seed=0)

    both, alone = found(mixed), found(mixed[:1])
    assert torch.allclose(both[0], alone[0], atol=1e-12)  # whoever its neighbours are
    assert not both[0, [1, 3]].any() and not both[1].any()
    assert torch.allclose(both[0].sum(), (net(mixed[:1]) - net(base))[0, 1], atol=1e-12)
    assert seen[-1] <= 2**3
