"""RISE, Sobol, HSIC, Owen values and interactions against slow references and closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_plugins import explain, row_probe
from interp_plugins.attr import (
    HSIC,
    RISE,
    FeatureAblation,
    Occlusion,
    OwenValues,
    ShapleyInteractions,
    ShapleyValues,
    Sobol,
)
from interp_plugins.attr.perturbation.coalitions import Game
from interp_plugins.attr.perturbation.interaction_fit import FittedInteractions, PairWeights
from interp_plugins.attr.shared.base import prepared
from interp_plugins.core.errors import ConvergenceWarning, InputError, InputTypeError
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


def bright_spot(images: Tensor) -> Tensor:
    """A score that lives in the upper left quarter."""
    return images[:, :, :4, :4].mean((1, 2, 3))


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(1, 3, 16, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5


# -- RISE --------------------------------------------------------------------------------------------------------


def slow_rise(f: Any, image: Tensor, base: float, n: int, grid: int, p: float, seed: int) -> Tensor:
    """Mask by mask: a grid of coin tosses, enlarged to one cell more than the picture, shifted, scored, added."""
    g, (h, w) = torch.Generator().manual_seed(seed), image.shape[2:]
    cell = (math.ceil(h / grid), math.ceil(w / grid))
    total = torch.zeros(h, w, dtype=image.dtype)
    for _ in range(n):
        coarse = (torch.rand(grid, grid, generator=g) < p).float()
        top, left = (int(torch.randint(c, (1,), generator=g)) for c in cell)
        size = ((grid + 1) * cell[0], (grid + 1) * cell[1])
        fine = F.interpolate(coarse[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        mask = fine[top : top + h, left : left + w].to(image.dtype)
        total += f(mask * image + (1 - mask) * base)[0] * mask
    return total / (n * p)


def test_rise_is_the_loop_of_the_paper(image: Tensor) -> None:
    found = RISE(bright_spot).attribute(image, 0.2, n_samples=25, grid_size=4, p=0.4, seed=7)
    expected = slow_rise(bright_spot, image, 0.2, 25, 4, 0.4, 7)
    assert torch.allclose(found[0], expected.expand(3, -1, -1), atol=1e-12)


def test_rise_points_at_the_spot_and_reports_its_error(image: Tensor) -> None:
    with collect() as report:
        found = RISE(bright_spot).attribute(image, n_samples=500, tol=0.04, seed=0)
    assert max(report["map_error"]) <= 0.04
    more = RISE(bright_spot).attribute(image, n_samples=3000, seed=1)
    assert float((found - more).norm() / more.norm()) < 0.1
    assert float(found[..., :4, :4].mean()) > 1.1 * float(found[..., 8:, 8:].mean())
    with pytest.warns(ConvergenceWarning, match=r"tol=0\.001 was not reached for 1 of 1 samples with 20 masks"):
        RISE(bright_spot).attribute(image, n_samples=10, tol=0.001, max_samples=20, seed=0)


def test_centred_rise_subtracts_the_mean_score(image: Tensor) -> None:
    """Twice: the scores are shifted by their mean; and a constant added to the score changes nothing."""
    known: dict[str, Any] = {"n_samples": 25, "grid_size": 4, "seed": 7, "center": True}
    found = RISE(bright_spot).attribute(image, **known)
    scores: list[Tensor] = []

    def watched(z: Tensor) -> Tensor:
        scores.append(bright_spot(z))
        return scores[-1]

    RISE(watched).attribute(image, n_samples=25, grid_size=4, seed=7)
    level = float(torch.cat(scores)[-25:].mean())
    expected = slow_rise(lambda z: bright_spot(z) - level, image, 0.0, 25, 4, 0.5, 7)
    assert torch.allclose(found[0], expected.expand(3, -1, -1), atol=1e-12)
    assert torch.allclose(RISE(lambda z: bright_spot(z) + 5).attribute(image, **known), found, atol=1e-10)


def test_rise_on_rows_of_a_table_is_the_mean_score_with_the_feature() -> None:
    found = RISE(lambda z: z[:, 0] + 2).attribute(torch.ones(1, 3, dtype=torch.float64), n_samples=4000, seed=0)
    assert torch.allclose(found, torch.tensor([[3.0, 2.5, 2.5]], dtype=torch.float64), atol=0.12)


def test_rise_refuses_a_probability_of_zero(image: Tensor) -> None:
    with pytest.raises(InputError, match="above 0 and at most 1; got 0"):
        RISE(bright_spot).attribute(image, p=0)


# -- Sobol and HSIC ----------------------------------------------------------------------------------------------


def test_sobol_indices_of_a_known_function() -> None:
    """For F = a + 2 b + c d with uniform switches: variances 1/12, 4/12, and those of a product."""
    x = torch.ones(1, 5, dtype=torch.float64)
    found = Sobol(lambda z: z[:, 0] + 2 * z[:, 1] + z[:, 2] * z[:, 3]).attribute(x, n_samples=4096, seed=0)[0]
    product = 1 / 9 - 1 / 16
    total = 1 / 12 + 4 / 12 + product
    main = 1 / 4 / 12  # Var of E[c d | c]
    expected = torch.tensor([1 / 12, 4 / 12, product - main, product - main, 0], dtype=torch.float64) / total
    assert torch.allclose(found, expected, atol=0.01)


def test_sobol_is_jansens_estimator(net: nn.Module, x: Tensor, base: Tensor) -> None:
    g = torch.Generator().manual_seed(4)
    scramble = int(torch.randint(2**31, (1,), generator=g))
    design = torch.quasirandom.SobolEngine(2 * D, scramble=True, seed=scramble).draw(16, dtype=torch.float64)
    a, b = design[:, :D], design[:, D:]

    def score(m: Tensor) -> Tensor:
        return net(m * x[:1] + (1 - m) * base)[:, 1].detach()

    expected = []
    for i in range(D):
        c = torch.stack([torch.where(torch.arange(D) == i, b[k], a[k]) for k in range(16)])
        expected.append(((score(a) - score(c)) ** 2).mean() / (2 * score(a).var()))
    found = Sobol(net).attribute(x[:1], base, target=1, n_samples=16, seed=4)
    assert torch.allclose(found[0], torch.stack(expected), atol=1e-12)


def test_hsic_is_the_trace_of_the_centred_kernels(net: nn.Module, x: Tensor, base: Tensor) -> None:
    n, g = 40, torch.Generator().manual_seed(5)
    z = torch.stack([torch.rand(D, generator=g) < 0.5 for _ in range(n)])
    y = net(torch.where(z, x[1], base[0]))[:, 2].detach()
    gaps = torch.tensor([abs(float(y[i] - y[j])) for i in range(n) for j in range(n) if i != j])
    kernel = torch.exp(-((y[:, None] - y[None]) ** 2) / (2 * float(gaps.median()) ** 2))
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    expected = []
    for i in range(D):
        equal = (z[:, i][:, None] == z[:, i][None]).double()
        expected.append(torch.trace(equal @ centre @ kernel @ centre) / (n - 1) ** 2)
    found = HSIC(net).attribute(x, base, target=2, n_samples=n, seed=5)
    assert torch.allclose(found[1], torch.stack(expected), atol=1e-6)


def test_cells_of_pictures_and_what_cannot_be(image: Tensor) -> None:
    for cls in (Sobol, HSIC):
        found = cls(bright_spot).attribute(image, n_samples=64, grid_size=4, seed=0)
        cells = found[0, 0].reshape(4, 4, 4, 3)
        assert bool((cells == cells[:, :1, :, :1]).all())  # constant within a cell
        # The spot is four columns wide, a cell three: two cells have all of it.
        assert set(found[0, 0].flatten().topk(24).indices.tolist()) == {12 * r + c for r in range(4) for c in range(6)}
        with pytest.raises(InputError, match="A variance needs at least two samples; got n_samples=1"):
            cls(bright_spot).attribute(image, n_samples=1)
    with pytest.raises(InputTypeError, match=r"inputs\[0\] is int64, and Sobol shows cells with strengths"):
        Sobol(lambda z: z.sum(1)).attribute(torch.ones(1, 3, dtype=torch.long))
    with pytest.raises(InputError, match="a design of 22000 dimensions; at most 21201"):
        Sobol(lambda z: z.sum(1)).attribute(torch.ones(1, 11_000))
    assert not Sobol(lambda z: z.sum(1) * 0).attribute(torch.ones(1, 3), n_samples=4).any()


# -- Owen values -------------------------------------------------------------------------------------------------


def orders(tree: Any) -> Iterator[tuple[int, ...]]:
    """All orders in which no group is interrupted."""
    if not isinstance(tree, tuple):
        yield (tree,)
        return
    left, right = tree
    for a, b in itertools.product(list(orders(left)), list(orders(right))):
        yield a + b
        yield b + a


TREE = ((0, (1, 2)), (3, 4))


def slow_owen(f: Any, x: Tensor, base: Tensor) -> Tensor:
    """The mean marginal contribution over those orders."""
    found = torch.zeros(D, dtype=torch.float64)
    every = list(orders(TREE))
    for order in every:
        z = base[0].clone()
        for i in order:
            before = f(z[None])[0].detach()
            z[i] = x[i]
            found[i] += f(z[None])[0].detach() - before
    return found / len(every)


def test_owen_values_are_the_mean_over_uninterrupted_orders(net: nn.Module, x: Tensor, base: Tensor) -> None:
    found = OwenValues(net).attribute(x, base, target=1, hierarchy=TREE, max_evals=None)
    for sample, row in zip(x, found):
        assert torch.allclose(row, slow_owen(lambda z: net(z)[:, 1], sample, base), atol=1e-12)


@pytest.mark.parametrize("max_evals", [1, 4, 8, 20, 500])
@row_probe(False)
def test_owen_values_are_complete_for_any_budget(net: nn.Module, x: Tensor, base: Tensor, max_evals: int) -> None:
    rows: list[int] = []

    def model(z: Tensor) -> Tensor:
        rows.append(len(z))
        return net(z)[:, 1]

    found = OwenValues(model).attribute(x, base, max_evals=max_evals)
    assert torch.allclose(found.sum(1), (model(x) - model(base)).detach())
    assert sum(rows[:-2]) <= max(max_evals, 2) * 2 + 1  # two samples; one row tells that rows are samples


@pytest.mark.parametrize("nobodies", [(1,), (1, 2), (0, 3), (0, 1, 2), (0, 1, 2, 4), (0, 1, 2, 3, 4)])
@row_probe(False)
def test_owen_values_ask_no_rows_for_features_that_are_as_their_baseline(
    net: nn.Module, x: Tensor, base: Tensor, nobodies: tuple[int, ...]
) -> None:
    rows: list[Tensor] = []

    def model(z: Tensor) -> Tensor:
        rows.extend(z)
        return net(z)[:, 1]

    sample = x[:1].clone()
    sample[:, list(nobodies)] = base[:, list(nobodies)]
    how: dict[str, Any] = {"hierarchy": TREE, "progress": False}
    found = OwenValues(model).attribute(sample, base, max_evals=None, **how)
    assert torch.allclose(found[0], slow_owen(lambda z: net(z)[:, 1], sample[0], base), atol=1e-12)
    assert len(rows) == len({tuple(z.tolist()) for z in rows}) or len(nobodies) >= D - 1  # then both ends are all
    assert len(rows) <= 2 ** (D - len(nobodies)) or len(nobodies) == D
    undivided = OwenValues(model).attribute(sample, base, max_evals=2, **how)
    assert not found[:, list(nobodies)].any() and not undivided[:, list(nobodies)].any()
    shares = undivided[undivided != 0]
    assert torch.allclose(shares, shares.mean().expand_as(shares)) and len(shares) == D - len(nobodies)


@row_probe(False)
def test_owen_values_of_two_samples_are_those_of_each(net: nn.Module, x: Tensor, base: Tensor) -> None:
    samples = x.clone()
    samples[0, :2], samples[1, 4] = base[0, :2], base[0, 4]
    how: dict[str, Any] = {"target": [0, 2], "hierarchy": TREE, "max_evals": 9}
    both = OwenValues(net).attribute(samples, base, **how)
    for i, target in enumerate((0, 2)):
        alone = OwenValues(net).attribute(samples[i : i + 1], base, **{**how, "target": target})
        assert torch.allclose(alone[0], both[i], atol=1e-12)


def test_owen_values_spend_their_budget_where_the_score_is(image: Tensor) -> None:
    with collect() as report:
        found = OwenValues(bright_spot).attribute(image, max_evals=120)
    assert report["n_evals"][0] <= 120
    assert not found[..., 4:, :].any() and not found[..., 6:].any()  # halves of 12 columns end at 6
    assert float(found[..., :4, :4].sum()) > 0.7 * float(found.sum())
    fewer = OwenValues(bright_spot).attribute(image, max_evals=20)
    assert float(fewer[..., :4, :4].sum()) < float(found[..., :4, :4].sum())


def test_hierarchies_that_cannot_be(net: nn.Module, x: Tensor) -> None:
    def owen(hierarchy: Any, **more: Any) -> Any:
        return OwenValues(net).attribute(x, target=0, hierarchy=hierarchy, **more)

    with pytest.raises(InputError, match="names the feature 9, but feature_mask's numbers are"):
        owen(((0, 1), (2, (3, 9))))
    with pytest.raises(InputError, match=r"must name each of the 5 features once; it names 4 \(4 different\)"):
        owen(((0, 1), (2, 3)))
    with pytest.raises(InputTypeError, match="nested tuples of feature_mask's numbers; got str 'a'"):
        owen(("a", 1))
    with pytest.raises(InputError, match="has an empty group"):
        owen(((), 1))
    with pytest.raises(InputError, match="feature_mask with batch dimension 1"):
        owen(None, feature_mask=torch.tensor([[0, 1, 1, 2, 2], [0, 0, 1, 2, 2]]))
    flat = owen((0, 1, 2, 3, 4), max_evals=None)  # more than two parts: the first and the rest
    assert torch.allclose(flat, owen((0, (1, (2, (3, 4)))), max_evals=None))


# -- interactions ------------------------------------------------------------------------------------------------


def slow_interactions(f: Any, x: Tensor, base: Tensor, weight: Any) -> Tensor:
    """Pair by pair, coalition by coalition, from the definition."""

    def v(s: tuple[int, ...]) -> Tensor:
        z = base[0].clone()
        z[list(s)] = x[list(s)]
        return f(z[None])[0].detach()

    found = torch.zeros(D, D, dtype=torch.float64)
    for i, j in itertools.permutations(range(D), 2):
        rest = [k for k in range(D) if k not in (i, j)]
        for s in (s for size in range(D - 1) for s in itertools.combinations(rest, size)):
            found[i, j] += weight(len(s)) * (v((*s, i, j)) - v((*s, i)) - v((*s, j)) + v(s))
    return found


WEIGHTS = {
    "sii": lambda s: math.factorial(s) * math.factorial(D - s - 2) / math.factorial(D - 1),
    "sti": lambda s: 2 / D / math.comb(D - 1, s),
}


@pytest.mark.parametrize("index", WEIGHTS)
def test_interactions_are_those_of_the_definition(net: nn.Module, x: Tensor, base: Tensor, index: str) -> None:
    f = lambda z: net(z)[:, 1]  # noqa: E731
    found = ShapleyInteractions(f).attribute(x, base, index=index)
    for sample, matrix in zip(x, found):
        off = matrix - torch.diag(matrix.diagonal())
        assert torch.allclose(2 * off, slow_interactions(f, sample, base, WEIGHTS[index]), atol=1e-12)
    change = (f(x) - f(base)).detach()
    assert torch.allclose(found.sum((1, 2)), change)
    if index == "sii":
        assert torch.allclose(found.sum(2), ShapleyValues(f).attribute(x, base))
    else:
        alone = torch.stack([f(torch.where(torch.arange(D) == i, x, base)) - f(base) for i in range(D)], 1)
        assert torch.allclose(found.diagonal(dim1=1, dim2=2), alone.detach())


@pytest.mark.parametrize("n_samples", [2, 12])
@pytest.mark.parametrize("index", WEIGHTS)
def test_sampled_interactions_are_unbiased_and_complete(index: str, n_samples: int) -> None:
    """With two orders from orders, with more from a quadratic fit; 11 features, two samples, forty seeds."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(11, 24), nn.ReLU(), nn.Linear(24, 2)).double().requires_grad_(False)
    x, base = torch.randn(2, 11).double(), torch.randn(1, 11).double()
    method = ShapleyInteractions(net)
    exact, found, errors = method.attribute(x, base, target=0, index=index), [], []
    for seed in range(40):
        with collect() as report:
            found.append(method.attribute(x, base, 0, n_samples=n_samples, index=index, seed=seed))
        errors.append(report["standard_error"][:, 0])
    many, stated = torch.stack(found), torch.stack(errors)
    assert torch.allclose(many.sum((2, 3)), (net(x) - net(base))[:, 0].expand(40, 2))
    spread = many.std(0) / 40**0.5
    uneven = spread > 1e-9  # the first order of "sti" is exact
    assert float(((many.mean(0) - exact)[uneven] / spread[uneven]).square().mean()) < 1.8
    ratio = (many - exact).square().mean().sqrt() / stated[stated.isfinite()].square().mean().sqrt()
    assert n_samples == 2 or 0.5 < float(ratio) < 1.1, ratio


@pytest.mark.parametrize("index", WEIGHTS)
def test_leftovers_of_all_rows_are_counted_as_row_by_row(net: nn.Module, x: Tensor, index: str) -> None:
    """Mean and mean square of the rows' matrices are products of switches; here each matrix is made by its formula."""
    pair = torch.tensor([WEIGHTS[index](s) for s in range(D - 1)], dtype=torch.float64)
    alone = torch.tensor([1 / (D * math.comb(D - 1, s)) for s in range(D)], dtype=torch.float64)
    with prepared(net, x[:1], 1) as (xs, forward):
        fitted = FittedInteractions(Game(forward, xs), index, PairWeights(pair, alone), torch.Generator())
    draw = torch.Generator().manual_seed(0)
    first = torch.rand(40, D, generator=draw).argsort(1).argsort(1) < torch.randint(1, D, (40, 1), generator=draw)
    z, rest = torch.stack([first, ~first], 1), torch.randn(40, 2, 3, generator=draw).double()

    def told(row: Tensor, values: Tensor) -> Tensor:
        found, own = torch.zeros(D, D).double(), torch.zeros(D).double()
        for s, value in zip(row.tolist(), (values * math.comb(D, int(row[0].sum())) * (D - 1) / 2).tolist()):
            size = sum(s)
            for i, j in itertools.permutations(range(D), 2):
                found[i, j] += (1 if s[i] == s[j] else -1) * pair[size - s[i] - s[j]] * value
            own += torch.tensor([(1 if here else -1) * alone[size - here] * value for here in s])
        if index == "sti":
            return (found - found.sum() / (D * (D - 1)) * (1 - torch.eye(D))) / 2
        return found / 2 + torch.diag(own - own.mean() - found.sum(1) / 2)

    each = torch.stack([torch.stack([told(row, v[:, c]) for c in range(3)]) for row, v in zip(z, rest)])
    sizes = [17, 12, 11]
    within = [(n / 40) ** 2 * part.var(0) / n for n, part in zip(sizes, each.split(sizes))]
    mean, variance = fitted._moments(z, rest, sizes)
    assert torch.allclose(mean, each.mean(0), atol=1e-13) and torch.allclose(variance, sum(within), atol=1e-13)


def test_a_quadratic_fit_needs_a_quarter_of_the_rows_of_orders() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 1)).double().requires_grad_(False)
    x = torch.randn(1, 12).double()
    exact = ShapleyInteractions(net).attribute(x, target=0)
    off = ~torch.eye(12, dtype=torch.bool)

    def error(run: Any, n_samples: int) -> float:
        found = [run(n_samples, seed) for seed in range(8)]
        return float(np.median([float((f - exact)[0][off].norm() / exact[0][off].norm()) for f in found]))

    def fitted(n_samples: int, seed: int) -> Tensor:
        return ShapleyInteractions(net).attribute(x, target=0, n_samples=n_samples, seed=seed)

    def orders(n_samples: int, seed: int) -> Tensor:
        parts = [fitted(2, 1000 * seed + k) for k in range(n_samples // 2)]
        return torch.stack(parts).mean(0)

    assert error(fitted, 6) < error(orders, 24)
    assert torch.allclose(fitted(60, 0), exact)  # as many rows as there are coalitions: all of them


def test_interactions_to_a_tolerance_do_not_depend_on_neighbours_or_chunks() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(11, 24), nn.ReLU(), nn.Linear(24, 2)).double().requires_grad_(False)
    x, method = torch.randn(3, 11).double(), ShapleyInteractions(net)
    how: dict[str, Any] = {"target": 1, "n_samples": 4, "tol": 0.12, "max_samples": 60, "seed": 3}
    with collect() as report:
        together = method.attribute(x, **how)
    assert len(set(report["n_draws"])) > 1 and max(report["map_error"]) <= 0.12
    exact = method.attribute(x, target=1)
    for i in range(3):
        assert torch.allclose(method.attribute(x[i : i + 1], batch_size=7, **how)[0], together[i], atol=1e-9)
        assert float((together[i] - exact[i]).norm() / exact[i].norm()) < 0.12


def test_interactions_are_exact_where_a_quarter_more_rows_are_all() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0)).double()
    x = torch.randn(1, 8, dtype=torch.float64)
    exact = ShapleyInteractions(net).attribute(x)
    assert torch.equal(ShapleyInteractions(net).attribute(x, n_samples=6, seed=0), exact)  # 216 rows of 256
    assert not torch.allclose(ShapleyInteractions(net).attribute(x, n_samples=5, seed=0), exact)


def test_product_interacts_and_a_sum_does_not() -> None:
    x = torch.tensor([[2.0, 3.0, 5.0]], dtype=torch.float64)
    found = ShapleyInteractions(lambda z: z[:, 0] * z[:, 1] + z[:, 2]).attribute(x)[0]
    assert torch.allclose(found, torch.tensor([[0.0, 3, 0], [3, 0, 0], [0, 0, 5]], dtype=torch.float64))
    with pytest.raises(InputError, match=r"Unknown index 'sit'\. Did you mean 'sti'"):
        ShapleyInteractions(lambda z: z.sum(1)).attribute(x, index="sit")
    with pytest.raises(InputError, match=r"d = 22 .* use n_samples=\.\.\."):
        ShapleyInteractions(lambda z: z.sum(1)).attribute(torch.ones(1, 22))


# -- explain -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rise", "sobol", "hsic", "partition_shap", "shapley", "kernelshap", "lime", "svs"])
def test_explain_knows_good_defaults_for_pictures(name: str, image: Tensor) -> None:
    small = {"n_samples": 8} if name not in ("partition_shap", "shapley") else {}
    exp = explain(lambda z: torch.stack([bright_spot(z), z.mean((1, 2, 3))], 1), image, name, target=0, **small)[0]
    assert exp.attribution.shape == image.shape and bool(torch.isfinite(exp.attribution).all())


@pytest.mark.parametrize("method", ["occlusion", "feature_ablation"])
def test_what_equals_the_baseline_changes_nothing_exactly(method: str) -> None:
    """Whatever rounding does to a row's score in batches of different size: here it is made to."""

    def score(x: Tensor) -> Tensor:
        return x.sum((1, 2, 3)) + 1e-3 * len(x)

    x = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(0)) + 0.1
    x[:, :, :2] = 0.0
    cells = (torch.arange(6)[:, None] // 2 * 3 + torch.arange(6) // 2).expand(1, 2, 6, 6)
    if method == "occlusion":
        found = Occlusion(score).attribute(x, (2, 2, 2), strides=(2, 2, 2), batch_size=4)
    else:
        found = FeatureAblation(score).attribute(x, feature_mask=cells, batch_size=4)
    assert not found[:, :, :2].any() and found[:, :, 2:].all()
