"""Metrics that ask the model: values worked out by hand, slow references written from the papers, what is refused."""

from __future__ import annotations

import itertools
import math
import zlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp_plugins import metrics as im
from interp_plugins.core.errors import InputError, InputTypeError, UnknownNameError
from interp_plugins.metrics.imputed import imputed, neighbours
from interp_plugins.metrics.information import compressed_size
from interp_plugins.metrics.subsets import EVERY, Subsets
from tests.thorough import times

W = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
ONES = torch.ones(1, 4)
MIXED = torch.tensor([[2.0, 3.0, 1.0, 1.0]])


def linear(x: Tensor) -> Tensor:
    return (x * W).sum(1)


def product(x: Tensor) -> Tensor:
    return x[:, 0] * x[:, 1] + x[:, 2] + x[:, 3]


def falling(x: Tensor) -> Tensor:
    return (x * torch.tensor([[1.0, -2.0, 3.0, 4.0]])).sum(1)


def fifth(x: Tensor) -> Tensor:
    return 0.2 * x.sum(1)


def over(factor: float):
    """A model whose score is .8, and factor times that where the last element is gone."""
    return lambda x: torch.where(x[:, 3] == 0, 0.8 * factor, 0.8)


LAST_GONE = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
ALIKE = torch.tensor([[3.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
SAME, OTHER = torch.tensor([[1.0, 0.0]] * 4), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
HALF_NORMAL = math.sqrt(2 / math.pi)

BY_HAND = [
    ("an exact map, subsets of two", lambda: im.faithfulness_correlation(linear, ONES, W, subset_size=2), 1.0),
    ("an exact map, a share", lambda: im.faithfulness_correlation(linear, ONES, W), 1.0),
    ("the opposite map", lambda: im.faithfulness_correlation(linear, ONES, -W, subset_size=2), -1.0),
    ("cells of a row are its elements", lambda: im.mu_fidelity(linear, ONES, W), 1.0),
    ("every n", lambda: im.sensitivity_n(linear, ONES, W), 1.0),
    ("n = 1 of a product", lambda: im.sensitivity_n(product, MIXED, torch.tensor([[3.0, 3, 1, 1]]), n=1), 1.0),
    ("n = 2", lambda: im.sensitivity_n(product, MIXED, torch.tensor([[3.0, 3, 1, 1]]), n=2), math.sqrt(0.4)),
    ("n = 3", lambda: im.sensitivity_n(product, MIXED, torch.tensor([[3.0, 3, 1, 1]]), n=3), -1.0),
    ("one by one", lambda: im.faithfulness_estimate(linear, ONES, W), 1.0),
    ("a gradient is exact for any noise", lambda: im.map_infidelity(linear, MIXED, W), 0.0),
    ("single removals", lambda: im.map_infidelity(linear, ONES, ONES, perturb="singles"), 3.5),
    ("the best factor", lambda: im.map_infidelity(linear, ONES, ONES, perturb="singles", normalize=True), 1.25),
    ("subsets of an exact map", lambda: im.map_infidelity(linear, ONES, W, perturb="subsets"), 0.0),
    ("f rises", lambda: im.monotonicity(linear, ONES, W), 1.0),
    ("f falls once", lambda: im.monotonicity(falling, ONES, torch.tensor([[1.0, -2.0, 3.0, 4.0]])), 0.0),
    ("three of four steps", lambda: im.monotonicity(falling, ONES, W, share=True), 0.75),
    ("sizes", lambda: im.monotonicity_correlation(linear, ONES, -W, replacement="baseline"), 1.0),
    ("from .8 to .6", lambda: im.average_drop(over(0.75), ONES, LAST_GONE), 0.25),
    ("no gain", lambda: im.average_gain(over(0.75), ONES, LAST_GONE), 0.0),
    ("no increase", lambda: im.average_increase(over(0.75), ONES, LAST_GONE), 0.0),
    ("from .8 to .9", lambda: im.average_drop(over(1.125), ONES, LAST_GONE), 0.0),
    ("half of what was missing", lambda: im.average_gain(over(1.125), ONES, LAST_GONE), 0.5),
    ("an increase", lambda: im.average_increase(over(1.125), ONES, LAST_GONE), 1.0),
    ("equal maps, one class", lambda: im.consistency_classes(lambda v: v, SAME, ALIKE, k=1)[:1], 1.0),
    ("equal maps, two classes", lambda: im.consistency_classes(lambda v: v, OTHER, ALIKE, k=1)[:1], 0.0),
    ("maps alike, one class", lambda: im.sufficiency_classes(lambda v: v, SAME, ALIKE)[:1], 1.0),
    ("maps alike, two classes", lambda: im.sufficiency_classes(lambda v: v, OTHER, ALIKE)[:1], 0.0),
]


@pytest.mark.parametrize(("found", "expected"), [c[1:] for c in BY_HAND], ids=[c[0] for c in BY_HAND])
def test_worked_out_by_hand(found, expected: float) -> None:
    value = found()
    assert value.dtype == torch.float64 and value.shape == (1,)
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_means_over_draws_are_near_their_expectation() -> None:
    n = times(4000, 40000)
    seven = im.map_infidelity(linear, MIXED, 7 * W, sd=1.0, relative=False, n_perturb_samples=n).item()
    assert seven == pytest.approx(1080, rel=5 * math.sqrt(2 / n))  # (I . 6 w)^2 = 36 w.w of one square of a normal
    relative = im.map_infidelity(linear, MIXED, 7 * W, sd=0.1, n_perturb_samples=n).item()
    assert relative == pytest.approx(1080 * 0.2**2, rel=5 * math.sqrt(2 / n))  # a tenth of the spread, 3 - 1
    for important, size in ((True, 5.0), (False, math.sqrt(5))):
        gap = im.prediction_gap(linear, ONES, W, k=2, sd=1.0, relative=False, n_draws=n, important=important).item()
        assert gap == pytest.approx(size * HALF_NORMAL, rel=5 * 0.76 / math.sqrt(n))


# -- slow references -----------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


NET = Net()
G = torch.Generator().manual_seed(1)
X, A, B = (torch.randn(3, 6, generator=G).double() for _ in range(3))


def f(x: np.ndarray) -> float:
    with torch.no_grad():
        return NET(torch.from_numpy(x)[None])[0, 1].item()


def without(i: int, subset: tuple[int, ...]) -> np.ndarray:
    x = X[i].numpy().copy()
    for k in subset:
        x[k] = B[i, k].item()
    return x


def pearson(a: list[float], b: list[float]) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def ranks(values: list[float]) -> list[float]:
    return [float(sorted(values).index(v)) for v in values]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_correlations_over_all_subsets_are_the_slow_ones(size: int) -> None:
    options = {"target": 1, "n_subsets": 20}
    found = im.faithfulness_correlation(NET, X, A, B, subset_size=size, **options)
    by_rank = im.mu_fidelity(NET, X, A, B, share=size / 6, **options)
    curve = im.sensitivity_curve(NET, X, A, B, n=(1, 2, 3), **options)
    fidelity = im.map_infidelity(NET, X, A, B, perturb="subsets", subset_size=size, target=1, n_perturb_samples=20)
    for i in range(3):
        subsets = list(itertools.combinations(range(6), size))  # 6, 15 and 20 of them: all are taken
        falls = [f(X[i].numpy()) - f(without(i, s)) for s in subsets]
        sums = [sum(A[i, k].item() for k in s) for s in subsets]
        assert found[i].item() == pytest.approx(pearson(falls, sums))
        assert by_rank[i].item() == pytest.approx(pearson(ranks(falls), ranks(sums)))
        assert curve.correlation[i, size - 1].item() == pytest.approx(found[i].item())
        assert fidelity[i].item() == pytest.approx(np.mean([(p - q) ** 2 for p, q in zip(sums, falls)]))
    assert torch.allclose(curve.mean, curve.correlation.mean(1))


def test_singles_are_the_slow_ones() -> None:
    estimate = im.faithfulness_estimate(NET, X, A, B, target=1)
    sizes = im.monotonicity_correlation(NET, X, A, B, target=1, replacement="baseline")
    for i in range(3):
        falls = [f(X[i].numpy()) - f(without(i, (k,))) for k in range(6)]
        assert estimate[i].item() == pytest.approx(pearson(falls, A[i].tolist()))
        squares = [v**2 for v in falls]
        assert sizes[i].item() == pytest.approx(pearson(ranks(squares), ranks(A[i].abs().tolist())))
    one_row = torch.linspace(0, 1, 6).double()[None]
    drawn = im.monotonicity_correlation(NET, X, A, B, target=1, replacement=one_row)
    for i in range(3):
        squares = []
        for k in range(6):
            x = X[i].numpy().copy()
            x[k] = one_row[0, k].item()
            squares.append((f(X[i].numpy()) - f(x)) ** 2)
        assert drawn[i].item() == pytest.approx(pearson(ranks(squares), ranks(A[i].abs().tolist())))


def test_features_are_removed_together_and_what_other_samples_have_does_not_matter() -> None:
    features = torch.tensor([[0, 0, 1, 1, 2, 3], [5, 5, 5, 9, 9, 9], [0, 1, 2, 3, 4, 5]])
    together = im.faithfulness_estimate(NET, X, A, B, target=1, features=features)
    for i in range(3):
        groups = [tuple((features[i] == k).nonzero().flatten().tolist()) for k in features[i].unique()]
        falls = [f(X[i].numpy()) - f(without(i, g)) for g in groups]
        assert together[i].item() == pytest.approx(pearson(falls, [A[i, list(g)].sum().item() for g in groups]))
        alone = im.faithfulness_estimate(NET, X[i : i + 1], A[i : i + 1], B[i : i + 1], target=1, features=features[i])
        assert alone.item() == together[i].item()
    other = im.sensitivity_n(NET, X, A, B, target=1, features=features, ids=torch.tensor([4, 5, 6]))
    alone = im.sensitivity_n(NET, X[:1], A[:1], B[:1], target=1, features=features[0], ids=torch.tensor([4]))
    assert other[0].item() == alone.item()


def test_a_rising_curve_and_masks_are_the_slow_ones() -> None:
    shares = im.monotonicity(NET, X, A, B, target=1, share=True)
    drop, increase, gain = (
        getattr(im, f"average_{name}")(NET, X, A, B, target=1) for name in ("drop", "increase", "gain")
    )
    for i in range(3):
        x, scores = B[i].numpy().copy(), [f(B[i].numpy())]
        for k in np.argsort(A[i].numpy()):
            x[k] = X[i, k].item()
            scores.append(f(x))
        assert shares[i].item() == pytest.approx(np.mean([b >= a for a, b in itertools.pairwise(scores)]))
        m = (A[i] - A[i].min()) / (A[i].max() - A[i].min())
        p, q = (NET(v[None]).softmax(1)[0, 1].item() for v in (X[i], B[i] + m * (X[i] - B[i])))
        expected = [max(0, p - q) / p, float(q > p), max(0, q - p) / (1 - p)]
        assert [drop[i].item(), increase[i].item(), gain[i].item()] == pytest.approx(expected)


# -- draws ---------------------------------------------------------------------------------------------------------


def test_random_subsets_have_their_size_and_every_feature_and_pair_is_as_frequent() -> None:
    count, total, size = times(4000, 40000), 30, 12
    subsets = Subsets(torch.tensor([total]), torch.tensor([[size]]), count, 3, torch.tensor([7]))
    removed = subsets.removed(torch.arange(count)).double()
    assert removed.sum(1).unique().tolist() == [size]
    for found, p in (
        (removed.mean(0), size / total),
        ((removed.T @ removed / count)[~torch.eye(total, dtype=torch.bool)], size * (size - 1) / total / (total - 1)),
        ((removed[:-1] * removed[1:]).mean(0), (size / total) ** 2),
    ):
        assert ((found - p).abs() < 5.5 * math.sqrt(p * (1 - p) / count)).all()
    other = Subsets(torch.tensor([total]), torch.tensor([[size]]), count, 4, torch.tensor([7]))
    assert abs((other.removed(torch.arange(count)).double() * removed).mean() - (size / total) ** 2) < 0.01


def test_few_subsets_are_all_taken_once() -> None:
    subsets = Subsets(torch.tensor([4, 6]), torch.tensor([[2], [1]]), EVERY, 0, None)
    rows = subsets.removed(torch.arange(len(subsets)))
    assert len(subsets) == 6 + 6 and len(rows.unique(dim=0)) == 12
    assert rows[:6].sum(1).tolist() == [2] * 6 and rows[6:].sum(1).tolist() == [1] * 6


# -- pictures filled in --------------------------------------------------------------------------------------------


def plane() -> Tensor:
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    return (2 + 3 * x + 5 * y).double()[None, None]


def test_a_plane_comes_back_and_a_corner_is_the_mean_of_its_neighbours() -> None:
    inner = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    inner[0, 0, 1, 2] = inner[0, 0, 1, 3] = inner[0, 0, 2, 2] = inner[0, 0, 2, 3] = True
    assert torch.allclose(imputed(plane(), inner, torch.zeros(1), tol=1e-10), plane(), atol=1e-7)
    corner = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    corner[0, 0, 0, 0] = True
    assert imputed(plane(), corner, torch.zeros(1), tol=1e-10)[0, 0, 0, 0].item() == pytest.approx(6.8)
    everything = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    assert torch.equal(
        imputed(plane(), everything, torch.full((1, 1, 6, 6), 0.5)), torch.full((1, 1, 6, 6), 0.5).double()
    )
    constant = imputed(torch.full((1, 2, 6, 6), 0.3), inner, torch.zeros(1))
    assert torch.allclose(constant, torch.full((1, 2, 6, 6), 0.3))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_filling_in_solves_the_papers_system(share: float) -> None:
    g = torch.Generator().manual_seed(int(share * 100))
    x = torch.randn(2, 3, 7, 9, generator=g).double()
    removed = torch.rand(2, 1, 7, 9, generator=g) < share
    found = imputed(x, removed, torch.zeros(1), tol=1e-10)
    for i in range(2):
        places = [tuple(p) for p in removed[i, 0].nonzero().tolist()]
        matrix, right = np.eye(len(places)), np.zeros((len(places), 3))
        for row, (y, z) in enumerate(places):
            near = [(y + dy, z + dz, (1 / 6 if 0 in (dy, dz) else 1 / 12)) for dy in (-1, 0, 1) for dz in (-1, 0, 1)]
            near = [(p, q, w) for p, q, w in near if (p, q) != (y, z) and 0 <= p < 7 and 0 <= q < 9]
            whole = sum(w for _, _, w in near)
            for p, q, w in near:
                if (p, q) in places:
                    matrix[row, places.index((p, q))] -= w / whole
                else:
                    right[row] += w / whole * x[i, :, p, q].numpy()
        expected = np.linalg.solve(matrix, right)
        got = found[i].permute(1, 2, 0)[removed[i, 0]].numpy()
        np.testing.assert_allclose(got, expected, atol=1e-6)
        assert torch.equal(found[i][:, ~removed[i, 0]], x[i][:, ~removed[i, 0]])
    assert torch.allclose(imputed(x.float(), removed, torch.zeros(1)).double(), found, atol=0.01)
    assert neighbours(torch.ones(1, 1, 3, 3))[0, 0].tolist() == [[5, 8, 5], [8, 12, 8], [5, 8, 5]]


def test_road_keeps_the_class_where_the_pixels_that_decide_stay() -> None:
    """The class is whether the upper left quarter has an edge, which filling in removes."""
    x = torch.zeros(2, 1, 8, 8)
    x[0, 0, 1:3, 1:3] = 1
    x[1, 0, 1:3, 1:3] = 1
    right = torch.zeros(2, 1, 8, 8)
    right[:, :, :4, :4] = 1

    def model(v: Tensor) -> Tensor:
        edge = (v[:, 0, :4, :3] - v[:, 0, :4, 1:4]).abs().amax((1, 2))
        return torch.stack([edge, torch.full_like(edge, 0.5)], 1)

    curves = im.road_curves(model, x, right, percentages=(25, 50))
    assert curves.morf.tolist() == [[0, 0]] * 2 and curves.lerf.tolist() == [[1, 1]] * 2
    assert im.road(model, x, right, percentages=(25, 50)).tolist() == [1, 1]
    assert im.road(model, x, -right, percentages=(25, 50)).tolist() == [-1, -1]
    assert im.road(model, x, right, percentages=(25, 50), order="morf").tolist() == [0, 0]
    kept = im.road_curves(model, x, right, percentages=(25,), measure="probability", target=0, sd=0)
    p = [torch.tensor([e, 0.5]).softmax(0)[0].item() for e in (1.0, 0.0)]
    assert kept.lerf[:, 0].tolist() == pytest.approx([1, 1]) and kept.morf[0, 0].item() == pytest.approx(p[1] / p[0])
    assert im.metric("road", order="morf").higher_is_better is False and im.metric("road").higher_is_better is True
    series = im.road_curves(lambda v: v.flatten(1), torch.randn(2, 3, 9), torch.randn(2, 3, 9), percentages=(100,))
    assert series.morf.shape == (2, 1)
    last = im.road(lambda v: model(v.movedim(-1, 1)), _channels_last(x, right), percentages=(25, 50))
    assert last.tolist() == [1, 1]


def _channels_last(x: Tensor, maps: Tensor):
    from interp_plugins.core.explanation import Explanation
    from interp_plugins.core.spec import InputSpec

    x, maps = (v.expand(-1, 3, -1, -1).movedim(1, -1) for v in (x, maps))
    return Explanation(maps, x, "m", target=(0, 0), spec=InputSpec("image", layout="last"))


# -- information ---------------------------------------------------------------------------------------------------


def test_information_curves_are_the_slow_ones() -> None:
    g = torch.Generator().manual_seed(0)
    x, a = torch.rand(2, 3, 12, 12, generator=g), torch.rand(2, 1, 12, 12, generator=g)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 4)).eval()
    found = im.sic(net, x, a, 0.0, steps=6, target=2), im.aic(net, x, a, 0.0, steps=6)
    for i in range(2):
        order = a[i, 0].flatten().argsort(descending=True)
        sizes, kept, same = [], [], []
        with torch.no_grad():
            whole = net(x[i : i + 1]).softmax(1)[0]
            for k in range(7):
                mask = torch.zeros(144)
                mask[order[: round(k * 144 / 6)]] = 1
                one = x[i] * mask.reshape(1, 12, 12)
                p = net(one[None]).softmax(1)[0]
                levels = ((one - x[i].min()).double() * 255 / (x[i].max() - x[i].min()).double()).round().clamp(0, 255)
                bytes_ = levels.numpy().astype(np.uint8)
                changes = bytes_.copy()
                changes[..., 1:] = bytes_[..., 1:] - bytes_[..., :-1]
                sizes.append(len(zlib.compress(changes.tobytes(), 6)))
                kept.append(min(1.0, (p[2] / whole[2]).item()))
                same.append(float(p.argmax() == whole.argmax()))
        share = [(s - sizes[0]) / (sizes[-1] - sizes[0]) for s in sizes]
        for values, area in zip((kept, same), found):
            points = sorted(zip(share, values, range(7)), key=lambda t: (t[0], t[2]))
            best, expected = 0.0, 0.0
            for j, (s, v, _) in enumerate(points):
                before, best = best, max(best, v)
                expected += 0 if j == 0 else (s - points[j - 1][0]) * (before + best) / 2
            assert area[i].item() == pytest.approx(expected, abs=1e-6)


def test_a_model_that_sees_from_half_of_the_information_on_scores_a_half() -> None:
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    blank, whole = (compressed_size((v[0] * 255).round().to(torch.uint8)) for v in (0 * x, x))
    low, high = x.min(), x.max()

    def model(v: Tensor) -> Tensor:
        levels = ((v - low) * 255 / (high - low)).round().clamp(0, 255).to(torch.uint8)
        sizes = torch.tensor([compressed_size(one) for one in levels]).double()
        return ((sizes - blank) / (whole - blank) > 0.5).double()

    a = torch.arange(1024.0).flip(0).reshape(1, 1, 32, 32)  # row by row, so information grows evenly
    assert im.sic(model, x, a, 0.0, steps=100).item() == pytest.approx(0.5, abs=0.03)
    score = im.metric("aic").of(a, model=model, inputs=x)
    assert any("zlib" in name for name in score.versions)


# -- data sets -----------------------------------------------------------------------------------------------------


def first_three(x: Tensor) -> Tensor:
    return x[:, :3]


def test_classes_are_compared_over_the_whole_data_set_and_not_over_batches() -> None:
    g = torch.Generator().manual_seed(0)
    x, a = torch.randn(40, 5, generator=g), torch.randn(40, 5, generator=g)
    for name, params in (("consistency_classes", {"k": 2}), ("sufficiency_classes", {"alike": 0.7})):
        m = im.metric(name, **params)
        for rows in torch.arange(40).split(7):
            m.update(a[rows], ids=rows, model=first_three, inputs=x[rows])
        found = m.compute()
        assert torch.equal(found.values.nan_to_num(9), getattr(im, name)(first_three, x, a, **params).nan_to_num(9))
        assert 0 < found.n_undefined < 40 and set(found.undefined) == {"no other sample has an alike map"}
        classes = x[:, :3].argmax(1)
        for i in range(40):
            if name == "consistency_classes":
                keys = [frozenset((k, a[j, k] > 0) for k in a[j].abs().topk(2).indices.tolist()) for j in range(40)]
                keys = [frozenset((k, bool(s)) for k, s in key) for key in keys]
                near = [j for j in range(40) if j != i and keys[j] == keys[i]]
            else:
                near = [j for j in range(40) if j != i and im.cosine_similarity(a[i : i + 1], a[j : j + 1]) >= 0.7]
            expected = np.mean([bool(classes[j] == classes[i]) for j in near]) if near else math.nan
            assert found.values[i].item() == pytest.approx(expected, nan_ok=True)
        halves = [im.metric(name, **params) for _ in range(2)]
        for half, rows in zip(halves, (torch.arange(25), torch.arange(20, 40))):
            half.update(a[rows], ids=rows, model=first_three, inputs=x[rows])
        assert torch.equal(halves[0].merge(halves[1]).compute().values.nan_to_num(9), found.values.nan_to_num(9))


# -- what is refused and what is undefined -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: im.faithfulness_correlation(linear, ONES, W, n_subsets=1), InputError, "n_subsets must be an int"),
        (lambda: im.faithfulness_correlation(linear, ONES, W, subset_size=5), InputError, "subset_size must be an int"),
        (lambda: im.sensitivity_n(linear, ONES, W, n=0), InputError, "n must be an int from 1"),
        (lambda: im.mu_fidelity(linear, ONES, W, grid=0), InputError, "grid must be a positive int"),
        (lambda: im.mu_fidelity(linear, ONES, W, share=1.0), InputError, r"share must be a number in \(0, 1\)"),
        (lambda: im.monotonicity_correlation(linear, ONES, W, n_draws=0), InputError, "n_draws must be a positive"),
        (lambda: im.monotonicity_correlation(linear, ONES, W, replacement="x"), UnknownNameError, "rows of data"),
        (lambda: im.monotonicity_correlation(linear, ONES, W, replacement=torch.ones(2, 3)), InputError, "rows like"),
        (
            lambda: im.monotonicity_correlation(linear, ONES.long(), W),
            InputTypeError,
            "int64, which new values do not fit",
        ),
        (lambda: im.map_infidelity(linear, ONES, W, perturb="blocks"), UnknownNameError, "perturb"),
        (lambda: im.map_infidelity(linear, MIXED, W, sd=0), InputError, "sd must be a positive number"),
        (lambda: im.map_infidelity(linear, MIXED, W, n_perturb_samples=0), InputError, "n_perturb_samples must be"),
        (lambda: im.map_infidelity(plane, plane(), plane().sum(1)), InputError, "do not fit inputs"),
        (lambda: im.prediction_gap(linear, MIXED, W, n_draws=0), InputError, "n_draws must be"),
        (lambda: im.road(linear, ONES, W), InputError, "filled in from their neighbours in pictures"),
        (lambda: im.road(plane, plane(), plane(), percentages=(0,)), InputError, "percentages must be numbers"),
        (lambda: im.road(plane, plane(), plane(), percentages=(20, 10)), InputError, "must ascend"),
        (lambda: im.road(plane, plane(), plane(), order="first"), UnknownNameError, "order"),
        (lambda: im.road(plane, plane(), plane(), measure="loss"), UnknownNameError, "measure"),
        (lambda: im.road(plane, plane(), plane(), sd=-1), InputError, "sd must be a share"),
        (lambda: im.sic(linear, ONES, W), InputError, "Information is that of pictures"),
        (lambda: im.aic(plane, plane(), plane(), steps=0), InputError, "steps must be"),
        (lambda: im.sufficiency_classes(lambda v: v, SAME, ALIKE, alike=2), InputError, "alike must be a cosine"),
        (lambda: im.consistency_classes(lambda v: v, SAME, ALIKE, k=0), InputError, "k must be an int"),
    ],
)
def test_what_is_refused(call, error, text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize(
    ("name", "maps", "model", "text"),
    [
        ("faithfulness_correlation", W, lambda x: 0 * x.sum(1), "the score is the same without every subset"),
        ("faithfulness_correlation", 0.3 * ONES, linear, "the map's sums over the subsets are all the same"),
        ("sensitivity_n", 0.3 * ONES, linear, "the map's sums over the subsets are all the same"),
        ("sensitivity_n", W, lambda x: 0 * x.sum(1), "the score is the same without every subset"),
        ("monotonicity_correlation", ONES, linear, "all sizes of the map are equal"),
        ("infidelity", W, linear, "the sample is constant: noise of its spread is none"),
        ("prediction_gap", W, linear, "the sample is constant: noise of its spread is none"),
        ("average_drop", ONES, fifth, "the map is constant"),
        ("average_drop", W, lambda x: 0 * x.sum(1), "the clean score is 0"),
        ("average_gain", W, linear, "the score is no probability"),
    ],
)
def test_what_is_undefined_says_why(name: str, maps: Tensor, model, text: str) -> None:
    inputs = torch.tensor([[1.0, 2.0, 3.0, 4.0]]) if name == "monotonicity_correlation" else ONES
    assert im.metric(name).of(maps, model=model, inputs=inputs).undefined == {text: 1}
